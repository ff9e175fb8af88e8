"""What a group costs to compute, in floating point operations of one forward, from a model's config.

Linear layers grow with tokens, attention with the pairs that see one another, the vision tower with patches and, within an image,
with their square. A backward costs twice as much everywhere, so shares stay what they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vlrl.models.config_json import is_moe, num_experts
from vlrl.models.processor import EncodedPrompt


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Operations of a token's linear layers, of a pair of tokens in attention, of a patch and of a pair of patches in the vision
    tower, and of the head for a token whose log-prob is asked for."""

    token: float
    pair: float
    patch: float
    patch_pair: float
    target: float

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Cost":
        """config: of a Qwen3-VL checkpoint, as a dict. Two operations a weight; of a mixture the experts that a token goes to."""
        text, vision = config["text_config"], config["vision_config"]
        hidden, width = text["hidden_size"], text["head_dim"]
        attention = 2 * hidden * width * (text["num_attention_heads"] + text["num_key_value_heads"])
        mlp = 3 * hidden * text["intermediate_size"]
        if is_moe(text):
            mlp = 3 * hidden * text["moe_intermediate_size"] * text["num_experts_per_tok"] + hidden * num_experts(text)
        side = vision["hidden_size"]
        merged = side * vision["spatial_merge_size"] ** 2
        mergers = 1 + len(vision["deepstack_visual_indexes"])
        pixels = vision["in_channels"] * vision["temporal_patch_size"] * vision["patch_size"] ** 2
        block = 4 * side**2 + 2 * side * vision["intermediate_size"]
        merger = merged * (merged + vision["out_hidden_size"]) / vision["spatial_merge_size"] ** 2
        return cls(
            token=2.0 * text["num_hidden_layers"] * (attention + mlp),
            pair=4.0 * text["num_hidden_layers"] * text["num_attention_heads"] * width,
            patch=2.0 * (pixels * side + vision["depth"] * block + mergers * merger),
            patch_pair=4.0 * vision["depth"] * side,
            target=2.0 * hidden * text["vocab_size"],
        )

    def group(self, prompt: EncodedPrompt, lengths: Sequence[int]) -> float:
        """Of a prompt and its responses' lengths, the prompt and its images computed once."""
        size, targets = len(prompt.tokens), sum(lengths)
        pairs = size**2 / 2 + sum(size * length + length**2 / 2 for length in lengths)
        return self.token * (size + targets) + self.pair * pairs + self.target * targets + self.images(prompt.grid)

    def images(self, grid: Tensor) -> float:
        """Of the vision tower. grid: [images, 3], as of an EncodedPrompt."""
        patches = grid.prod(dim=1).tolist()
        return self.patch * sum(patches) + self.patch_pair * sum(count**2 for count in patches)
