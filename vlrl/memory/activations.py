"""What a forward and backward of packed tokens takes, from a model's sizes: what autograd saves, operator by operator.

Compared with measured peaks by `python -m bench.memory`, and with those of an H100 (bench/results/gpu.json) by tests.
"""

from dataclasses import dataclass

from vlrl.models.config_json import is_moe, num_experts
from vlrl.models.families.qwen_vl import head_width
from vlrl.models.sizes import ModelSizes

_TILE = {"cpu": 1 << 24, "cuda": 1 << 29}  # bytes of the loss head's logits at a time, as in vlrl.models.logprob_head


@dataclass(frozen=True, kw_only=True, slots=True)
class Activations:
    """Bytes that autograd saves until backward, and those of the one layer that backward is computing.

    token, layer_token: a token of text, or of a merged image patch; patch, block_patch: a patch of the vision tower.
    target: a response token in the loss head; head: the loss head, whatever the number of tokens.
    """

    token: int
    layer_token: int
    patch: int
    block_patch: int
    target: int
    head: int

    @classmethod
    def of(cls, sizes: ModelSizes, *, wide: int, checkpointing: bool, device: str) -> "Activations":
        """wide: bytes of a weight; device: cpu or cuda."""
        layers, hidden = sizes.text["num_hidden_layers"], sizes.text["hidden_size"]
        depth, side = sizes.vision_config["depth"], sizes.vision_config["hidden_size"]
        layer, working = _layer(sizes.text, wide)
        block, block_working = _vision_block(sizes.vision_config, wide)
        vocabulary = sizes.text["vocab_size"]
        return cls(
            token=layers * (wide * hidden if checkpointing else layer),
            layer_token=working + (layer if checkpointing else 0),
            patch=depth * (wide * side if checkpointing else block) + _patch_ends(sizes.vision_config, wide),
            block_patch=block_working + (block if checkpointing else 0),
            target=(4 + 2 * wide) * hidden,
            head=(4 + wide) * vocabulary * hidden + _TILE[device],  # its weight's gradient in fp32, then in the weight's dtype
        )

    def peak(self, tokens: int, patches: int = 0) -> int:
        """The peak of a micro-batch, in backward: in the loss head, in a layer, or in a block of the vision tower."""
        saved = tokens * self.token + patches * self.patch
        return max(
            saved + self.head + tokens * self.target,
            saved + tokens * self.layer_token,
            patches * (self.patch + self.block_patch),
        )


def _layer(text, wide: int) -> tuple[int, int]:
    """Bytes a token that a layer saves, and those of backward's own."""
    hidden = text["hidden_size"]
    queries = text["num_attention_heads"] * head_width(text)
    keys = text["num_key_value_heads"] * head_width(text)
    norms = (4 + wide) * (2 * hidden + queries + keys)  # the fp32 input, and what the weight multiplies
    attention = wide * (hidden + 2 * queries + 2 * keys) + 4 * text["num_attention_heads"]
    if is_moe(text):
        chosen, inner = text["num_experts_per_tok"], text["moe_intermediate_size"]
        mlp = wide * (hidden + chosen * (4 * inner + 3 * hidden)) + 8 * num_experts(text)
        working = wide * chosen * (2 * inner + hidden)
    else:
        inner = text["intermediate_size"]
        mlp = wide * (hidden + 4 * inner)  # gate, its activation, up and their product
        working = wide * 3 * inner
    return norms + attention + mlp, working


def _vision_block(vision, wide: int) -> tuple[int, int]:
    side, inner = vision["hidden_size"], vision["intermediate_size"]
    return wide * (10 * side + 2 * inner), max(24 * side, wide * 2 * inner)  # the rotation of queries and keys is in fp32


def _patch_ends(vision, wide: int) -> int:
    """Bytes a patch of the pixels before the blocks and the mergers after them."""
    pixels = vision["in_channels"] * vision["temporal_patch_size"] * vision["patch_size"] ** 2
    merged = vision["spatial_merge_size"] ** 2
    mergers = 1 + len(vision.get("deepstack_visual_indexes") or ())
    return (4 + wide) * pixels + mergers * wide * (3 * merged * vision["hidden_size"] + vision["out_hidden_size"]) // merged
