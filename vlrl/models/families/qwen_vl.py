"""What the Qwen-VL families have in common: images, positions, names of parts, special tokens and a chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

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


def as_held(name: str, tensor: Tensor) -> Tensor:
    """The layout of released checkpoints where it is that of transformers' modules."""
    return tensor


def flops(config: Mapping[str, Any]) -> dict[str, float]:
    """Two operations a weight of a dense model; see vlrl.models.flops.Cost for the fields."""
    return text_flops(config["text_config"]) | vision_flops(config["vision_config"])


def text_flops(text: Mapping[str, Any]) -> dict[str, float]:
    hidden = text["hidden_size"]
    width = head_width(text)
    attention = 2 * hidden * width * (text["num_attention_heads"] + text["num_key_value_heads"])
    return {
        "token": 2.0 * text["num_hidden_layers"] * (attention + 3 * hidden * text["intermediate_size"]),
        "pair": 4.0 * text["num_hidden_layers"] * text["num_attention_heads"] * width,
        "target": 2.0 * hidden * text["vocab_size"],
    }


def vision_flops(vision: Mapping[str, Any]) -> dict[str, float]:
    side = vision["hidden_size"]
    merged = side * vision["spatial_merge_size"] ** 2
    mergers = 1 + len(vision.get("deepstack_visual_indexes") or ())
    pixels = vision["in_channels"] * vision["temporal_patch_size"] * vision["patch_size"] ** 2
    block = 4 * side**2 + 2 * side * vision["intermediate_size"]
    merger = merged * (merged + vision["out_hidden_size"]) / vision["spatial_merge_size"] ** 2
    return {
        "patch": 2.0 * (pixels * side + vision["depth"] * block + mergers * merger),
        "patch_pair": 4.0 * vision["depth"] * side,
    }


def head_width(text: Mapping[str, Any]) -> int:
    """The size of an attention head, which older configs leave to be computed."""
    return text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]


def vllm_images(pixels: Tensor, grid: Tensor, merge_size: int) -> Any:
    from transformers import BatchFeature
    from vllm.model_executor.models.qwen2_vl import _create_qwen2vl_field_factory
    from vllm.multimodal.inputs import MultiModalKwargsItems

    features = BatchFeature({"pixel_values": pixels, "image_grid_thw": grid})
    return MultiModalKwargsItems.from_hf_inputs(features, _create_qwen2vl_field_factory(merge_size)(features))


_LAYER = r"model\.language_model\.layers\.\d+\."
_VISION = r"model\.visual\."
ADAPTER_TARGETS = {
    "attention": _LAYER + r"self_attn\.[qkvo]_proj",
    "mlp": _LAYER + r"mlp\.(shared_expert\.)?(gate|up|down)_proj",
    "gdn": _LAYER + r"linear_attn\.(in_proj_\w+|out_proj)",
    "merger": _VISION + r"(merger|deepstack_merger_list\.\d+)\.(linear_fc[12]|mlp\.[02])",
    "vision": _VISION + r"blocks\.\d+\.(attn\.(qkv|proj)|mlp\.((linear_)?fc[12]|(gate|up|down)_proj))",
}
"""Of all Qwen-VL families: a name that a family lacks matches nothing in it."""
SPECIAL_TOKENS = (
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
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
