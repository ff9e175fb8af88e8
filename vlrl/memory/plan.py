"""What a run will hold in memory, phase by phase, on each GPU and each host, from its run file and its model's config alone.

Ranks are alike, so the plan is of one of them. Parts that are known exactly (weights, optimizer, gradients, the engine's share)
decide whether a run is refused; with those that are estimated (activations, what is gathered and on its way between ranks, what
CUDA and vLLM take besides) it can only be tight.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

from vlrl.config import Config
from vlrl.memory.activations import Activations
from vlrl.memory.states import States, states, width
from vlrl.models.attention import GroupSizes
from vlrl.models.families.qwen_vl import head_width
from vlrl.models.sizes import ModelSizes

GIB = 1 << 30
# Estimates. vLLM's are of a prefill of max_num_batched_tokens, its sampler and its CUDA graphs.
_DRIVER, _ENGINE_WORKSPACE, _PROCESS = 3 * GIB // 2, 4 * GIB, 3 * GIB
_SYNC_BUCKET = 512 << 20
_SENT_BUCKET = 256 << 20
_PROMPT_TEXT = 512  # tokens of a typical prompt beside its image
_MICRO_BATCH_SHARE = 0.8  # as in vlrl.trainer.token_budget
# The engine's whole share is exact, though not how much of it is its workspace.
ESTIMATED = (
    "gathered layers",
    "gradients between ranks",
    "activations",
    "CUDA and NCCL",
    "copies",
    "processes",
)

Bytes = dict[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """hosts of ranks_per_host ranks each; on GPUs memory is one GPU's, on CPUs one host's. host_memory: None if unknown."""

    device: str
    ranks_per_host: int
    hosts: int
    memory: int
    host_memory: int | None = None

    @property
    def ranks(self) -> int:
        return self.ranks_per_host * self.hosts

    @property
    def on_gpus(self) -> bool:
        return self.device == "cuda"

    @property
    def memory_of_rank(self) -> int:
        return self.memory if self.on_gpus else self.memory // self.ranks_per_host


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """The plan of a run on a machine."""

    config: Config
    sizes: ModelSizes
    machine: Machine

    @cached_property
    def states(self) -> States:
        return states(self.config.policy, self.sizes, self.machine.ranks)

    @cached_property
    def activations(self) -> Activations:
        policy = self.config.policy
        return Activations(
            sizes=self.sizes,
            dtype=torch.float32 if policy.dtype == "float32" else torch.bfloat16,
            checkpointing=policy.gradient_checkpointing,
            freeze_vision=policy.freeze_vision,
            device=self.machine.device,
            lora=self.config.lora,
        )

    @cached_property
    def phases(self) -> dict[str, Bytes]:
        """Bytes of a rank by phase, then by part; parts of the same name are the same memory."""
        states, engine = self.states, {} if self._engine_is_elsewhere else self.engine
        always = {**states.kept, "reference": self._reference} | ({"CUDA and NCCL": _DRIVER} if self.machine.on_gpus else {})
        asleep = {} if self.machine.on_gpus and self.config.engine.sleep else engine
        training = always | asleep | {"gradients": states.gradients, "gradients between ranks": states.bucket}
        micro = {
            "gathered layers": states.gathered,
            "activations": self.activations.peak([self._row(self.smallest[0])], self.smallest[1]),
        }
        return {
            "loading": always | {"optimizer": 0, "gradients": 0, "gathered layers": self._loading},
            "micro-batch": training | micro,
            "optimizer step": always | asleep | {"gradients": states.gradients, "copies": states.step},
            "sampling": always | engine,
            "weight sync": always | engine | {"copies": self._synced},
        }

    @property
    def needed(self) -> int:
        """The most bytes of a rank in any phase."""
        return max(sum(parts.values()) for parts in self.phases.values())

    @property
    def host(self) -> Bytes:
        """Bytes of a host's memory, beside those of `phases` on CPUs."""
        if not self.machine.on_gpus:
            return {}
        each = {
            "processes": _PROCESS,
            "offloaded optimizer": self.states.offloaded,
            "sleeping engine": self.engine_weights if self.config.engine.sleep and not self._engine_is_elsewhere else 0,
            "weights sent last": self.sizes.total * width(self.config.policy) if self._engine_is_elsewhere else 0,
        }
        return {name: size * self.machine.ranks_per_host for name, size in each.items()}

    @property
    def _engine_is_elsewhere(self) -> bool:
        """Whether it has a device of its own: a separate one on GPUs, or on other hosts."""
        return self.config.rollout.is_separate and (self.machine.on_gpus or bool(self.config.rollout.hosts))

    @property
    def replicas(self) -> int:
        """Engines with devices of their own; each takes engine.tensor_parallel of them."""
        rollout = self.config.rollout
        return (len(rollout.hosts) or rollout.replicas or self.machine.ranks) if self._engine_is_elsewhere else 0

    @property
    def engine(self) -> Bytes:
        """Bytes of an engine on its device. vLLM takes gpu_memory_utilization of a GPU, whatever else is in it; on CPUs its cache
        has kv_cache_gb."""
        settings = self.config.engine
        if not self.machine.on_gpus:
            return {"engine's weights": self.engine_weights, "KV cache": int(settings.kv_cache_gb * GIB)}
        kv = int(settings.gpu_memory_utilization * self.machine.memory) - self.engine_weights - _ENGINE_WORKSPACE
        return {"engine's weights": self.engine_weights, "engine's workspace": _ENGINE_WORKSPACE, "KV cache": kv}

    @property
    def engine_weights(self) -> int:
        return self.sizes.total * width(self.config.policy) // self.config.engine.tensor_parallel

    @property
    def kv_token(self) -> int:
        """Bytes of one token's keys and values on a rank; beyond a rank for each key head, tensor parallelism copies them."""
        text = self.sizes.config.text_config
        heads = -(-text.num_key_value_heads // self.config.engine.tensor_parallel)
        return 2 * self._attention_layers * heads * head_width(text.to_dict()) * width(self.config.policy)

    @property
    def recurrent_state(self) -> int:
        """Bytes that a sequence of any length keeps on a rank: its recurrent layers' states, in fp32, and last inputs."""
        text = self.sizes.config.text_config
        layers = text.num_hidden_layers - self._attention_layers
        if not layers:
            return 0
        values, key_width = text.linear_num_value_heads * text.linear_value_head_dim, text.linear_key_head_dim
        inputs = (2 * text.linear_num_key_heads * key_width + values) * (text.linear_conv_kernel_dim - 1)
        return layers * (4 * values * key_width + inputs * width(self.config.policy)) // self.config.engine.tensor_parallel

    @property
    def kv_tokens(self) -> int:
        """Tokens whose keys and values an engine keeps at a time."""
        return max(0, self.engine["KV cache"]) // self.kv_token

    def sequences(self, tokens: int) -> int:
        """How many sequences of this number of tokens an engine keeps at a time."""
        return max(0, self.engine["KV cache"]) // (tokens * self.kv_token + self.recurrent_state)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence that the run may sample."""
        return self.config.engine.max_model_len

    @property
    def typical(self) -> int:
        """Tokens of a sequence with one full image and half of sampling.max_new_tokens."""
        return min(self.longest, _PROMPT_TEXT + self._image[0] + self.config.sampling.max_new_tokens // 2)

    @property
    def smallest(self) -> tuple[int, int]:
        """Tokens and patches of the smallest micro-batch that the run must compute: the longest response with a full image, or
        max_tokens_per_micro_batch."""
        tokens, patches = self._image
        responses = [self.config.max_new_tokens(task) for task in self.config.mixture]
        asked = self.config.policy.max_tokens_per_micro_batch
        row = min(self.longest, _PROMPT_TEXT + tokens + max(responses))
        return (row if asked == "auto" else max(asked, row)), patches

    @property
    def micro_batch_tokens(self) -> int:
        """About the tokens of text that max_tokens_per_micro_batch: auto will find; 0 if not even the smallest fits."""
        parts = self.phases["micro-batch"]
        room = int(_MICRO_BATCH_SHARE * (self.machine.memory_of_rank - sum(parts.values()) + parts["activations"]))
        size = self.smallest[0]
        one, two = (self.activations.peak([self._row(size)] * number) for number in (1, 2))
        return size + (room - one) * size // (two - one) if room >= parts["activations"] else 0

    def _row(self, size: int) -> GroupSizes:
        """A prompt of typical length, with its image, and one response, together `size` tokens."""
        prompt = min(size - 1, _PROMPT_TEXT + self._image[0])
        return prompt, (size - prompt,)

    @property
    def _attention_layers(self) -> int:
        """Layers that keep keys and values; the recurrent ones keep a state of a fixed size."""
        text = self.sizes.config.text_config
        kinds = getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers
        return sum("attention" in kind and "linear" not in kind for kind in kinds)

    @property
    def _image(self) -> tuple[int, int]:
        """Tokens and patches of the largest image."""
        vision = self.sizes.config.vision_config
        patches = self.config.images.max_pixels // vision.patch_size**2
        return patches // vision.spatial_merge_size**2, patches

    @property
    def _reference(self) -> int:
        """The frozen starting model of the KL term; sharded under ZeRO-3. With LoRA it is the model without its adapters."""
        if self.config.lora or not (self.config.algorithm.kl_coefficient or self.config.rollback.kl_coefficient):
            return 0
        size = self.sizes.total * width(self.config.policy)
        return size // self.machine.ranks if self.config.policy.zero_stage == 3 else size

    @property
    def _loading(self) -> int:
        """Beside the weights that stay: a block at a time under ZeRO-3, else the weights once more, from which DeepSpeed makes
        its own."""
        wide = width(self.config.policy)
        return (self.sizes.largest_block if self.config.policy.zero_stage == 3 else self.sizes.total) * wide

    @property
    def _synced(self) -> int:
        """A bucket of gathered weights, and the layer that vLLM is loading, or the copy that goes to other GPUs."""
        block = self.sizes.largest_block * width(self.config.policy)
        gathered = max(_SYNC_BUCKET, block) if self.config.policy.zero_stage == 3 else 0
        if self._engine_is_elsewhere:
            return gathered + max(_SENT_BUCKET, block)
        return gathered + block // self.config.engine.tensor_parallel


@dataclass(frozen=True, kw_only=True, slots=True)
class Shortage:
    """Memory that is short. place: a phase, "engine" or "host"; what: what needs it. certain: parts that are known exactly are
    enough to say so."""

    place: str
    what: str
    needed: int
    available: int
    certain: bool

    @property
    def sentence(self) -> str:
        return f"{self.what} needs {self.needed / GIB:.1f} GiB and has {self.available / GIB:.1f}"


def shortages(plan: MemoryPlan) -> list[Shortage]:
    """What is short, the certain first."""
    found = [*_short_phases(plan), *_short_engine(plan), *_short_host(plan)]
    return sorted(found, key=lambda shortage: (not shortage.certain, -shortage.needed))


def _short_phases(plan: MemoryPlan) -> Iterator[Shortage]:
    room = plan.machine.memory_of_rank
    unit = "each GPU" if plan.machine.on_gpus else "each rank"
    for phase, parts in plan.phases.items():
        known = {name: size for name, size in parts.items() if name not in ESTIMATED}
        if not plan.machine.on_gpus:
            known.pop("KV cache", None)  # its pages are taken when they are used
        certain = sum(known.values()) > room
        needed = sum((known if certain else parts).values())
        if needed > room:
            largest = max(known, key=lambda name: known[name])
            what = f"{phase} on {unit}, most of it for {largest},"
            yield Shortage(place=phase, what=what, needed=needed, available=room, certain=certain)


def _short_engine(plan: MemoryPlan) -> Iterator[Shortage]:
    if not plan.machine.on_gpus:
        return
    share = int(plan.config.engine.gpu_memory_utilization * plan.machine.memory)
    known = plan.engine_weights + plan.longest * plan.kv_token + plan.recurrent_state
    certain = known > share
    needed = known if certain else known + _ENGINE_WORKSPACE
    if needed > share:
        what = f"the engine, for its weights and one sequence of {plan.longest} tokens in its share of each GPU,"
        yield Shortage(place="engine", what=what, needed=needed, available=share, certain=certain)


def _short_host(plan: MemoryPlan) -> Iterator[Shortage]:
    room = plan.machine.host_memory
    known = sum(size for name, size in plan.host.items() if name not in ESTIMATED)
    certain = room is not None and known > room
    needed = known if certain else sum(plan.host.values())
    if room is not None and needed > room:
        yield Shortage(
            place="host", what="what the ranks of each host keep in its memory", needed=needed, available=room, certain=certain
        )
