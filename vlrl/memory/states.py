"""What DeepSpeed keeps of a model on each rank, by ZeRO stage: weights, optimizer and gradients.

Read in the sources of DeepSpeed 0.19 (runtime/zero/stage_1_and_2.py, stage3.py, bf16_optimizer.py) and compared with measured
memory by `python -m bench.memory`.
"""

from dataclasses import dataclass

from vlrl.config import PolicyConfig
from vlrl.models.sizes import ModelSizes

MASTER = 4  # bytes a parameter: fp32 weights that the optimizer updates
MOMENTS = 8  # Adam's two, in fp32
_REDUCE_BUCKET = 500_000_000  # DeepSpeed's defaults, in elements
_LIVE_PARAMETERS = 1_000_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class States:
    """Bytes of one rank.

    weights, optimizer: from the start or the first step on. gradients: while micro-batches add to them. bucket: gradients on
    their way between ranks. keeps_gradients, keeps_bucket: their memory stays between steps. gathered: whole weights of a pass
    under ZeRO-3. step: on top, while the optimizer steps. offloaded: what offload_optimizer keeps in the host's memory.
    """

    weights: int
    optimizer: int
    gradients: int
    keeps_gradients: bool
    bucket: int
    keeps_bucket: bool
    gathered: int
    step: int
    offloaded: int

    @property
    def kept(self) -> dict[str, int]:
        """What stays in the device's memory between steps, by name."""
        return {
            "weights": self.weights,
            "optimizer": self.optimizer,
            "gradients": self.gradients if self.keeps_gradients else 0,
            "gradients between ranks": self.bucket if self.keeps_bucket else 0,
        }


def width(settings: PolicyConfig) -> int:
    """Bytes of a weight."""
    return 4 if settings.dtype == "float32" else 2


def accumulated_width(settings: PolicyConfig) -> int:
    """Bytes of an accumulated gradient: micro-batches are summed in fp32, unless the deepspeed block says otherwise."""
    return 2 if settings.deepspeed.get("data_types", {}).get("grad_accum_dtype") in ("bf16", "bfloat16") else 4


def states(settings: PolicyConfig, sizes: ModelSizes, ranks: int) -> States:
    """One rank's states. What is frozen has weights only: a frozen vision tower, or with LoRA all but the adapters."""
    stage, wide, accumulated = settings.zero_stage, width(settings), accumulated_width(settings)
    total = sizes.total + sizes.adapters
    trained = sizes.adapters or sizes.total - (sizes.vision if settings.freeze_vision else 0)
    # Experts that ranks share: each has a part of them, and those who have the same part share its optimizer.
    elsewhere = sizes.experts - sizes.experts // settings.expert_parallel
    here, trained_here = total - elsewhere, trained - elsewhere
    shared = ranks if stage else 1
    share = -(-trained // shared)
    optimizer = share * (MOMENTS + (MASTER if stage else 0))
    # DeepSpeed's offload keeps fp32 gradients with the optimizer, and from stage 2 on sums them there.
    offloaded = optimizer + share * (MASTER + (accumulated if stage > 1 else 0)) if settings.offload_optimizer else 0
    # Stage 1 sums whole gradients, stages 2 and 3 a rank's share. With fp32 sums of bfloat16 gradients stage 1 is BF16_Optimizer,
    # which keeps the sums and makes whole gradients beside them.
    summed = {0: trained_here, 1: trained_here, 2: share, 3: share}[stage]
    is_bf16_optimizer = stage == 1 and accumulated > wide and not offloaded
    elements = trained_here if is_bf16_optimizer else _zero(settings).get("reduce_bucket_size", _REDUCE_BUCKET)
    live = min(total, _zero(settings).get("stage3_max_live_parameters", max(_LIVE_PARAMETERS, 3 * sizes.largest_block)))
    return States(
        weights=(total // ranks if stage == 3 else here) * wide,
        optimizer=0 if offloaded else optimizer,
        gradients=0 if offloaded and stage > 1 else summed * accumulated,
        keeps_gradients=stage == 3 or is_bf16_optimizer,
        bucket=min(elements, trained_here) * wide if stage else 0,
        keeps_bucket=stage == 3,
        gathered=live * wide if stage == 3 else 0,
        step=0 if offloaded or not stage else 2 * share * MASTER,  # fp32 gradients, and the weights as they were (policy/change)
        offloaded=offloaded,
    )


def _zero(settings: PolicyConfig) -> dict:
    return settings.deepspeed.get("zero_optimization", {})
