"""Suggests the nearest known name for an unknown one, as text for an error message."""

import difflib
from collections.abc import Iterable
from pathlib import Path

_NEAR = 0.75
_FIRST = ("train", "model")  # preferred among several folders inside the given one


def nearest(name: str, known: Iterable[str]) -> str:
    """ "did you mean 'sums'? ", or empty if no known name is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]!r}? " if near else ""


def nearest_folder(folder: Path, *, with_file: str) -> str:
    """ "did you mean data/dots/train? ": a folder with the file, inside the given folder or with a similar name."""
    above = next(parent for parent in (folder, *folder.parents) if parent.is_dir() or parent == Path(parent.anchor))
    if above == Path(above.anchor) != Path():
        return ""  # do not search the whole disk
    found = [path.parent for depth in (1, 2, 3) for path in sorted(above.glob(f"{'*/' * depth}{with_file}"))]
    found.sort(key=lambda path: path.name not in _FIRST)
    inside = [path for path in found if path.is_relative_to(folder)]
    candidates = {str(path.parent): path for path in reversed(found)} | {str(path): path for path in found}
    name = max(candidates, key=lambda name: _alike(folder, Path(name)), default="")
    near = [candidates[name]] if name and _alike(folder, Path(name)) >= _NEAR else []
    return f"did you mean {(inside or near)[0]}? " if inside or near else ""


def _alike(one: Path, other: Path) -> float:
    """How alike the least alike part of two paths is, from 0 to 1: data/counting/train is no slip for data/functions/train."""
    if len(one.parts) != len(other.parts):
        return 0.0
    return min(
        1.0 if sorted(mine) == sorted(theirs) else difflib.SequenceMatcher(None, mine, theirs).ratio()  # letters change places
        for mine, theirs in zip(one.parts, other.parts, strict=True)
    )
