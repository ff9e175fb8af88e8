"""Suggests the nearest known name for an unknown one, as text for an error message."""

import difflib
from collections.abc import Iterable
from pathlib import Path

_NEAR = 0.75  # stricter than for names, because paths in one folder share a prefix
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
    near = [candidates[name] for name in difflib.get_close_matches(str(folder), candidates, n=1, cutoff=_NEAR)]
    return f"did you mean {(inside or near)[0]}? " if inside or near else ""
