"""A recipe is one file that turns a source's records into rows; `vlrl data build` does the rest. It defines:

    SOURCE, LICENCE, VERSION                             what the manifest says
    TRAIN, EVAL = 400, 100                               rows of the two data sets; None: all that are left
    def raws(source: str | None, seed: int)              yields the records; source: what --from names, if anything
    def to_row(raw) -> NewRow                            pure; raises Drop("why") for a record that is no row

`records` reads files and data sets of the hub, so raws may be `return records(source, SOURCE, split="train")`.

The images of a NewRow may be paths relative to the source's file: `images=(raw["picture"],)`. Every picture is read and decoded
here. A record whose picture is missing or broken is left out, like one that to_row drops.

The task is the one of the recipe's name, or TASK. GOLD = False: the source has tests and no answers, so no answer is checked.
A question that repeats with the same images is left out, before the split: the first that its verifier accepts is kept.
"""

import difflib
import importlib.util
import io
import json
import random
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from PIL import Image

from vlrl.data.images import decode_image
from vlrl.data.shards import NewRow, extension_of, row_identity
from vlrl.data.sources import SUFFIXES, SourceError, check_is_file, read_hub, read_records

T = TypeVar("T")

_PARTS = ("SOURCE", "LICENCE", "VERSION", "TRAIN", "EVAL", "raws", "to_row")


class Drop(Exception):  # noqa: N818 (a verdict, not an error)
    """Raised by `to_row` for a record that is no row. The build counts the reasons; detail: what differs between records."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.detail = detail


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """A record that became no row of a data set: its number in the source, from 1, and the reason."""

    record: int
    reason: str
    question: str = ""
    detail: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A loaded recipe file: what it defines, under the file's stem.

    sizes: rows of each split, None for all that are left; has_gold: rows have an answer that their verifier should accept.
    """

    name: str
    path: Path
    task: str
    source: str
    licence: str
    version: int
    sizes: dict[str, int | None]
    has_gold: bool
    raws: Callable[[str | None, int], Iterable[Any]]
    to_row: Callable[[Any], NewRow]


def load_recipe(path: Path) -> Recipe:
    """ValueError if the file cannot be loaded, or a part is missing."""
    module = _load_module(path)
    if missing := [part for part in _PARTS if part not in vars(module)]:
        raise ValueError(f"{path} must define {', '.join(missing)}; see the docstring of vlrl/data/recipe.py")
    return Recipe(
        name=path.stem,
        path=path,
        task=getattr(module, "TASK", path.stem),
        source=module.SOURCE,
        licence=module.LICENCE,
        version=module.VERSION,
        sizes={"train": module.TRAIN, "eval": module.EVAL},
        has_gold=getattr(module, "GOLD", True),
        raws=module.raws,
        to_row=module.to_row,
    )


def rows_of(recipe: Recipe, source: str | None, seed: int, left_out: list[LeftOut]) -> Iterator[tuple[int, NewRow]]:
    """The rows, their images encoded, with their record's number, in the records' order; adds what is no row to `left_out`.

    ValueError if the recipe fails: it names the record, the recipe's line, and the fault.
    """
    folder = Path(source or recipe.source).parent
    for number, raw in _records_of(recipe, source, seed):
        question = ""
        try:
            row = _row_of(recipe, number, raw)
            question = row.question
            row = replace(row, images=tuple(_encoded(image, folder) for image in row.images))
        except Drop as drop:
            left_out.append(LeftOut(record=number, reason=str(drop), question=question, detail=drop.detail))
        else:
            yield number, row


def without_repeated(rows: Iterable[tuple[int, NewRow]], left_out: list[LeftOut]) -> list[tuple[int, NewRow]]:
    """The first row of each question about the same images; adds the others to `left_out`, with the record that they repeat."""
    first: dict[str, tuple[int, NewRow]] = {}
    for number, row in rows:
        before, earlier = first.setdefault(row_identity(row.question, row.images), (number, row))
        if before != number:
            reason, detail = _repeats(row, earlier, before)
            left_out.append(LeftOut(record=number, reason=reason, question=row.question, detail=detail))
    return list(first.values())


def _repeats(row: NewRow, earlier: NewRow, record: int) -> tuple[str, str]:
    """The reason that leaves out a row whose question an earlier record asked, and the detail that names that record."""
    if row.answer != earlier.answer:
        return "asked before, with another answer", f"{row.answer!r:.60}, in record {record} {earlier.answer!r:.60}"
    if dict(row.meta) != dict(earlier.meta):
        return "asked before, with another answer", f"with another meta than record {record}"
    return "asked before", f"the same as record {record}"


def _records_of(recipe: Recipe, source: str | None, seed: int) -> Iterator[tuple[int, Any]]:
    number = 0
    try:
        for number, raw in enumerate(recipe.raws(source, seed), start=1):
            yield number, raw
    except SourceError:
        raise
    except Exception as error:
        raise ValueError(
            f"{_line_in(recipe.path, error)}: raws fails after {number} records of {source or recipe.source} ({_told(error)}); "
            f"mend raws or the source"
        ) from error


def _row_of(recipe: Recipe, number: int, raw: Any) -> NewRow:
    has = f"; it has {', '.join(map(str, raw))}" if isinstance(raw, Mapping) else ""
    try:
        row = recipe.to_row(raw)
        _check_fields(row)
    except Drop:
        raise
    except Exception as error:
        raise ValueError(
            f"{_line_in(recipe.path, error)}: record {number} makes no row ({_told(error)}){has}; "
            f'mend to_row, or raise Drop("why") in it for such a record'
        ) from error
    if not row.answer and not row.meta:
        raise Drop("neither an answer nor meta to verify by")
    return row


def _check_fields(row: NewRow) -> None:
    """TypeError for what a row cannot hold."""
    if not isinstance(row, NewRow):
        raise TypeError(f"to_row must return a NewRow, it returned {type(row).__name__}")
    for name in ("question", "answer", "response"):
        if not isinstance(value := getattr(row, name), str):
            raise TypeError(f"{name} must be text, as in str(...), it is {value!r:.80} ({type(value).__name__})")
    if isinstance(row.images, str | bytes):
        raise TypeError("images must be a tuple, as in images=(picture,)")
    for picture in row.images:
        if not isinstance(picture, bytes | str | Path | Mapping | Image.Image | None):
            raise TypeError(f"images must hold paths or encoded bytes, one is {picture!r:.80} ({type(picture).__name__})")
    json.dumps(dict(row.meta))


def _line_in(path: Path, error: Exception) -> str:
    """The recipe's file, with its line at which the error arose."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path.absolute()]
    return f"{path}:{frames[-1].lineno}" if frames else str(path)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def split(rows: Sequence[T], sizes: dict[str, int | None], seed: int) -> dict[str, list[T]]:
    """The rows, shuffled, as train and eval without a row in common. ValueError: fewer rows than asked for."""
    wanted = sum(size or 0 for size in sizes.values())
    if len(rows) < wanted:
        raise ValueError(f"there are {len(rows)} rows, and {wanted} were asked for")
    shuffled = list(rows)
    random.Random(seed).shuffle(shuffled)
    num_eval = len(rows) - (sizes["train"] or 0) if sizes["eval"] is None else sizes["eval"]
    end = len(rows) if sizes["train"] is None else num_eval + sizes["train"]
    return {"eval": shuffled[:num_eval], "train": shuffled[num_eval:end]}


def records(source: str | None, default: str, *, split: str, config: str | None = None) -> Iterator[dict[str, Any]]:
    """The records of a .csv, .tsv, .json, .jsonl or .parquet file, or of a data set on the hub (`default` where source is None).

    Every cell of a .csv or .tsv file is text. split, config: of the hub's data set; its images come encoded. A file on the hub
    may be named too, as hf://datasets/OWNER/NAME/FILE. SourceError if the source cannot be read.
    """
    name = source or default
    path, on_hub = Path(name), name.startswith("hf://")
    if not on_hub and (path.suffix in SUFFIXES or path.is_dir()):
        check_is_file(path)
        if path.suffix != ".parquet":
            return read_records(path)
    return read_hub(name, path.suffix if path.suffix in SUFFIXES else "", split=split, config=config)


def png(image: Image.Image) -> bytes:
    """The picture, encoded."""
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def _encoded(picture: Any, folder: Path) -> bytes:
    """A picture of to_row as PNG or JPEG bytes. Drop if training could not use it."""
    if isinstance(picture, Mapping):  # as the hub's data sets hold one
        picture = picture["bytes"] if picture.get("bytes") else picture.get("path")
    if isinstance(picture, Image.Image):
        picture = png(picture.convert("RGB"))
    detail = "" if isinstance(picture, bytes) else str(picture)
    content = picture if isinstance(picture, bytes) else _read_picture(picture, folder)
    try:
        image = decode_image(content)
    except ValueError as error:
        raise Drop("a picture that cannot be used", f"{detail}: {error}".removeprefix(": ")) from None
    return content if extension_of(content) else png(image)


def _read_picture(path: str | Path | None, folder: Path) -> bytes:
    if not path:
        raise Drop("no picture is named")
    try:
        return (folder / path).read_bytes()
    except FileNotFoundError:
        raise Drop("a picture file that is missing", str(folder / path)) from None
    except OSError as error:
        raise Drop("a picture file that cannot be read", f"{folder / path}: {error.strerror}") from None


def _load_module(path: Path) -> ModuleType:
    if path.suffix != ".py":
        raise ValueError(f"{path} is no recipe, which is a .py file; vlrl new recipe NAME writes one; use it with --from {path}")
    if not path.exists():
        found = [str(file) for file in sorted(path.parent.glob("[!_]*.py"))]
        near = difflib.get_close_matches(str(path), found, n=1)
        hint = f"did you mean {near[0]}?" if near else f"write it: vlrl new recipe {path.stem} --folder {path.parent}"
        raise ValueError(f"no recipe {path}; {hint}")
    spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path.absolute())
    assert spec and spec.loader, path
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise ValueError(f"{error.filename}:{error.lineno}: {error.msg}") from None
    except Exception as error:
        raise ValueError(f"{_line_in(path, error)} cannot be loaded ({_told(error)})") from error
    return module
