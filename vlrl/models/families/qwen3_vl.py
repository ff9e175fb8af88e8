"""Qwen3-VL, dense."""

from __future__ import annotations

from typing import Any

from vlrl.models.families import qwen_vl
from vlrl.models.families.family import Family


def vllm_class() -> type:
    from vllm.model_executor.models.qwen3_vl import Qwen3VLForConditionalGeneration

    return Qwen3VLForConditionalGeneration


def config_class() -> type:
    from transformers import Qwen3VLConfig

    return Qwen3VLConfig


def make_processor(tokenizer: Any, chat_template: str) -> Any:
    from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    vision = {"patch_size": 16, "merge_size": 2, "temporal_patch_size": 2}
    size = {"shortest_edge": 32 * 32, "longest_edge": 1024 * 1024}  # total pixels, in spite of the names
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**vision, size=size),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(patch_size=16, merge_size=2),
        chat_template=chat_template,
    )


def tiny_configs() -> tuple[dict[str, Any], dict[str, Any]]:
    text = {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "mrope_section": [8, 4, 4], "mrope_interleaved": True, "rope_theta": 10000.0},
    }
    vision = {
        "depth": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_heads": 2,
        "in_channels": 3,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": 128,
        "num_position_embeddings": 256,
        "deepstack_visual_indexes": [0, 1],
    }
    return text, vision


QWEN3_VL = Family(
    model_type="qwen3_vl",
    image_token="<|image_pad|>",
    video_token="<|video_pad|>",
    end_token="<|im_end|>",
    fit_image=qwen_vl.fit_image,
    image_features=qwen_vl.image_features,
    positions=qwen_vl.mrope_positions,
    coordinates="relative_1000",
    vision_tower="model.visual",
    patch_embedding="model.visual.patch_embed.proj",
    part_of=qwen_vl.part_of,
    released_layout=qwen_vl.as_held,
    tied_weights=("model.language_model.embed_tokens.weight", "lm_head.weight"),
    adapter_targets=qwen_vl.ADAPTER_TARGETS,
    flops=qwen_vl.flops,
    vllm_class=vllm_class,
    vllm_images=qwen_vl.vllm_images,
    special_tokens=qwen_vl.SPECIAL_TOKENS,
    chat_template=qwen_vl.CHAT_TEMPLATE,
    config_class=config_class,
    make_processor=make_processor,
    tiny_configs=tiny_configs,
)
