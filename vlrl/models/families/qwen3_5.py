"""Qwen3.5, dense: three layers of Gated DeltaNet to one of attention; no DeepStack. Released as Qwen3.5, Qwen3.6 and Qwen3.8."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vlrl.models.families import qwen3_vl, qwen_vl

_CHUNK = 64  # tokens of the delta rule that are computed at once


def recurrent_layer() -> type:
    from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5GatedDeltaNet

    return Qwen3_5GatedDeltaNet


def flops(config: Mapping[str, Any]) -> dict[str, float]:
    """A Gated DeltaNet's operations grow with tokens alone; attention has a gate as wide as its queries."""
    text = config["text_config"]
    hidden, width, heads = text["hidden_size"], text["head_dim"], text["num_attention_heads"]
    recurrent = sum(kind == "linear_attention" for kind in text["layer_types"])
    attending = text["num_hidden_layers"] - recurrent
    attention = hidden * width * (3 * heads + 2 * text["num_key_value_heads"])
    mlp = 3 * hidden * text["intermediate_size"]
    layers = recurrent * _delta_net(text) + attending * attention + text["num_hidden_layers"] * mlp
    return {
        "token": 2.0 * layers,
        "pair": 4.0 * attending * heads * width,
        "target": 2.0 * hidden * text["vocab_size"],
    } | qwen_vl.vision_flops(config["vision_config"])


def _delta_net(text: Mapping[str, Any]) -> float:
    """Multiplications and additions for a token, in pairs: of the projections, the convolution and the rule."""
    heads, k, v = text["linear_num_value_heads"], text["linear_key_head_dim"], text["linear_value_head_dim"]
    keys, values = text["linear_num_key_heads"] * k, heads * v
    projections = text["hidden_size"] * (2 * keys + 3 * values + 2 * heads)
    convolution = text["linear_conv_kernel_dim"] * (2 * keys + values)
    rule = heads * (_CHUNK * (2.5 * k + 1.5 * v) + 3 * k * v)
    return projections + convolution + rule


def engine_settings(on_gpu: bool) -> dict[str, Any]:
    """vLLM keeps a recurrent state for each block of a shared prompt only with chunked prefill, which a CPU run does without."""
    return {} if on_gpu else {"enable_prefix_caching": False}


def vllm_class() -> type:
    from vllm.model_executor.models.qwen3_5 import Qwen3_5ForConditionalGeneration

    return Qwen3_5ForConditionalGeneration


def config_class() -> type:
    from transformers import Qwen3_5Config

    return Qwen3_5Config


def tiny_configs() -> tuple[dict[str, Any], dict[str, Any]]:
    """No two sizes are equal that a mistake could exchange."""
    text, vision = qwen3_vl.tiny_configs()
    recurrent = {
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 48,
        "linear_conv_kernel_dim": 4,
        "full_attention_interval": 4,
    }
    rope = {
        "rope_type": "default",
        "mrope_section": [4, 2, 2],
        "mrope_interleaved": True,
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
    }
    del vision["deepstack_visual_indexes"]
    return text | recurrent | {"num_attention_heads": 6, "intermediate_size": 224, "rope_parameters": rope}, vision


def set_random(name: str, weight: Any) -> None:
    """Decays of a released model's kind. The initialiser's forget a prompt within a few tokens, and would hide a lost state."""
    if name.endswith(".A_log"):
        weight.uniform_(math.log(0.002), math.log(0.2))


QWEN3_5 = replace(
    qwen3_vl.QWEN3_VL,
    model_type="qwen3_5",
    recurrent_layer=recurrent_layer,
    unused_weights=("mtp.",),
    flops=flops,
    engine_settings=engine_settings,
    vllm_class=vllm_class,
    config_class=config_class,
    tiny_configs=tiny_configs,
    set_random=set_random,
)
