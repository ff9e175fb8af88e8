"""LoRA by peft: adapters in a model, how large they are, the weights that they add up to, and their files.

peft wraps a targeted layer, and the layer's own weight moves below `base_layer`. It wraps a module of fused experts once for each
of its parameters, one wrapper in the other. No wrapper is around the model itself. What leaves the trainer has the names that
transformers gives to weights, or peft to the adapters in a file.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor

from vlrl.common.policy_settings import AdapterTarget, LoraConfig
from vlrl.models.config_json import family_of

Shape = tuple[int, ...]

_BY_DEFAULT = ("attention", "mlp", "gdn")
_NAME = "default"  # peft's, of the only adapter
_SEED = 0
_PEFTS_OWN = re.compile(rf"\.base_layer|\.lora_[AB]\.{_NAME}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapter:
    """The names of an adapted weight's two factors; scaling * B @ A is added to the weight.

    For fused experts A is [experts * rank, in] and B is [out, rank * experts], as peft has them.
    """

    a: str
    b: str
    scaling: float


def targeted_weights(model: Any, settings: LoraConfig) -> dict[str, dict[str, Shape]]:
    """By target, the names and shapes of the weights that get an adapter: [out, in], or [experts, out, in] for fused experts.

    model: transformers' module, also on torch's meta device. A target that the settings name and the model lacks has none.
    """
    family = family_of(model.config.model_type)
    found: dict[str, dict[str, Shape]] = {}
    for target in settings.targets or _BY_DEFAULT:
        if target == "experts":
            ends = family.experts.adapter_parameters if family.experts else ()
            found[target] = {name: _shape(each) for name, each in model.named_parameters() if name.endswith(ends)}
        else:
            pattern = re.compile(family.adapter_targets[target])
            modules = {name: module for name, module in model.named_modules() if pattern.fullmatch(name)}
            found[target] = {f"{name}.weight": _shape(module.weight) for name, module in modules.items()}
    return found if settings.targets else {target: weights for target, weights in found.items() if weights}


def adapter_parameters(model: Any, settings: LoraConfig) -> int:
    """How many parameters the adapters have: all that the run trains. model: as for `targeted_weights`."""
    shapes = [shape for weights in targeted_weights(model, settings).values() for shape in weights.values()]
    return sum(settings.rank * prod(shape[:-2]) * (shape[-2] + shape[-1]) for shape in shapes)


def lora_faults(model: Any, settings: LoraConfig) -> Iterator[str]:
    """A sentence for a target that the model lacks, and for a rank above a layer's size. model: as for `targeted_weights`."""
    targeted = targeted_weights(model, settings)
    if lacking := [target for target, weights in targeted.items() if not weights]:
        every = targeted_weights(model, settings.model_copy(update={"targets": get_args(AdapterTarget)}))
        there = ", ".join(target for target, weights in every.items() if weights)
        yield f"lora.targets: {lacking[0]!r} is not a part of this {model.config.model_type!r}; it has {there}"
    sides = {name: min(shape[-2:]) for weights in targeted.values() for name, shape in weights.items()}
    thinnest = min(sides, key=sides.__getitem__, default="")
    if thinnest and settings.rank > sides[thinnest]:
        yield (
            f"lora.rank: {settings.rank} is above {sides[thinnest]}, the smaller side of {thinnest}; "
            f"use {sides[thinnest]} or less"
        )


def add_adapters(model: Any, settings: LoraConfig) -> None:
    """Freezes the model and puts adapters into it, the same ones in every process. B is 0: the model computes what it did."""
    from peft import inject_adapter_in_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        inject_adapter_in_model(_peft_config(model, settings), model)


def adapters_of(model: Any) -> dict[str, Adapter]:
    """Each adapted weight's adapter, by the weight's name in transformers; empty for a model without adapters."""
    found = {}
    for name, module in model.named_modules():
        if _NAME in getattr(module, "lora_A", ()):
            weight = f"{plain_name(name)}.{getattr(module, 'parameter_name', 'weight')}"
            a, b = (f"{name}.lora_{factor}.{_NAME}.weight" for factor in "AB")
            found[weight] = Adapter(a=a, b=b, scaling=module.scaling[_NAME])
    return found


def plain_name(name: str) -> str:
    """The name that transformers has for a weight; for a factor of an adapter, that of its layer's weight.

    >>> plain_name("model.language_model.layers.0.mlp.experts.base_layer.base_layer.down_proj")
    'model.language_model.layers.0.mlp.experts.down_proj'
    >>> plain_name("model.visual.merger.linear_fc1.lora_A.default.weight")
    'model.visual.merger.linear_fc1.weight'
    """
    return _PEFTS_OWN.sub("", name)


def is_adapter(name: str) -> bool:
    """Whether a parameter is a factor of an adapter."""
    return ".lora_" in name


def merged(named: Iterable[tuple[str, Tensor]], adapters: Mapping[str, Adapter]) -> Iterator[tuple[str, Tensor]]:
    """The weights alone, under transformers' names, each with its adapter added to it.

    named: parameters of whole blocks, so that a weight's factors are among them. The sum is computed in fp32 and rounded once;
    it is a new tensor, and the model keeps its own.
    """
    if not adapters:
        yield from named
        return
    held = dict(named)
    for name, weight in held.items():
        if is_adapter(name):
            continue
        adapter = adapters.get(plain_name(name))
        if adapter is None:
            yield plain_name(name), weight
        else:
            change = _product(held[adapter.a].float(), held[adapter.b].float(), weight.shape)
            yield plain_name(name), change.mul_(adapter.scaling).add_(weight).to(weight.dtype)


def set_adapters_aside(model: Any, *, aside: bool) -> None:
    """Lets the model compute without its adapters, or with them again.

    Their layers still run, times 0: under ZeRO-3 DeepSpeed expects the same modules in every pass.
    """
    from peft.tuners.lora import LoraLayer

    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.set_scale(_NAME, 0.0 if aside else 1.0)


def in_peft_format(named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """The adapters' factors under the names that peft gives them in a file. named: a model's parameters."""
    return {f"base_model.model.{name.replace(f'.{_NAME}.', '.')}": tensor for name, tensor in named if is_adapter(name)}


def save_adapter(model: Any, tensors: Mapping[str, Tensor], folder: Path, *, base: str) -> None:
    """Writes a folder that peft's PeftModel.from_pretrained and vLLM load.

    tensors: see `in_peft_format`; base: the folder or hub name of the model that the adapters belong to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: each.detach().cpu().contiguous().clone() for name, each in tensors.items()}, folder / "adapter_model.safetensors"
    )
    config = copy(model.peft_config[_NAME])
    config.base_model_name_or_path = base
    config.save_pretrained(folder)


def _peft_config(model: Any, settings: LoraConfig) -> Any:
    import peft

    family = family_of(model.config.model_type)
    targets = list(targeted_weights(model, settings))
    patterns = [family.adapter_targets[target] for target in targets if target != "experts"]
    experts = family.experts.adapter_parameters if family.experts and "experts" in targets else ()
    return peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=0.0,
        bias="none",
        target_modules="|".join(f"({pattern})" for pattern in patterns) or None,
        target_parameters=list(experts) or None,
    )


def _product(a: Tensor, b: Tensor, shape: torch.Size) -> Tensor:
    """B @ A in the shape of the weight."""
    if len(shape) == 2:
        return b @ a
    experts, out, into = shape
    return torch.einsum("ore,eri->eoi", b.view(out, -1, experts), a.view(experts, -1, into))


def _shape(weight: Any) -> Shape:
    return tuple(getattr(weight, "ds_shape", weight.shape))
