"""How many parameters a model's parts have."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from vlrl.config import LoraConfig
from vlrl.models.config_json import family_of
from vlrl.models.lora import adapter_parameters


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ModelSizes:
    """Parameters by part. They add up to `total`, but for the adapters: LoRA's, all that is then trained, or 0 without LoRA.

    head: 0 if it is the embedding. largest_block: the most parameters that ZeRO-3 gathers at once, and that a weight sync sends
    at once. config: transformers' config of the model.
    """

    layers: int
    experts: int
    embedding: int
    head: int
    vision: int
    largest_block: int
    config: Any
    adapters: int = 0

    @property
    def total(self) -> int:
        return self.layers + self.experts + self.embedding + self.head + self.vision

    @classmethod
    def of(cls, model: Any, lora: LoraConfig | None = None) -> "ModelSizes":
        """model: transformers' module, best on torch's meta device, where it has no weights (see tensor_check.empty_model).

        lora: the settings of adapters, to be counted too.
        """
        family = family_of(model.config.model_type)
        parts: Counter[str] = Counter()
        blocks: Counter[str] = Counter()
        for name, parameter in model.named_parameters():
            parts[_part(name, family.vision_tower, family.tied_weights)] += parameter.numel()
            blocks[block_of(name)] += parameter.numel()
        return cls(
            **{name: parts[name] for name in ("layers", "experts", "embedding", "head", "vision")},
            largest_block=max(blocks.values()),
            adapters=adapter_parameters(model, lora) if lora else 0,
            config=model.config,
        )


def _part(name: str, vision_tower: str, tied_weights: tuple[str, str]) -> str:
    if name.startswith(f"{vision_tower}."):
        return "vision"
    if name in tied_weights:
        return ("embedding", "head")[tied_weights.index(name)]
    return "experts" if ".experts." in name else "layers"


def block_of(name: str) -> str:
    """The block of a layer that a parameter belongs to, else its module.

    >>> block_of("model.language_model.layers.3.self_attn.q_proj.weight"), block_of("model.language_model.norm.weight")
    ('model.language_model.layers.3.self_attn', 'model.language_model.norm')
    """
    parts = name.split(".")
    number = next((place for place, part in enumerate(parts) if part.isdigit()), None)
    return name.rpartition(".")[0] if number is None else ".".join(parts[: number + 2])
