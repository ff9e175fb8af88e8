"""Any Qwen3-VL checkpoint, dense or MoE, local or from the hub, in and out of a Hugging Face folder.

Released MoE checkpoints hold the experts' last two axes swapped against transformers' modules. Loading swaps them; saving
through transformers does not swap them back, so everything that leaves the trainer (weight sync, export) goes through
`released`.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import linear

from vlrl.common.suggest import nearest_folder
from vlrl.config import ImagesConfig
from vlrl.models.attention import GROUP_ATTENTION
from vlrl.models.config_json import check_type, is_moe
from vlrl.models.processor import Encoder

_SHARD_BYTES = 4 * 1024**3
_EXPERTS = "grouped_mm"  # of transformers' backends; on a CPU eager takes 1.06 times as long, batched_mm 20 (bench/experts.py)


def check_model(model: str) -> dict:
    """The checkpoint's config as a dict. ValueError where it can't be found or is not a Qwen3-VL."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        near = nearest_folder(Path(model), with_file="config.json")
        raise ValueError(f"model {model!r}: no checkpoint that transformers can read; {near}(It says: {reason})") from None
    check_type(model, config.model_type)
    return config.to_dict()


def load_model(model: str, *, dtype: torch.dtype, freeze_vision: bool, gradient_checkpointing: bool) -> nn.Module:
    """The checkpoint with group attention in its language model. ValueError for a model with dropout."""
    from transformers import AutoModelForImageTextToText

    check_model(model)
    qwen = AutoModelForImageTextToText.from_pretrained(
        model, dtype=dtype, attn_implementation={"text_config": GROUP_ATTENTION, "vision_config": "sdpa"}
    )
    if is_moe(qwen.config.text_config.to_dict()):
        qwen.set_experts_implementation(_EXPERTS)
    if qwen.config.text_config.attention_dropout:
        raise ValueError(f"model {model!r} has attention dropout: the ratio of its first mini-batch would not be 1; set it to 0")
    _embed_patches_linearly(qwen.model.visual.patch_embed.proj)
    if freeze_vision:
        qwen.model.visual.requires_grad_(False)
    if gradient_checkpointing:
        qwen.gradient_checkpointing_enable({"use_reentrant": False})
    return qwen.train()


def _embed_patches_linearly(conv: nn.Conv3d) -> None:
    """Computes the convolution as the linear map that it is, since patches do not overlap; its name and weights stay.

    On a CPU forward and backward take a seventh of the time; on GPUs some versions of cuDNN have no bfloat16 kernel for it.
    """
    conv.forward = lambda pixels: linear(pixels.flatten(1), conv.weight.flatten(1), conv.bias)  # type: ignore[assignment]


def load_encoder(model: str, images: ImagesConfig) -> Encoder:
    """The checkpoint's processor as an Encoder."""
    from transformers import AutoProcessor

    return Encoder(AutoProcessor.from_pretrained(model), images)


def to_hf_layout(name: str, tensor: Tensor) -> Tensor:
    """A parameter of the trainer in the layout of released checkpoints: experts [E, H, 2I] and [E, I, H], the rest as it is.

    A view: a layer's experts are the largest tensors there are.
    """
    if name.endswith(("mlp.experts.gate_up_proj", "mlp.experts.down_proj")):
        return tensor.transpose(1, 2)
    return tensor


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
