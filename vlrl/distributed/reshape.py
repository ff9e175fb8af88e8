"""Parameters and optimizer state, written in the parts that each rank holds and read in the parts that other ranks hold.

`rank-00003.pt` holds what rank 3 held: flat tensors as they lay in its memory, and which elements of which parameter lie in them.
A part is known by its parameter's name and its first element, so a file says nothing of the number of ranks or of their ZeRO
stage. A rank that reads maps the files into memory and copies the elements that it needs. That makes no second copy on disk, and
ranks that are laid out as those that wrote read little but their own file.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

_WEIGHT = "weight"


class Part(NamedTuple):
    """`numel` elements of a flattened parameter, from its element `first` on; they begin at element `start` of a flat tensor."""

    name: str
    first: int
    start: int
    numel: int

    @property
    def end(self) -> int:
        return self.first + self.numel


@dataclass(frozen=True, kw_only=True, slots=True)
class Flat:
    """A tensor that this rank holds, with its optimizer state.

    weight: of any shape, counted as if flattened; what lies between the parts is padding. state: the optimizer's own dict of
    tensors like the weight (exp_avg, ...) and of numbers (step); empty before the first update. is_saved: False if another rank
    saves the same.
    """

    weight: Tensor
    parts: Sequence[Part]
    state: dict[str, Any] = field(default_factory=dict)
    is_saved: bool = True


_Wanted = Sequence[tuple[int, Part, Flat]]
"""The parts of a parameter that this rank needs, in order, each with its first element and the flat tensor in which it lies."""


def save(folder: Path, rank: int, flats: Sequence[Flat], sizes: Mapping[str, int], progress: Mapping[str, Any]) -> None:
    """Writes this rank's file.

    sizes: the number of elements of each parameter of the whole model; progress: plain values, which are the same on all ranks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = {"sizes": dict(sizes), "progress": dict(progress), "flats": [_plain(flat) for flat in flats if flat.is_saved]}
    torch.save(content, folder / f"rank-{rank:05d}.pt")


def load(folder: Path, rank: int, flats: Sequence[Flat], sizes: Mapping[str, int], *, with_state: bool = True) -> dict[str, Any]:
    """Fills weights, and with_state the optimizer's state, from the files of any number of ranks; returns their `progress`.

    ValueError if there are no files, if they are of another model, or if elements are missing in them.
    """
    own, files = folder / f"rank-{rank:05d}.pt", sorted(folder.glob("rank-*.pt"))
    wanted = _by_name(flats)
    missing = Counter({name: sum(part.numel for _, part, _ in parts) for name, parts in wanted.items()})
    for flat in flats:
        flat.state.clear()
    progress: dict[str, Any] = {}
    for file in sorted(files, key=lambda each: each != own):
        saved = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
        _check_sizes(file, saved["sizes"], sizes)
        progress = saved["progress"]
        for tensors, numbers, parts in saved["flats"]:
            for theirs in (Part(*part) for part in parts):
                for mine, flat in _overlapping(wanted.get(theirs.name, ()), theirs):
                    if with_state:
                        missing[theirs.name] -= _copy(tensors, numbers, theirs, flat, mine)
                    else:
                        missing[theirs.name] -= _copy({_WEIGHT: tensors[_WEIGHT]}, {}, theirs, flat, mine)
        if not any(missing.values()):
            return progress
    lacking = [f"{count} elements of {name}" for name, count in missing.items() if count]
    raise ValueError(
        f"{folder} is not whole: its {len(files)} files rank-*.pt lack {lacking[0] if lacking else 'everything'}; remove this "
        "checkpoint to resume from an older one"
    )


def _plain(flat: Flat) -> tuple[dict[str, Tensor], dict[str, Any], list[tuple[str, int, int, int]]]:
    """A flat tensor in types that torch.load reads with weights_only.

    Returns its tensors, its numbers, each with whether it lies on the weight's device, and its parts.
    """
    tensors, numbers = {_WEIGHT: _compact(flat.weight.detach())}, {}
    for key, value in flat.state.items():
        if isinstance(value, Tensor) and value.shape == flat.weight.shape:
            tensors[key] = _compact(value)
        elif value is None or isinstance(value, int | float) or value.numel() == 1:
            numbers[key] = (value, isinstance(value, Tensor) and value.device == flat.weight.device)
        else:
            raise ValueError(f"policy.deepspeed: no checkpoint can be made of an optimizer with a state {key!r} of its own shape")
    return tensors, numbers, [(*part,) for part in flat.parts]


def _compact(tensor: Tensor) -> Tensor:
    """The tensor without the rest of a larger storage, which torch.save would write too."""
    return tensor if tensor.nbytes == tensor.untyped_storage().nbytes() else tensor.clone()


def _by_name(flats: Sequence[Flat]) -> dict[str, _Wanted]:
    found: dict[str, list[tuple[int, Part, Flat]]] = defaultdict(list)
    for flat in flats:
        for part in flat.parts:
            found[part.name].append((part.first, part, flat))
    return {name: sorted(parts, key=itemgetter(0)) for name, parts in found.items()}


def _check_sizes(file: Path, saved: Mapping[str, int], sizes: Mapping[str, int]) -> None:
    for name in {**saved, **sizes}:
        if saved.get(name) != sizes.get(name):
            raise ValueError(
                f"{file} is of another model: {name} has {saved.get(name, 0)} elements in it, {sizes.get(name, 0)} in the run's "
                "model; start a run of another name"
            )


def _overlapping(wanted: _Wanted, theirs: Part) -> Iterator[tuple[Part, Flat]]:
    """The wanted parts that share elements with theirs."""
    begin = max(0, bisect_right(wanted, theirs.first, key=itemgetter(0)) - 1)
    for first, mine, flat in wanted[begin:]:
        if first >= theirs.end:
            return
        if mine.end > theirs.first:
            yield mine, flat


def _copy(tensors: Mapping[str, Tensor], numbers: Mapping[str, Any], theirs: Part, flat: Flat, mine: Part) -> int:
    """Copies the elements that both parts have into the flat tensor and its state; returns how many they are."""
    first, end = max(theirs.first, mine.first), min(theirs.end, mine.end)
    source, target = first - theirs.first + theirs.start, first - mine.first + mine.start
    for key, tensor in tensors.items():
        if key != _WEIGHT and key not in flat.state:
            flat.state[key] = torch.zeros_like(flat.weight, dtype=tensor.dtype, requires_grad=False)
        whole = flat.weight.detach() if key == _WEIGHT else flat.state[key]
        whole.view(-1)[target : target + end - first].copy_(tensor.view(-1)[source : source + end - first])
    for key, (value, is_beside_weight) in numbers.items():
        device = flat.weight.device if is_beside_weight else "cpu"
        flat.state[key] = value.to(device, copy=True) if isinstance(value, Tensor) else value
    return end - first
