"""Compares the tensors in a checkpoint's files with those of its model: a missing one would be random, and nothing would say so.

The files' headers have names and shapes, so a run checks a local checkpoint before anything is loaded.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from vlrl.models.config_json import family_of
from vlrl.models.families.family import Family
from vlrl.models.weight_files import Shape, TensorFiles, read_header, read_tensor, weight_files

_NAMED = 3  # tensors in a sentence


def empty_model(model: str) -> Any:
    """The checkpoint's model without its weights, on torch's meta device."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(model))


def check_tensors(model: str) -> TensorFiles:
    """Where each tensor is, by transformers' names; empty for one on the hub that is not downloaded.

    Raises ValueError, naming the tensors, if the files lack some of the model's, have others or other shapes.
    """
    files = weight_files(model)
    if not files:
        if Path(model).is_dir():
            raise ValueError(f"model {model!r} has no safetensors files; save it with transformers' save_pretrained first")
        return {}
    built = empty_model(model)
    family = family_of(built.config.model_type)
    shapes: dict[str, Shape] = {}
    held: dict[str, tuple[Path, str]] = {}
    for file in files:
        for released, shape in read_header(model, file).items():
            name = family.own_name(released)
            if not name.startswith(family.unused_weights):
                shapes[name], held[name] = shape, (file, released)
    embedding, head = family.tied_weights
    expected = {name: tuple(family.released_layout(name, tensor).shape) for name, tensor in built.named_parameters()}
    if head in held and head not in expected:  # tied
        if embedding in held and not read_tensor(held, head).equal(read_tensor(held, embedding)):
            raise ValueError(
                f"model {model!r}: its {head} is not its embedding, but config.json has tie_word_embeddings: true; "
                "set it to false"
            )
        del shapes[head]
    _compare(model, expected, shapes, head=head)
    return held


def unused_tensors(model: str, family: Family) -> list[str]:
    """The checkpoint's tensors that transformers' model has no place for, such as those of a head for multi-token prediction."""
    return [name for file in weight_files(model) for name in read_header(model, file) if name.startswith(family.unused_weights)]


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


def _listed(names: Collection[str]) -> str:
    """ "2 (model.norm.weight, lm_head.weight)" """
    shown = [*list(names)[:_NAMED], *(["..."] if len(names) > _NAMED else [])]
    return f"{len(names)} ({', '.join(shown)})"
