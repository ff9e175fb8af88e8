"""What a model family provides, so that all other code serves every family alike.

A family is one file beside this one that fills a Family, such as qwen3_vl.py, and its place in FAMILIES of config_json.py. A file
says what differs from its nearest relative, with dataclasses.replace. It is read before torch: torch, transformers and vLLM are
imported inside the functions that need them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vlrl.types import Convention

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Experts:
    """The facts of an MoE family's experts."""

    router_class: Callable[[], type[Any]]
    """Its modules' output is (logits, weights, chosen experts)."""
    sparse_block_class: Callable[[], type]
    """A block of router and experts."""
    expert_parallel: Mapping[str, Any]
    """How DeepSpeed finds the sparse blocks: a part of its expert_parallel settings."""
    adapter_parameters: tuple[str, ...] = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")
    """The ends of the names of the fused experts' parameters, [experts, out, in], that LoRA's target `experts` adapts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Windows:
    """The facts of a vision tower some of whose blocks attend within windows of an image only."""

    attentions: Callable[[Any], Sequence[Any]]
    """The vision tower to the attention modules of those blocks."""
    order: Callable[[Any, Sequence[Sequence[int]]], tuple[np.ndarray, list[int]]]
    """(vision_config, grid) to the order of merged patches in which a window's are together, and windows + 1 numbers: where each
    window ends, in patches, from 0 on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """The facts of a model family. Names of weights and modules are those of transformers' model."""

    model_type: str
    """The model_type of config.json."""

    # Prompts
    image_token: str
    """What the chat template writes for an image; the encoder repeats it, once for each image feature."""
    video_token: str
    end_token: str
    """Ends a response."""
    fit_image: Callable[[Image, int, int, int], Image]
    """(image, min_pixels, max_pixels, patch_size) to the image in a size that the vision tower takes. ValueError if none fits."""
    image_features: Callable[[Any, Sequence[Image]], tuple[Tensor, Tensor]]
    """(processor, fitted images) to pixels [patches, patch size] and grid [images, 3] in patches."""
    positions: Callable[[int, Sequence[tuple[int, int]], Tensor, int], tuple[Tensor, int]]
    """(length, image spans, grid, merge_size) to a prompt's positions [3, length] and the one after the last."""

    coordinates: Convention
    """How the model gives places in a picture. In pixels: of the image as fit_image made it."""

    # The trainer's model
    vision_tower: str
    patch_embedding: str
    """A convolution whose patches do not overlap."""
    part_of: Callable[[str], str]
    """The part that a parameter belongs to, for metrics: vision, merger, language or router."""
    released_layout: Callable[[str, Tensor], Tensor]
    """(name, parameter) to a view in the layout of released checkpoints; transformers undoes it when it loads them."""
    released_prefixes: Mapping[str, str] = field(default_factory=dict)
    """How names begin in transformers' model, to how they begin in released checkpoints, where the two differ."""
    tied_weights: tuple[str, str]
    """The embedding, and the head that shares its weights in some checkpoints."""
    unused_weights: tuple[str, ...] = ()
    """How names in checkpoints begin that transformers' model has no place for; a run neither reads nor exports them."""

    adapter_targets: Mapping[str, str]
    """LoRA's targets, but for experts, to a pattern of the full names of their linear layers; a model may lack some."""

    experts: Experts | None = None
    """None for a dense family."""
    recurrent_layer: Callable[[], type] | None = None
    """A layer that passes a state from token to token (Gated DeltaNet); None if all layers attend."""
    windows: Windows | None = None
    """None if every block of the vision tower sees the whole image."""

    flops: Callable[[Mapping[str, Any]], dict[str, float]]
    """config.json to the fields of vlrl.models.flops.Cost."""

    # vLLM
    engine_settings: Callable[[bool], dict[str, Any]] = lambda on_gpu: {}
    """(on a GPU) to the arguments of vLLM's LLM that this family needs there."""
    vllm_class: Callable[[], type]
    vllm_images: Callable[[Tensor, Tensor, int], Any]
    """(pixels, grid, merge_size) to the keyword arguments of its model, as vLLM's own processor would make them."""

    # Random models
    special_tokens: tuple[str, ...]
    chat_template: str
    config_class: Callable[[], type]
    make_processor: Callable[[Any, str], Any]
    """(tokenizer, chat template) to transformers' processor."""
    tiny_configs: Callable[[], tuple[dict[str, Any], dict[str, Any]]]
    """The text_config and vision_config of a model of about 1M parameters."""
    set_random: Callable[[str, Tensor], None] = lambda name, weight: None
    """(name, weight) changes a random weight in place where transformers' initialiser would not do for a test."""

    def released_name(self, name: str) -> str:
        """A parameter's name in the files of released checkpoints."""
        for ours, released in self.released_prefixes.items():
            if name.startswith(ours):
                return released + name.removeprefix(ours)
        return name

    def own_name(self, name: str) -> str:
        """The name that transformers has for a tensor of a checkpoint's files, which may have been written with either name."""
        if not name.startswith(tuple(self.released_prefixes)):
            for ours, released in self.released_prefixes.items():
                if name.startswith(released):
                    return ours + name.removeprefix(released)
        return name
