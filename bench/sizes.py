"""Random Qwen3-VL checkpoints of the released sizes, for benches that need no weights, and their configs alone for plans.

    python -m bench.sizes 8B models/random-8B
    python -m bench.sizes 235B-A22B models/235B --config-only

The sizes are those of the released config.json files; the tokenizer is a small one of bytes.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from vlrl.models.qwen3_vl import QWEN3_VL
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
_LARGE_VISION = {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "deepstack_visual_indexes": [8, 16, 24]} | _VISION


def _text(hidden: int, intermediate: int, layers: int, heads: int, **more: Any) -> dict[str, Any]:
    sizes = {"hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers, "num_attention_heads": heads}
    return _TEXT | sizes | more


_EXPERTS = {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768, "norm_topk_prob": True}

SIZES: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "2B": (_text(2048, 6144, 28, 16), _SMALL_VISION | {"out_hidden_size": 2048}, True),
    "4B": (_text(2560, 9728, 36, 32), _SMALL_VISION | {"out_hidden_size": 2560}, True),
    "8B": (_text(4096, 12288, 36, 32), _LARGE_VISION | {"out_hidden_size": 4096}, False),
    "30B-A3B": (
        _text(2048, 6144, 48, 32, **{"num_key_value_heads": 4} | _EXPERTS),
        _LARGE_VISION | {"out_hidden_size": 2048},
        False,
    ),
    "235B-A22B": (
        _text(4096, 12288, 94, 64, **{"num_key_value_heads": 4} | _EXPERTS | {"moe_intermediate_size": 1536}),
        _LARGE_VISION | {"out_hidden_size": 4096},
        False,
    ),
}
"""Size to its language model, its vision tower, and whether its head is its embedding."""


def config_of_size(size: str) -> Any:
    """transformers' config of a released size."""
    text, vision, tied = SIZES[size]
    made = QWEN3_VL.config_class("num_experts" in text)
    return made(text_config=text, vision_config=vision, tie_word_embeddings=tied)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--config-only", action="store_true", help="write config.json alone, for vlrl plan --memory")
    options = parser.parse_args()
    if options.config_only:
        config_of_size(options.size).save_pretrained(options.folder)
        return
    text, vision, tied = SIZES[options.size]
    parameters = write_random(options.folder, ["0123456789"], text, vision, tied=tied, dtype=torch.bfloat16)
    print(f"{options.folder}: {parameters / 1e9:.2f} G parameters")


if __name__ == "__main__":
    main()
