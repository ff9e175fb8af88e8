"""Qwen2.5-VL: what differs from Qwen3-VL.

Its vision tower takes patches of 14 pixels and has no deeper features for the language model, and all but a few of its blocks
attend within windows of an image. Released files have other names than transformers' modules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from vlrl.models.families import qwen3_vl, qwen_vl
from vlrl.models.families.family import Windows


def window_attentions(tower: Any) -> Sequence[Any]:
    return [block.attn for number, block in enumerate(tower.blocks) if number not in tower.fullatt_block_indexes]


def window_order(vision: Any, grid: Sequence[Sequence[int]]) -> tuple[np.ndarray, list[int]]:
    merge = vision.spatial_merge_size
    side = vision.window_size // vision.patch_size // merge  # of a window, in merged patches
    order: list[np.ndarray] = []
    ends, start = [0], 0
    for frames, height, width in grid:
        rows, columns = height // merge, width // merge
        numbers = np.arange(start, start + frames * rows * columns).reshape(frames, rows, columns)
        for frame, top, left in product(numbers, range(0, rows, side), range(0, columns, side)):
            order.append(frame[top : top + side, left : left + side].ravel())
            ends.append(ends[-1] + order[-1].size * merge**2)
        start += numbers.size
    return np.concatenate(order), ends


def flops(config: Mapping[str, Any]) -> dict[str, float]:
    """Qwen3-VL's language model; in the vision tower a gated MLP, one merger, and blocks that see no more than a window."""
    text, vision = config["text_config"], config["vision_config"]
    side, merge = vision["hidden_size"], vision["spatial_merge_size"]
    whole = len(vision["fullatt_block_indexes"])
    pixels = vision["in_channels"] * vision["temporal_patch_size"] * vision["patch_size"] ** 2
    block = 4 * side**2 + 3 * side * vision["intermediate_size"]
    merger = side * (side * merge**2 + vision["out_hidden_size"])
    return qwen_vl.text_flops(text) | {
        "patch": 2.0 * (pixels * side + vision["depth"] * block + merger),
        "patch_pair": 4.0 * whole * side,
        "window_pair": 4.0 * (vision["depth"] - whole) * side,
        "window": vision["window_size"] // vision["patch_size"] // merge * merge,
    }


def vllm_class() -> type:
    from vllm.model_executor.models.qwen2_5_vl import Qwen2_5_VLForConditionalGeneration

    return Qwen2_5_VLForConditionalGeneration


def config_class() -> type:
    from transformers import Qwen2_5_VLConfig

    return Qwen2_5_VLConfig


def make_processor(tokenizer: Any, chat_template: str) -> Any:
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    vision = {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2}
    size = {"shortest_edge": 28 * 28, "longest_edge": 1024 * 1024}  # total pixels, in spite of the names
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**vision, size=size),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(patch_size=14, merge_size=2),
        chat_template=chat_template,
    )


def tiny_configs() -> tuple[dict[str, Any], dict[str, Any]]:
    """No two sizes are equal by chance. Windows of 4 x 4 patches, of which even a small image has several."""
    text = {
        "hidden_size": 128,
        "intermediate_size": 320,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "bos_token_id": None,  # its default is a large tokenizer's
        "rope_parameters": {"rope_type": "default", "mrope_section": [4, 5, 7], "rope_theta": 10000.0},
    }
    vision = {
        "depth": 3,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_heads": 2,
        "in_channels": 3,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "tokens_per_second": 2,
        "window_size": 56,
        "out_hidden_size": 128,
        "fullatt_block_indexes": [1],
    }
    return text, vision


def set_random(name: str, weight: Any) -> None:
    """Attention of a released model's kind. The initialiser's is nearly even over all tokens, since queries and keys are not
    normalised here as they are in Qwen3-VL; a tiny model would take several times as long to learn anything from."""
    if name.endswith((".q_proj.weight", ".k_proj.weight")):
        weight.mul_(4)


QWEN2_5_VL = replace(
    qwen3_vl.QWEN3_VL,
    model_type="qwen2_5_vl",
    coordinates="pixels",
    windows=Windows(attentions=window_attentions, order=window_order),
    released_prefixes={"model.visual.": "visual.", "model.language_model.": "model."},
    flops=flops,
    vllm_class=vllm_class,
    config_class=config_class,
    make_processor=make_processor,
    tiny_configs=tiny_configs,
    set_random=set_random,
)
