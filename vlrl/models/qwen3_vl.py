"""All that is particular to Qwen3-VL, dense and MoE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vlrl.models.family import Family

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


def fit_image(image: Image, min_pixels: int, max_pixels: int, patch_size: int) -> Image:
    """Sides that merged patches fill, the ratio about kept, and no more or fewer pixels than allowed."""
    from qwen_vl_utils import fetch_image

    return fetch_image({"image": image, "min_pixels": min_pixels, "max_pixels": max_pixels}, image_patch_size=patch_size)


def image_features(processor: Any, images: Sequence[Image]) -> tuple[Tensor, Tensor]:
    batch = processor.image_processor(images=images, do_resize=False, return_tensors="pt")
    return batch["pixel_values"].float(), batch["image_grid_thw"].long()


def mrope_positions(length: int, spans: Sequence[tuple[int, int]], grid: Tensor, merge_size: int) -> tuple[Tensor, int]:
    """Positions (time, height, width) of a prompt: text counts on in all three rows, an image spreads over height and width.

    length: tokens in the prompt; spans: (offset, length) of each image; grid: [images, 3] in patches. Returns [3, length]
    and the position after the last, from which a response counts on. As `Qwen3VLModel.get_rope_index`, per prompt.
    """
    import torch

    pieces: list[Tensor] = []
    done, position = 0, 0
    for (offset, count), (_, height, width) in zip(spans, grid.tolist(), strict=True):
        text = offset - done
        pieces.append((torch.arange(text) + position).expand(3, text))
        position += text
        rows, columns = height // merge_size, width // merge_size
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        pieces.append(torch.stack([torch.zeros(count, dtype=torch.long), y.reshape(-1), x.reshape(-1)]) + position)
        position += max(rows, columns)
        done = offset + count
    rest = length - done
    pieces.append((torch.arange(rest) + position).expand(3, rest))
    return torch.cat(pieces, dim=1), position + rest


def part_of(name: str) -> str:
    """The part of the model that a parameter belongs to.

    >>> part_of("model.visual.deepstack_merger_list.0.norm.weight"), part_of("model.language_model.layers.0.mlp.gate.weight")
    ('merger', 'router')
    """
    if ".visual." in name:
        return "merger" if "merger" in name else "vision"
    return "router" if name.endswith((".mlp.gate.weight", ".mlp.router.gate.weight")) else "language"


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
    """Two operations a weight; for MoE models the weights of the experts that a token goes to, and of the router."""
    text, vision = config["text_config"], config["vision_config"]
    hidden, width = text["hidden_size"], text["head_dim"]
    attention = 2 * hidden * width * (text["num_attention_heads"] + text["num_key_value_heads"])
    mlp = 3 * hidden * text["intermediate_size"]
    if experts := text.get("num_experts_per_tok"):
        router = hidden * (text.get("num_local_experts") or text["num_experts"])  # transformers writes one name and reads both
        mlp = 3 * hidden * text["moe_intermediate_size"] * experts + router
    side = vision["hidden_size"]
    merged = side * vision["spatial_merge_size"] ** 2
    mergers = 1 + len(vision["deepstack_visual_indexes"])
    pixels = vision["in_channels"] * vision["temporal_patch_size"] * vision["patch_size"] ** 2
    block = 4 * side**2 + 2 * side * vision["intermediate_size"]
    merger = merged * (merged + vision["out_hidden_size"]) / vision["spatial_merge_size"] ** 2
    return {
        "token": 2.0 * text["num_hidden_layers"] * (attention + mlp),
        "pair": 4.0 * text["num_hidden_layers"] * text["num_attention_heads"] * width,
        "patch": 2.0 * (pixels * side + vision["depth"] * block + mergers * merger),
        "patch_pair": 4.0 * vision["depth"] * side,
        "target": 2.0 * hidden * text["vocab_size"],
    }


def vllm_classes() -> Sequence[type]:
    from vllm.model_executor.models.qwen3_vl import Qwen3VLForConditionalGeneration
    from vllm.model_executor.models.qwen3_vl_moe import Qwen3VLMoeForConditionalGeneration

    return (Qwen3VLForConditionalGeneration, Qwen3VLMoeForConditionalGeneration)


def vllm_images(pixels: Tensor, grid: Tensor, merge_size: int) -> Any:
    from transformers import BatchFeature
    from vllm.model_executor.models.qwen2_vl import _create_qwen2vl_field_factory
    from vllm.multimodal.inputs import MultiModalKwargsItems

    features = BatchFeature({"pixel_values": pixels, "image_grid_thw": grid})
    return MultiModalKwargsItems.from_hf_inputs(features, _create_qwen2vl_field_factory(merge_size)(features))


def config_class(is_moe: bool) -> type:
    from transformers import Qwen3VLConfig, Qwen3VLMoeConfig

    return Qwen3VLMoeConfig if is_moe else Qwen3VLConfig


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


def tiny_configs(is_moe: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Expert sizes differ from the hidden size in both axes, so that a swapped layout can't hide."""
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
    experts = {
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 96,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
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
    return text | (experts if is_moe else {}), vision


QWEN3_VL = Family(
    model_types=("qwen3_vl", "qwen3_vl_moe"),
    image_token="<|image_pad|>",
    video_token="<|video_pad|>",
    end_token="<|im_end|>",
    fit_image=fit_image,
    image_features=image_features,
    positions=mrope_positions,
    vision_tower="model.visual",
    patch_embedding="model.visual.patch_embed.proj",
    part_of=part_of,
    released_layout=released_layout,
    tied_weights=("model.language_model.embed_tokens.weight", "lm_head.weight"),
    router_class=router_class,
    sparse_block_class=sparse_block_class,
    expert_parallel={"moe_layer_pattern": r".*language_model\.layers\.\d+\.mlp", "route_norm": True},
    flops=flops,
    vllm_classes=vllm_classes,
    vllm_images=vllm_images,
    special_tokens=(
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|vision_pad|>",
        "<|image_pad|>",
        "<|video_pad|>",
        "<think>",
        "</think>",
    ),
    chat_template=(
        "{% for message in messages %}<|im_start|>{{ message.role }}\n"
        "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
        "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
        "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    config_class=config_class,
    make_processor=make_processor,
    tiny_configs=tiny_configs,
)
