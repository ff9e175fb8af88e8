"""Qwen2-VL: what differs from Qwen2.5-VL.

Each block of its vision tower sees the whole image, and has LayerNorms and a plain MLP. It gives places in a picture in
thousandths.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vlrl.models.families import qwen2_5_vl, qwen_vl
from vlrl.models.families.qwen2_5_vl import QWEN2_5_VL


def flops(config: Mapping[str, Any]) -> dict[str, float]:
    """Qwen3-VL's, but that vision_config has other names: embed_dim is a patch's size, hidden_size the language model's."""
    text, vision = config["text_config"], config["vision_config"]
    sizes = {
        "hidden_size": vision["embed_dim"],
        "intermediate_size": vision["embed_dim"] * vision["mlp_ratio"],
        "out_hidden_size": vision["hidden_size"],
    }
    return qwen_vl.text_flops(text) | qwen_vl.vision_flops({**vision, **sizes})


def vllm_class() -> type:
    from vllm.model_executor.models.qwen2_vl import Qwen2VLForConditionalGeneration

    return Qwen2VLForConditionalGeneration


def config_class() -> type:
    from transformers import Qwen2VLConfig

    return Qwen2VLConfig


def make_processor(tokenizer: Any, chat_template: str) -> Any:
    from transformers import Qwen2VLProcessor

    other = qwen2_5_vl.make_processor(tokenizer, chat_template)
    return Qwen2VLProcessor(
        image_processor=other.image_processor,
        tokenizer=tokenizer,
        video_processor=other.video_processor,
        chat_template=chat_template,
    )


def tiny_configs() -> tuple[dict[str, Any], dict[str, Any]]:
    """Qwen2.5-VL's tiny language model; its vision_config has embed_dim for a patch, and in hidden_size the language model's."""
    text, _ = qwen2_5_vl.tiny_configs()
    vision = {
        "depth": 3,
        "embed_dim": 96,
        "hidden_size": 128,
        "mlp_ratio": 2,
        "num_heads": 3,
        "in_channels": 3,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    return text, vision


QWEN2_VL = replace(
    QWEN2_5_VL,
    model_type="qwen2_vl",
    coordinates="relative_1000",
    windows=None,
    flops=flops,
    vllm_class=vllm_class,
    config_class=config_class,
    make_processor=make_processor,
    tiny_configs=tiny_configs,
)
