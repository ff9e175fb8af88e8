"""What a forward and backward of a micro-batch takes: counted while the model itself computes it, on fake tensors.

So it is right for whatever a family computes and whatever is frozen, and no formula has to follow. Compared with measured peaks
by `python -m bench.memory`, and with those of an H100 (bench/results/gpu.json) by tests.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import isqrt
from typing import Any

import torch
from torch import nn

from vlrl.config import LoraConfig
from vlrl.memory.live_bytes import FakeTensors, LiveBytes
from vlrl.memory.shortened import shortened
from vlrl.models.attention import GroupSizes
from vlrl.models.checkpoint_io import make_trainable, model_without_weights
from vlrl.models.config_json import family_of
from vlrl.models.kernels import counted_for
from vlrl.models.lora import add_adapters
from vlrl.models.packed_model import PackedModel, token_scores
from vlrl.models.packing import Pack, pack_groups
from vlrl.models.processor import EncodedPrompt
from vlrl.models.sizes import ModelSizes

_WHOLE_NUMBERS = ("tokens", "positions", "grid", "predictors", "targets", "sequence")


@dataclass(frozen=True, kw_only=True, slots=True)
class Activations:
    """What micro-batches take of a device's memory beside weights and gradients that are there before. device: cpu or cuda."""

    sizes: ModelSizes
    dtype: torch.dtype
    checkpointing: bool
    freeze_vision: bool
    device: str
    lora: LoraConfig | None = None

    def peak(self, groups: Sequence[GroupSizes], patches: int = 0) -> int:
        """Bytes at the peak of a micro-batch of these groups, each with an image of `patches` patches.

        Of many layers only some are computed (see `shortened`): each other one saves as much as one of its kind.
        """
        short = shortened(self.sizes.config)
        vision, text, blocks, layers = _counted(self, tuple(groups), patches)
        vision_saved = short.blocks * (blocks[1] - blocks[0]) if short.blocks else 0
        text_saved = short.periods * (layers[-1] - layers[-1 - short.period])
        return vision_saved + max(vision, text + text_saved)


@cache
def _counted(costs: Activations, groups: tuple[GroupSizes, ...], patches: int) -> tuple[int, int, list[int], list[int]]:
    """The peaks while the vision tower computes and while the language model does, in both directions; and the bytes that are
    saved after each block of the tower, and before the language model's first layer and after each layer."""
    config = shortened(costs.sizes.config).config
    pack = _pack(config, groups, patches)
    qwen = model_without_weights(config, costs.dtype)
    make_trainable(qwen, freeze_vision=costs.freeze_vision, gradient_checkpointing=costs.checkpointing)
    if costs.lora:
        add_adapters(qwen, costs.lora)
    with counted_for(costs.device), FakeTensors(allow_non_fake_inputs=True) as fake:
        _take_fake_weights(qwen)
        model = PackedModel(qwen, temperature=1.0, banned=[])
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter) if parameter.requires_grad else None
        return _run(model, _fake_pack(fake, qwen, pack), LiveBytes(costs.device))


def _take_fake_weights(qwen: Any) -> None:
    """In place of those on torch's meta device."""
    for module in qwen.modules():
        for name, weight in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(torch.empty_like(weight, device="cpu"), requires_grad=weight.requires_grad))
    qwen.tie_weights()


def _run(model: PackedModel, pack: Pack, live: LiveBytes) -> tuple[int, int, list[int], list[int]]:
    """A forward and backward; see `_counted`."""
    peaks = {"vision": 0, "text": 0}
    saved_by_blocks: list[int] = []
    saved: list[int] = []
    part = "vision"

    def enter(next_part: str) -> None:
        nonlocal part
        peaks[part] = max(peaks[part], live.peak)
        live.restart()
        part = next_part

    def begin(_: object, args: tuple[torch.Tensor, ...]) -> None:
        enter("text")
        saved.append(live.now)
        if args[0].requires_grad:
            args[0].register_hook(lambda _: enter("vision"))

    layers = model.qwen.model.language_model.layers
    hooks = [layers[0].register_forward_pre_hook(begin)]
    hooks += [layer.register_forward_hook(lambda *_: saved.append(live.now)) for layer in layers]
    blocks = model.qwen.model.visual.blocks
    hooks += [block.register_forward_hook(lambda *_: saved_by_blocks.append(live.now)) for block in blocks]
    with live:
        scores = token_scores(pack, model(pack), {})
        for hook in hooks:
            hook.remove()  # backward computes layers again
        scores.zero.backward()
    enter("vision")
    return peaks["vision"], peaks["text"], saved_by_blocks, saved


def _fake_pack(fake: FakeTensors, qwen: Any, pack: Pack) -> Pack:
    """The pack on fake tensors, with pixels of the width that the model takes."""
    width = qwen.get_submodule(family_of(qwen.config.model_type).patch_embedding).weight[0].numel()
    whole: dict[str, Any] = {name: fake.whole_numbers(getattr(pack, name)) for name in _WHOLE_NUMBERS}
    return replace(pack, pixels=torch.empty(len(pack.pixels), width), **whole)


def _pack(config: Any, groups: Sequence[GroupSizes], patches: int) -> Pack:
    """A row of these groups, each with a nearly square image of about `patches` patches."""
    filler = _prompt(config, 0, 1)
    return pack_groups([(_prompt(config, prompt, patches), [[0] * size for size in sizes]) for prompt, sizes in groups], filler)


def _prompt(config: Any, size: int, patches: int) -> EncodedPrompt:
    """A prompt of at least its image's tokens."""
    merge = config.vision_config.spatial_merge_size
    rows = max(1, isqrt(patches // merge**2)) if patches else 0
    columns = max(1, round(patches / merge**2 / rows)) if patches else 0
    image = [config.image_token_id] * (rows * columns)
    tokens = torch.tensor([*image, *[0] * max(1, size - len(image))])
    return EncodedPrompt(
        tokens=tokens,
        positions=torch.arange(len(tokens)).expand(3, -1),
        next_position=len(tokens),
        pixels=torch.empty(merge**2 * len(image), 0),
        grid=torch.tensor([[1, merge * rows, merge * columns]])[: bool(patches)],
        image_keys=(),
        image_spans=(),
    )
