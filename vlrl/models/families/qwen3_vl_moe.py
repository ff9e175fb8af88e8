"""Qwen3-VL, MoE: what differs from the dense models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vlrl.models.families import qwen3_vl, qwen_vl
from vlrl.models.families.family import Experts

if TYPE_CHECKING:
    from torch import Tensor


def released_layout(name: str, tensor: Tensor) -> Tensor:
    """Experts as [E, H, 2I] and [E, I, H], the rest as it is.

    transformers' modules hold the experts' last two axes swapped. Loading swaps them; saving through transformers does not swap
    them back. A view: a layer's experts are the largest tensors there are.
    """
    if name.endswith(("mlp.experts.gate_up_proj", "mlp.experts.down_proj")):
        return tensor.transpose(1, 2)
    return tensor


def router_class() -> type:
    from transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe import Qwen3VLMoeTextTopKRouter

    return Qwen3VLMoeTextTopKRouter


def sparse_block_class() -> type:
    from transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe import Qwen3VLMoeTextSparseMoeBlock

    return Qwen3VLMoeTextSparseMoeBlock


def flops(config: Mapping[str, Any]) -> dict[str, float]:
    """A dense model's, with the weights of the router and of the experts that a token goes to as its MLP."""
    text = config["text_config"]
    experts = text["num_experts_per_tok"] * text["moe_intermediate_size"]
    router = (text.get("num_local_experts") or text["num_experts"]) / 3  # transformers writes one name and reads both
    return qwen_vl.flops(dict(config) | {"text_config": text | {"intermediate_size": experts + router}})


def vllm_class() -> type:
    from vllm.model_executor.models.qwen3_vl_moe import Qwen3VLMoeForConditionalGeneration

    return Qwen3VLMoeForConditionalGeneration


def config_class() -> type:
    from transformers import Qwen3VLMoeConfig

    return Qwen3VLMoeConfig


def tiny_configs() -> tuple[dict[str, Any], dict[str, Any]]:
    """Expert sizes differ from the hidden size in both axes, so that a swapped layout can't hide."""
    text, vision = qwen3_vl.tiny_configs()
    experts = {
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 96,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }
    return text | experts, vision


QWEN3_VL_MOE = replace(
    qwen3_vl.QWEN3_VL,
    model_type="qwen3_vl_moe",
    released_layout=released_layout,
    experts=Experts(
        router_class=router_class,
        sparse_block_class=sparse_block_class,
        expert_parallel={"moe_layer_pattern": r".*language_model\.layers\.\d+\.mlp", "route_norm": True},
    ),
    flops=flops,
    vllm_class=vllm_class,
    config_class=config_class,
    tiny_configs=tiny_configs,
)
