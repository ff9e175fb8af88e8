"""Compares the tensors in a checkpoint's files with those of its model: a missing one would be random, and nothing would say so.

The files' headers have names and shapes, so a run checks a local checkpoint before anything is loaded.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from vlrl.models.config_json import family_of

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_NAMED = 3  # tensors in a sentence

Shape = tuple[int, ...]


def empty_model(model: str) -> Any:
    """The checkpoint's model without its weights, on torch's meta device."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(model))


def check_tensors(model: str) -> None:
    """Raises ValueError, naming the tensors, if a checkpoint's files lack some of its model's, have others or other shapes.

    A checkpoint on the hub, or one without safetensors files, is left to `check_loaded`.
    """
    files = _files(Path(model))
    if not files:
        return
    held = {name: (shape, file) for file in files for name, shape in _header(model, file).items()}
    built = empty_model(model)
    family = family_of(built.config.model_type)
    embedding, head = family.tied_weights
    expected = {name: tuple(family.released_layout(name, tensor).shape) for name, tensor in built.named_parameters()}
    shapes = {name: shape for name, (shape, _) in held.items()}
    if head in held and head not in expected:  # tied
        if embedding in held and not _read(held[head][1], head).equal(_read(held[embedding][1], embedding)):
            raise ValueError(_two_heads(model, head))
        del shapes[head]
    _compare(model, expected, shapes, head=head)


def check_loaded(model: str, loaded: Any, *, missing: Iterable[str], unexpected: Iterable[str]) -> None:
    """Raises ValueError, naming the tensors, by what transformers reports of a model that it has loaded."""
    head = family_of(loaded.config.model_type).tied_weights[1]
    if loaded.config.tie_word_embeddings and loaded.get_output_embeddings().weight is not loaded.get_input_embeddings().weight:
        raise ValueError(_two_heads(model, head))
    _refuse(model, sorted(missing), sorted(unexpected), len(list(loaded.named_parameters())), head=head)


def _files(folder: Path) -> list[Path]:
    """The safetensors files of a local checkpoint, as transformers chooses them."""
    if (folder / _SINGLE).is_file():
        return [folder / _SINGLE]
    if (folder / _INDEX).is_file():
        return [folder / name for name in sorted(set(json.loads((folder / _INDEX).read_text())["weight_map"].values()))]
    return []


def _header(model: str, file: Path) -> dict[str, Shape]:
    try:
        with safe_open(file, "pt") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors raises its own exception, and OSError
        raise ValueError(f"model {model!r}: {file.name} cannot be read ({error}); download or export the model again") from None


def _read(file: Path, name: str) -> torch.Tensor:
    with safe_open(file, "pt") as opened:
        return opened.get_tensor(name)


def _compare(model: str, expected: Mapping[str, Shape], held: Mapping[str, Shape], *, head: str) -> None:
    _refuse(model, sorted(expected.keys() - held.keys()), sorted(held.keys() - expected.keys()), len(expected), head=head)
    differing = [name for name, shape in expected.items() if held[name] != shape]
    if differing:
        first = differing[0]
        raise ValueError(
            f"model {model!r}: {_listed(differing)} of {len(expected)} tensors have other shapes than its config.json says; the "
            f"first is {list(held[first])} instead of {list(expected[first])}; correct config.json or export the model again"
        )


def _refuse(model: str, missing: Collection[str], unexpected: Collection[str], total: int, *, head: str) -> None:
    if missing:
        remedy = "download or export the model again"
        if head in missing:
            remedy = f"if {head} is its embedding, set tie_word_embeddings to true in config.json; otherwise {remedy}"
        raise ValueError(f"model {model!r} lacks {_listed(missing)} of {total} tensors, which would be random; {remedy}")
    if unexpected:
        raise ValueError(
            f"model {model!r} has {_listed(unexpected)} besides its {total} tensors, which its config.json does not describe; "
            "remove them, or correct config.json"
        )


def _two_heads(model: str, head: str) -> str:
    return f"model {model!r}: its {head} is not its embedding, but config.json has tie_word_embeddings: true; set it to false"


def _listed(names: Collection[str]) -> str:
    """ "2 (model.norm.weight, lm_head.weight)" """
    shown = [*list(names)[:_NAMED], *(["..."] if len(names) > _NAMED else [])]
    return f"{len(names)} ({', '.join(shown)})"
