"""Qwen3.5, MoE: what differs from the dense models. Experts are released as transformers holds them, unlike Qwen3-VL's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vlrl.models.families import qwen3_5
from vlrl.models.families.family import Experts


def recurrent_layer() -> type:
    from transformers.models.qwen3_5_moe.modeling_qwen3_5_moe import Qwen3_5MoeGatedDeltaNet

    return Qwen3_5MoeGatedDeltaNet


def router_class() -> type:
    from transformers.models.qwen3_5_moe.modeling_qwen3_5_moe import Qwen3_5MoeTopKRouter

    return Qwen3_5MoeTopKRouter


def sparse_block_class() -> type:
    from transformers.models.qwen3_5_moe.modeling_qwen3_5_moe import Qwen3_5MoeSparseMoeBlock

    return Qwen3_5MoeSparseMoeBlock


def flops(config: Mapping[str, Any]) -> dict[str, float]:
    """A dense model's, whose MLP is the experts that a token goes to, the one that all tokens share, its gate, and the router."""
    text = config["text_config"]
    experts = text["num_experts_per_tok"] * text["moe_intermediate_size"] + text["shared_expert_intermediate_size"]
    gates = (text["num_experts"] + 1) / 3
    return qwen3_5.flops(dict(config) | {"text_config": text | {"intermediate_size": experts + gates}})


def vllm_class() -> type:
    from vllm.model_executor.models.qwen3_5 import Qwen3_5MoeForConditionalGeneration

    return Qwen3_5MoeForConditionalGeneration


def config_class() -> type:
    from transformers import Qwen3_5MoeConfig

    return Qwen3_5MoeConfig


def tiny_configs() -> tuple[dict[str, Any], dict[str, Any]]:
    text, vision = qwen3_5.tiny_configs()
    del text["intermediate_size"]
    experts = {
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 96,
        "shared_expert_intermediate_size": 80,
    }
    return text | experts, vision


QWEN3_5_MOE = replace(
    qwen3_5.QWEN3_5,
    model_type="qwen3_5_moe",
    recurrent_layer=recurrent_layer,
    experts=Experts(
        router_class=router_class,
        sparse_block_class=sparse_block_class,
        expert_parallel={
            "moe_layer_pattern": r".*language_model\.layers\.\d+\.mlp",
            "route_norm": True,
            "has_shared_experts": True,
            "shared_experts_pattern": "shared_expert",
            "shared_experts_gate_pattern": "shared_expert_gate",
        },
    ),
    flops=flops,
    vllm_class=vllm_class,
    config_class=config_class,
    tiny_configs=tiny_configs,
)
