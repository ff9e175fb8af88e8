"""A checkpoint of any family, dense or MoE, local or from the hub, in and out of a Hugging Face folder.

Released checkpoints may hold weights in another layout than transformers' modules. Loading converts them; saving through
transformers does not convert them back, so everything that leaves the trainer (weight sync, export) goes through the family's
`released_layout`.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import linear

from vlrl.common.suggest import nearest_folder
from vlrl.config import ImagesConfig
from vlrl.models.attention import GROUP_ATTENTION
from vlrl.models.config_json import family_of, is_moe
from vlrl.models.processor import Encoder

_SHARD_BYTES = 4 * 1024**3
_EXPERTS = "grouped_mm"  # of transformers' backends; on a CPU eager takes 1.06 times as long, batched_mm 20 (bench/experts.py)


def check_model(model: str) -> dict:
    """The checkpoint's config as a dict. Raises ValueError if it is not found or vlrl does not train its model."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        near = nearest_folder(Path(model), with_file="config.json")
        raise ValueError(f"model {model!r}: no checkpoint that transformers can read; {near}(It says: {reason})") from None
    family_of(config.model_type, model=model)
    return config.to_dict()


def load_model(model: str, *, dtype: torch.dtype, freeze_vision: bool, gradient_checkpointing: bool) -> nn.Module:
    """The checkpoint with group attention in its language model. ValueError for a model with dropout."""
    from transformers import AutoModelForImageTextToText

    family = family_of(check_model(model)["model_type"])
    loaded = AutoModelForImageTextToText.from_pretrained(
        model, dtype=dtype, attn_implementation={"text_config": GROUP_ATTENTION, "vision_config": "sdpa"}
    )
    if is_moe(loaded.config.text_config.to_dict()):
        loaded.set_experts_implementation(_EXPERTS)
    if loaded.config.text_config.attention_dropout:
        raise ValueError(f"model {model!r} has attention dropout: the ratio of its first mini-batch would not be 1; set it to 0")
    _embed_patches_linearly(loaded.get_submodule(family.patch_embedding))
    if freeze_vision:
        loaded.get_submodule(family.vision_tower).requires_grad_(False)
    if gradient_checkpointing:
        loaded.gradient_checkpointing_enable({"use_reentrant": False})
    return loaded.train()


def _embed_patches_linearly(conv: Any) -> None:
    """Computes the convolution as the linear map that it is, since patches do not overlap; its name and weights stay.

    On a CPU forward and backward take a seventh of the time; on GPUs some versions of cuDNN have no bfloat16 kernel for it.
    """
    conv.forward = lambda pixels: linear(pixels.flatten(1), conv.weight.flatten(1), conv.bias)


def load_encoder(model: str, images: ImagesConfig) -> Encoder:
    """The checkpoint's processor as an Encoder."""
    from transformers import AutoProcessor

    return Encoder(AutoProcessor.from_pretrained(model), images, family_of(check_model(model)["model_type"]))


def save_checkpoint(weights: Iterable[tuple[str, Tensor]], source: str, folder: Path, processor) -> None:
    """Writes a Hugging Face folder that transformers and vLLM load: config of `source`, processor, safetensors shards.

    weights: (name, tensor) in the released layout, every parameter once.
    """
    from transformers import AutoConfig

    folder.mkdir(parents=True, exist_ok=True)
    AutoConfig.from_pretrained(source).save_pretrained(folder)
    processor.save_pretrained(folder)
    index: dict[str, str] = {}
    for number, shard in enumerate(_shards(weights), start=1):
        name = f"model-{number:05d}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        index |= dict.fromkeys(shard, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}, indent=1))


def _shards(weights: Iterable[tuple[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in weights:
        if shard and size + tensor.nbytes > _SHARD_BYTES:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor.detach().cpu().contiguous().clone()
        size += tensor.nbytes
    yield shard
