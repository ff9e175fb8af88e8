"""Random Qwen-VL checkpoints of the released sizes, for benches that need no weights, and their configs alone for plans.

    python -m bench.sizes 8B models/random-8B
    python -m bench.sizes 2.5-7B models/random-2.5-7B
    python -m bench.sizes 3.5-9B models/random-3.5-9B
    python -m bench.sizes 235B-A22B models/235B --config-only

The sizes are those of the released config.json files: of Qwen2-VL if they begin with 2-, of Qwen2.5-VL with 2.5-, of Qwen3.5 with
3.5-, else of Qwen3-VL. The tokenizer is a small one of bytes.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vlrl.models.families.family import Family
from vlrl.models.families.qwen2_5_vl import QWEN2_5_VL
from vlrl.models.families.qwen2_vl import QWEN2_VL
from vlrl.models.families.qwen3_5 import QWEN3_5
from vlrl.models.families.qwen3_5_moe import QWEN3_5_MOE
from vlrl.models.families.qwen3_vl import QWEN3_VL
from vlrl.models.families.qwen3_vl_moe import QWEN3_VL_MOE
from vlrl.models.tiny import write_random

_TEXT = {
    "head_dim": 128,
    "num_key_value_heads": 8,
    "vocab_size": 151_936,
    "max_position_embeddings": 262_144,
    "rope_parameters": {"rope_type": "default", "mrope_section": [24, 20, 20], "mrope_interleaved": True, "rope_theta": 5e6},
}
_VISION = {
    "num_heads": 16,
    "in_channels": 3,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "num_position_embeddings": 2304,
}
_SMALL_VISION = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "deepstack_visual_indexes": [5, 11, 17]} | _VISION
_PLAIN_VISION = {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304} | _VISION  # Qwen3.5's: no DeepStack
_LARGE_VISION = _PLAIN_VISION | {"deepstack_visual_indexes": [8, 16, 24]}


def _text(hidden: int, intermediate: int, layers: int, heads: int, **more: Any) -> dict[str, Any]:
    sizes = {"hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers, "num_attention_heads": heads}
    return _TEXT | sizes | more


def _older_text(hidden: int, intermediate: int, layers: int, heads: int, key_heads: int, vocabulary: int) -> dict[str, Any]:
    """Of Qwen2-VL and Qwen2.5-VL."""
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": 128_000,
        "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6},
    }


def _newer_text(hidden: int, layers: int, heads: int, key_heads: int, **more: Any) -> dict[str, Any]:
    """For Qwen3.5."""
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "head_dim": 256,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 32,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "linear_conv_kernel_dim": 4,
        "full_attention_interval": 4,
        "vocab_size": 248_320,
        "max_position_embeddings": 262_144,
        "rope_parameters": {
            "rope_type": "default",
            "mrope_section": [11, 11, 10],
            "mrope_interleaved": True,
            "rope_theta": 1e7,
            "partial_rotary_factor": 0.25,
        },
    } | more


_SHORTER = {"max_position_embeddings": 32_768}
_OLDEST_VISION = {
    "depth": 32,
    "embed_dim": 1280,
    "mlp_ratio": 4,
    "num_heads": 16,
    "in_channels": 3,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
_OLDER_VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "in_channels": 3,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "tokens_per_second": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
_EXPERTS = {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768, "norm_topk_prob": True}

_NEWER_EXPERTS = {
    "num_experts": 256,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
}


@dataclass(frozen=True, kw_only=True)
class Size:
    """A released size. tied: whether its head is its embedding."""

    family: Family
    text: Mapping[str, Any]
    vision: Mapping[str, Any]
    tied: bool = False

    def config(self) -> Any:
        """transformers' config."""
        return self.family.config_class()(text_config=self.text, vision_config=self.vision, tie_word_embeddings=self.tied)

    def write(self, folder: Path) -> int:
        """Writes a random model in bfloat16. Returns its parameters."""
        return write_random(folder, ["0123456789"], self.family, self.text, self.vision, tied=self.tied, dtype=torch.bfloat16)


SIZES = {
    "2-2B": Size(
        family=QWEN2_VL,
        text=_older_text(1536, 8960, 28, 12, 2, 151_936) | _SHORTER,
        vision=_OLDEST_VISION | {"hidden_size": 1536},
        tied=True,
    ),
    "2-7B": Size(
        family=QWEN2_VL,
        text=_older_text(3584, 18944, 28, 28, 4, 152_064) | _SHORTER,
        vision=_OLDEST_VISION | {"hidden_size": 3584},
    ),
    "2.5-3B": Size(
        family=QWEN2_5_VL,
        text=_older_text(2048, 11008, 36, 16, 2, 151_936),
        vision=_OLDER_VISION | {"out_hidden_size": 2048},
        tied=True,
    ),
    "2.5-7B": Size(
        family=QWEN2_5_VL, text=_older_text(3584, 18944, 28, 28, 4, 152_064), vision=_OLDER_VISION | {"out_hidden_size": 3584}
    ),
    "2B": Size(family=QWEN3_VL, text=_text(2048, 6144, 28, 16), vision=_SMALL_VISION | {"out_hidden_size": 2048}, tied=True),
    "4B": Size(family=QWEN3_VL, text=_text(2560, 9728, 36, 32), vision=_SMALL_VISION | {"out_hidden_size": 2560}, tied=True),
    "8B": Size(family=QWEN3_VL, text=_text(4096, 12288, 36, 32), vision=_LARGE_VISION | {"out_hidden_size": 4096}),
    "30B-A3B": Size(
        family=QWEN3_VL_MOE,
        text=_text(2048, 6144, 48, 32, **{"num_key_value_heads": 4} | _EXPERTS),
        vision=_LARGE_VISION | {"out_hidden_size": 2048},
    ),
    "235B-A22B": Size(
        family=QWEN3_VL_MOE,
        text=_text(4096, 12288, 94, 64, **{"num_key_value_heads": 4} | _EXPERTS | {"moe_intermediate_size": 1536}),
        vision=_LARGE_VISION | {"out_hidden_size": 4096},
    ),
    "3.5-9B": Size(
        family=QWEN3_5,
        text=_newer_text(4096, 32, 16, 4, intermediate_size=12288),
        vision=_PLAIN_VISION | {"out_hidden_size": 4096},
    ),
    "3.5-35B-A3B": Size(
        family=QWEN3_5_MOE,
        text=_newer_text(2048, 40, 16, 2, **_NEWER_EXPERTS),
        vision=_PLAIN_VISION | {"out_hidden_size": 2048},
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--config-only", action="store_true", help="write config.json alone, for vlrl plan --memory")
    options = parser.parse_args()
    size = SIZES[options.size]
    if options.config_only:
        size.config().save_pretrained(options.folder)
        return
    print(f"{options.folder}: {size.write(options.folder) / 1e9:.2f} G parameters")


if __name__ == "__main__":
    main()
