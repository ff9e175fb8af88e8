"""A checkpoint of any family, dense or MoE, local or from the hub, in and out of a Hugging Face folder.

Released checkpoints may hold weights in another layout than transformers' modules. Loading converts them; saving through
transformers does not convert them back, so everything that leaves the trainer (weight sync, export) goes through the family's
`released_layout`. Files may have other names too; they become transformers' when a header is read, and the released ones again
when a file is written.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import linear

from vlrl.common.suggest import nearest_folder
from vlrl.config import ImagesConfig
from vlrl.models.attention import GROUP_ATTENTION, IMAGE_ATTENTION, WINDOW_ATTENTION
from vlrl.models.config_json import family_of, is_moe
from vlrl.models.delta_rule import kernel_fault
from vlrl.models.families.family import Family
from vlrl.models.processor import Encoder
from vlrl.models.recurrence import fork_states
from vlrl.models.tensor_check import check_tensors
from vlrl.models.weight_files import TensorFiles, read_tensor

_SHARD_BYTES = 4 * 1024**3
_GENERATION = "generation_config.json"
# A checkpoint's settings as they were released. transformers writes the tokenizer and the image processor into other files; other
# programs read these.
_COPIED = ("config.json", "preprocessor_config.json", "video_preprocessor_config.json", "vocab.json", "merges.txt")
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


def load_model(
    model: str,
    *,
    dtype: torch.dtype,
    freeze_vision: bool,
    gradient_checkpointing: bool,
    device: torch.device | str = "cpu",
    shard: Callable[[nn.ParameterList], object] | None = None,
) -> nn.Module:
    """The checkpoint's model on the device, ready to train: with group attention and fast operators.

    A tensor at a time goes from its file to the device. shard: called with the weights of each module as soon as they are there,
    so that a process never holds more of the model than its share.

    Raises ValueError for tensors that the checkpoint lacks or its model does not have, for a model with dropout, and for one
    whose layers need a package that is not installed.
    """
    from transformers import AutoConfig

    check_model(model)
    files = check_tensors(model)
    if not files:
        raise ValueError(f"model {model!r} has no safetensors files in this machine's cache; run `hf download {model}`")
    loaded = model_without_weights(AutoConfig.from_pretrained(model), dtype)
    if loaded.config.text_config.attention_dropout:
        raise ValueError(f"model {model!r} has attention dropout: the ratio of its first mini-batch would not be 1; set it to 0")
    family = family_of(loaded.config.model_type)
    if family.recurrent_layer and (fault := kernel_fault(torch.device(device))):
        raise ValueError(f"model {model!r}: {fault}")
    _fill(loaded, files, family, device=torch.device(device), shard=shard)
    return make_trainable(loaded, freeze_vision=freeze_vision, gradient_checkpointing=gradient_checkpointing)


def model_without_weights(config: Any, dtype: torch.dtype) -> Any:
    """The model of a config with group attention: its parameters on torch's meta device, its buffers, which no file holds, as
    they are."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForImageTextToText
    from transformers.initialization import no_init_weights

    attention = {"text_config": GROUP_ATTENTION, "vision_config": IMAGE_ATTENTION}
    # Some layers' constructors draw numbers all the same.
    with init_empty_weights(include_buffers=False), no_init_weights(), torch.random.fork_rng(devices=[]):
        return AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation=attention)


def make_trainable(loaded: Any, *, freeze_vision: bool, gradient_checkpointing: bool) -> Any:
    """Chooses fast operators, what is frozen, and what backward computes again."""
    family = family_of(loaded.config.model_type)
    _choose_operators(loaded, family)
    if freeze_vision:
        loaded.get_submodule(family.vision_tower).requires_grad_(False)
    if gradient_checkpointing:
        loaded.gradient_checkpointing_enable({"use_reentrant": False})
    return loaded.train()


def _fill(
    built: Any,
    files: TensorFiles,
    family: Family,
    *,
    device: torch.device,
    shard: Callable[[nn.ParameterList], object] | None,
) -> None:
    """Reads each module's own parameters from the files, in the released layout; a tied head becomes the embedding."""
    for path, module in built.named_modules():
        for leaf, empty in list(module.named_parameters(recurse=False)):
            name = f"{path}.{leaf}"
            if name == family.tied_weights[1] and built.config.tie_word_embeddings:
                continue
            weight = torch.empty_like(empty, device=device)
            family.released_layout(name, weight).copy_(read_tensor(files, name))
            setattr(module, leaf, nn.Parameter(weight))
        own = list(module.parameters(recurse=False))
        if shard and own and not own[0].is_meta:
            shard(nn.ParameterList(own))
    built.tie_weights()
    built.to(device)  # the buffers


def _choose_operators(loaded: Any, family: Family) -> None:
    if is_moe(loaded.config.text_config.to_dict()):
        loaded.set_experts_implementation(_EXPERTS)
    if family.recurrent_layer:
        fork_states(loaded, family.recurrent_layer())
    if family.windows:
        for attention in family.windows.attentions(loaded.get_submodule(family.vision_tower)):
            attention.config = copy(attention.config)  # which all blocks share
            attention.config._attn_implementation = WINDOW_ATTENTION
    _embed_patches_linearly(loaded.get_submodule(family.patch_embedding))


def _embed_patches_linearly(conv: Any) -> None:
    """Computes the convolution as the linear map that it is, since patches do not overlap; its name and weights stay.

    On a CPU forward and backward take a seventh of the time; on GPUs some versions of cuDNN have no bfloat16 kernel for it.
    """
    conv.forward = lambda pixels: linear(pixels.flatten(1), conv.weight.flatten(1), conv.bias)


def load_encoder(model: str, images: ImagesConfig, template_kwargs: Mapping[str, Any] = MappingProxyType({})) -> Encoder:
    """The checkpoint's processor as an Encoder. template_kwargs: variables of its chat template.

    Raises ValueError for an end token that its tokenizer lacks, and for a variable that its chat template does not use.
    """
    from transformers import AutoProcessor

    config = check_model(model)
    family, processor = family_of(config["model_type"]), AutoProcessor.from_pretrained(model)
    ends = end_tokens(model, config, processor.tokenizer, family)
    try:
        return Encoder(processor, images, family, ends, template_kwargs)
    except ValueError as error:
        raise ValueError(f"model {model!r}: {error}") from None


def end_tokens(model: str, config: Mapping[str, Any], tokenizer: Any, family: Family) -> list[int]:
    """The ids that end a response, the family's first: those of generation_config.json, or else of tokenizer and config.json.

    Raises ValueError for an id that the tokenizer lacks.
    """
    ends = _as_list(_generation_config(model).get("eos_token_id"))
    if not ends:
        texts = (tokenizer.eos_token_id, config.get("eos_token_id"), config["text_config"].get("eos_token_id"))
        ends = [end for text in texts for end in _as_list(text)]
    ends = list(dict.fromkeys([tokenizer.convert_tokens_to_ids(family.end_token), *ends]))
    if unknown := [end for end in ends if end not in range(len(tokenizer))]:
        raise ValueError(
            f"model {model!r}: eos_token_id {unknown[0]} is not one of its tokenizer's {len(tokenizer)} tokens; correct it in "
            f"{_GENERATION} or config.json"
        )
    return ends


def _as_list(ids: int | list[int] | None) -> list[int]:
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)


def _generation_config(model: str) -> dict[str, Any]:
    path = _file(model, _GENERATION)
    return json.loads(path.read_text()) if path else {}


def _file(model: str, name: str) -> Path | None:
    """A file of a checkpoint, in a folder or on the hub; None if it has no such file."""
    from transformers.utils import cached_file

    found = cached_file(model, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False)
    return Path(found) if found else None


def save_checkpoint(
    weights: Iterable[tuple[str, Tensor]], source: str, folder: Path, family: Family, processor: Any, ends: Sequence[int]
) -> None:
    """Writes a Hugging Face folder that transformers and vLLM load: processor, safetensors shards, and the settings of `source`.

    weights: (transformers' name, tensor) in the released layout, every parameter once. ends: the tokens that end a response.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generation = _generation_config(source) | {"eos_token_id": list(ends)}
    processor.save_pretrained(folder)
    for name in _COPIED:
        found = _file(source, name)
        if found and found.resolve() != (folder / name).resolve():
            shutil.copyfile(found, folder / name)
    (folder / _GENERATION).write_text(json.dumps(generation, indent=2) + "\n")
    index: dict[str, str] = {}
    named = ((family.released_name(name), tensor) for name, tensor in weights)
    for number, shard in enumerate(_shards(named), start=1):
        name = f"model-{number:05d}.safetensors"
        try:
            save_file(shard, folder / name, metadata={"format": "pt"})
        except SafetensorError as error:  # of a full disk, for example; it is no OSError
            raise OSError(None, str(error)) from error
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
