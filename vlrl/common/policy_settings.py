"""The trained model: under DeepSpeed, with adapters, and in the engine that samples."""

from typing import Annotated, Any, Literal

from pydantic import Field

from vlrl.common.settings import Count, Positive, Section, Share

AdapterTarget = Literal["attention", "mlp", "gdn", "experts", "merger", "vision"]
TARGETS_WITHOUT_SERVING = frozenset({"experts", "merger", "vision"})
"""Targets of LoRA whose adapters vLLM can't apply, or not in every model that vlrl trains."""


class PolicyConfig(Section):
    """The trained model under DeepSpeed.

    dtype: the type of the weights and the forward on the device; the optimizer keeps fp32 weights in any case. float32 for a
    tiny model, or to rule rounding out.
    lr: the peak learning rate of AdamW; halve it if a task's reward collapses.
    betas, eps, weight_decay: as AdamW has them.
    warmup_steps: updates in which the rate rises linearly; a step has algorithm.minibatches of them.
    min_lr_ratio: the share of `lr` that is left at the last update, after a linear decay.
    max_tokens_per_micro_batch: prompts and responses in one forward and backward; auto: as many as fit in memory, and each
    patch of an image counts as the share of a token that it is measured to need.
    gradient_clipping: the largest norm of an update's gradient.
    zero_stage: what DeepSpeed shards over ranks: nothing, optimizer states (1), gradients too (2), weights too (3); take the
    lowest with which `vlrl plan --memory` fits.
    offload_optimizer: keeps the fp32 weights and the optimizer's moments in host memory, and makes its steps there.
    expert_parallel: for MoE models, the number of ranks that share each layer's experts (DeepSpeed's AutoEP).
    gradient_checkpointing: computes activations again in the backward, which takes more time and much less memory.
    freeze_vision: leaves the vision tower as it is.
    deepspeed: settings that are merged over DeepSpeed's configuration as vlrl makes it, for what has no setting here.
    """

    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    lr: Positive = 1.0e-6
    betas: tuple[Share, Share] = (0.9, 0.95)
    eps: Positive = 1.0e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    min_lr_ratio: Share = 1.0
    gradient_clipping: Positive = 1.0
    zero_stage: Literal[0, 1, 2, 3] = 2
    max_tokens_per_micro_batch: Count | Literal["auto"] = "auto"
    offload_optimizer: bool = False
    expert_parallel: Count = 1
    gradient_checkpointing: bool = False
    freeze_vision: bool = False
    deepspeed: dict[str, Any] = {}


class LoraConfig(Section):
    """Trains low-rank adapters, the product of two thin matrices beside each targeted weight, instead of the weights themselves.

    rank: the inner size of the product. alpha: the product is multiplied by alpha / rank. targets: the parts whose linear layers
    get adapters; if left out, those of attention, mlp and gdn (Gated DeltaNet) that the model has.
    sync: how the engine gets the adapters. adapter: as adapters of its own; merged: added to the weights that they belong to;
    auto: as vlrl.rollout.weight_sync chooses.
    """

    rank: Count
    alpha: Count = 32
    targets: tuple[AdapterTarget, ...] | None = Field(default=None, min_length=1)
    sync: Literal["auto", "adapter", "merged"] = "auto"


class EngineConfig(Section):
    """The vLLM engine.

    tensor_parallel: neighbouring ranks that share an engine, or the processes of a separate one; more than 1 if its weights are
    too large for one GPU.
    max_model_len: tokens of the longest prompt with its images and its response together; lower it to save memory.
    gpu_memory_utilization: the engine's share of a GPU's memory; raise it for more responses at a time, lower it if the trainer
    runs out.
    kv_cache_gb: GiB of keys and values on a CPU; on a GPU gpu_memory_utilization decides.
    sleep: frees the engine's memory on a GPU while the policy trains; false saves the time of waking it, if both fit.
    canary_every: steps between checks that engine and trainer give the same log-probs; with 0 they are compared only at a start.
    canary_tolerance: the difference that stops the run, as a multiple of the one at start.
    vllm: arguments that are merged over those that vlrl gives vLLM, for what has no setting here.
    """

    tensor_parallel: Count = 1
    max_model_len: Count = 8192
    gpu_memory_utilization: Share = 0.5
    kv_cache_gb: Positive = 1.0
    sleep: bool = True
    canary_every: Annotated[int, Field(ge=0)] = 1
    canary_tolerance: Positive = 5.0
    vllm: dict[str, Any] = {}
