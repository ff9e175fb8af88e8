"""The nearest known name to one that is not known, as the part of an error that says what was probably meant."""

import difflib
from collections.abc import Iterable
from pathlib import Path

_NEAR = 0.75  # paths of one folder begin alike
_FIRST = ("train", "model")  # of several folders inside the one that was named


def nearest(name: str, known: Iterable[str]) -> str:
    """ "did you mean 'sums'? ", or nothing where no known name is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]!r}? " if near else ""


def nearest_folder(folder: Path, *, with_file: str) -> str:
    """ "did you mean data/dots/train? ": a folder that has the file, inside the one that was named or of a similar name."""
    above = next(parent for parent in (folder, *folder.parents) if parent.is_dir() or parent == Path(parent.anchor))
    if above == Path(above.anchor) != Path():
        return ""  # all of the machine's folders are too many to look through
    there = [path.parent for depth in (1, 2, 3) for path in sorted(above.glob(f"{'*/' * depth}{with_file}"))]
    there.sort(key=lambda path: path.name not in _FIRST)
    inside = [path for path in there if path.is_relative_to(folder)]
    meant = {str(path.parent): path for path in reversed(there)} | {str(path): path for path in there}
    near = [meant[name] for name in difflib.get_close_matches(str(folder), meant, n=1, cutoff=_NEAR)]
    return f"did you mean {(inside or near)[0]}? " if inside or near else ""
