"""Loads recipes and runs them. A recipe is a file that turns a source's records into rows, for `vlrl data build`. It defines:

    SOURCE, LICENCE, VERSION                             entries of the manifest
    TRAIN, EVAL = 400, 100                               rows of the two data sets; None: all remaining rows
    def raws(source: str | None, seed: int)              yields the records; source: the value of --from, if given
    def to_row(raw) -> NewRow                            pure; raises Drop("reason") to leave a record out

`records` reads files and data sets from the hub, so raws may be `return records(source, SOURCE, split="train")`.

The images of a NewRow may be paths relative to the source's file: `images=(raw["picture"],)`. The build reads and decodes every
picture. It leaves out a record whose picture is missing or broken, like a record that to_row drops. A number or boolean as
question, answer or response becomes text as JSON writes it.

The task has the recipe's name, or the name in TASK. GOLD = False means that the source has tests but no answers, so the build
checks no answers. If a question repeats with the same images, the build keeps the first record that the verifier accepts, before
the split.
"""

import difflib
import importlib.util
import io
import json
import math
import random
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from PIL import Image

from vlrl.common.json_text import json_text
from vlrl.data.images import decode_whole_image
from vlrl.data.pixels import to_rgb
from vlrl.data.shards import NewRow, extension_of, row_identity
from vlrl.data.sources import SUFFIXES, SourceError, check_is_file, read_hub, read_records

T = TypeVar("T")

_PARTS = ("SOURCE", "LICENCE", "VERSION", "TRAIN", "EVAL", "raws", "to_row")
_UNUSABLE = "a picture that cannot be used"
_DETAIL = 500  # characters


class Drop(Exception):  # noqa: N818 (a decision, not an error)
    """Raised by `to_row` to leave a record out. reason: what the build counts by; detail: specific to this record."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.detail = detail


class Fault(Drop):
    """Raised by the build itself to leave a record out: something in it is broken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """A record that was left out of the data sets: its number in the source, from 1, and the reason.

    is_fault: whether a check of the build found it unusable; False if to_row dropped it or another record has its question.
    """

    record: int
    reason: str
    question: str = ""
    detail: str = ""
    is_fault: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A loaded recipe file and its definitions; its name is the file's stem.

    sizes: rows of each split, None for all remaining rows; has_gold: whether the verifier should accept each row's own answer.
    is_held_out: whether the record with a number is the source's own evaluation data; without it, eval is drawn at random.
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
    is_held_out: Callable[[int], bool] | None = None


def load_recipe(path: Path) -> Recipe:
    """Loads a recipe file. Raises ValueError if it cannot be loaded or a definition is missing."""
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
    """Yields (record number, row with encoded images) in the records' order; adds dropped records to `left_out`.

    Raises ValueError with the record, the recipe's line and the error if the recipe fails.
    """
    folder = Path(source or recipe.source).parent
    for number, raw in _records_of(recipe, source, seed):
        question = ""
        try:
            row = _row_of(recipe, number, raw)
            question = row.question
            row = replace(row, images=tuple(_encoded(image, folder) for image in row.images))
        except Drop as drop:
            is_fault = isinstance(drop, Fault)
            left_out.append(
                LeftOut(record=number, reason=str(drop), question=question, detail=drop.detail[:_DETAIL], is_fault=is_fault)
            )
        else:
            yield number, row


def without_repeated(rows: Iterable[tuple[int, NewRow]], left_out: list[LeftOut]) -> list[tuple[int, NewRow]]:
    """Keeps the first row of each question with the same images; adds repeated ones to `left_out`, naming the first record."""
    first: dict[str, tuple[int, NewRow]] = {}
    for number, row in rows:
        before, earlier = first.setdefault(row_identity(row.question, row.images), (number, row))
        if before != number:
            reason, detail = _repeats(row, earlier, before)
            left_out.append(LeftOut(record=number, reason=reason, question=row.question, detail=detail))
    return list(first.values())


def _repeats(row: NewRow, earlier: NewRow, record: int) -> tuple[str, str]:
    """The reason and detail for leaving out a row that repeats an earlier record's question."""
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
            f"{_line_in(recipe.path, error)}: raws fails after {number} records of {source or recipe.source} "
            f"({_error_text(error)}); fix raws or the source"
        ) from error


def _row_of(recipe: Recipe, number: int, raw: Any) -> NewRow:
    keys = f"; it has {', '.join(map(str, raw))}" if isinstance(raw, Mapping) else ""
    try:
        row = _with_plain_fields(recipe.to_row(raw))
    except Drop:
        raise
    except Exception as error:
        raise ValueError(
            f"{_line_in(recipe.path, error)}: to_row fails for record {number} ({_error_text(error)}){keys}; "
            f'fix to_row, or raise Drop("reason") in it for such records'
        ) from error
    if not row.answer and not row.meta:
        raise Drop("neither an answer nor meta to verify by")
    return row


def _with_plain_fields(row: NewRow) -> NewRow:
    """The row with texts as text and images as a tuple. Raises TypeError for a field that a row cannot hold.

    Raises Fault if the record lacks a question or a picture, or has a text that cannot be written.
    """
    if not isinstance(row, NewRow):
        raise TypeError(f"to_row must return a NewRow, got {type(row).__name__}")
    if row.question is None:
        raise Fault("no question")
    if row.images is None:
        raise Fault("no picture is named")
    if isinstance(row.images, str | bytes):
        raise TypeError("images must be a tuple, as in images=(picture,)")
    row = replace(
        row,
        question=_text(row.question, "question"),
        answer=_text(row.answer, "answer"),
        response=_text(row.response, "response"),
        images=tuple(row.images),
    )
    for picture in row.images:
        if not isinstance(picture, bytes | str | Path | Mapping | Image.Image | None):
            raise TypeError(f"images must be paths or encoded bytes, got {picture!r:.80} ({type(picture).__name__})")
    try:
        json.dumps([row.question, row.answer, row.response, dict(row.meta)], ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise Fault("a text that is not Unicode", f"it has half of a character (lone surrogate): {error.object!a:.80}") from None
    return row


def _text(value: Any, name: str) -> str:
    """A field as `json_text` reads it; None is no text. Raises Fault for a number that is not finite, else ValueError.

    >>> _text(7, "answer"), _text(None, "answer")
    ('7', '')
    """
    if value is None:
        return ""
    if isinstance(value, Real | Decimal) and not math.isfinite(value):
        raise Fault(f"its {name} is not a finite number", str(value))
    return json_text(value, name)


def _line_in(path: Path, error: Exception) -> str:
    """The recipe's file and line that raised the error."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path.absolute()]
    return f"{path}:{frames[-1].lineno}" if frames else str(path)


def _error_text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def split(
    rows: Sequence[tuple[int, T]], sizes: dict[str, int | None], seed: int, is_held_out: Callable[[int], bool] | None = None
) -> dict[str, list[tuple[int, T]]]:
    """Shuffles the numbered rows and splits them into train and eval, without shared rows.

    is_held_out: says by its number whether a row belongs to eval. Raises ValueError if there are too few rows.
    """
    shuffled = list(rows)
    random.Random(seed).shuffle(shuffled)
    if is_held_out:
        return {name: _first(name, [row for row in shuffled if is_held_out(row[0]) == (name == "eval")], sizes) for name in sizes}
    wanted = sum(size or 0 for size in sizes.values())
    if len(rows) < wanted:
        raise ValueError(f"{wanted} rows were requested, but only {len(rows)} exist; request fewer with --train and --eval")
    num_eval = len(rows) - (sizes["train"] or 0) if sizes["eval"] is None else sizes["eval"]
    if None in sizes.values() and len(rows) == wanted:
        rest = next(name for name, size in sizes.items() if size is None)
        raise ValueError(
            f"no row is left for {rest}: the other set takes all {len(rows)} that exist; request fewer with --train or --eval"
        )
    end = len(rows) if sizes["train"] is None else num_eval + sizes["train"]
    return {"eval": shuffled[:num_eval], "train": shuffled[num_eval:end]}


def _first(name: str, rows: list[tuple[int, T]], sizes: dict[str, int | None]) -> list[tuple[int, T]]:
    size = sizes[name]
    if len(rows) < (size or 1):
        raise ValueError(f"{size or 1} rows were requested for {name}, but only {len(rows)} exist")
    return rows[:size]


def records(source: str | None, default: str, *, split: str, config: str | None = None) -> Iterator[dict[str, Any]]:
    """The records of `source`, or of `default` if source is None: a .csv, .tsv, .json, .jsonl or .parquet file, or a hub data
    set.

    Every cell of a .csv or .tsv file is text. split, config: parts of the hub's data set; its images stay encoded. The source may
    also be a file on the hub, hf://datasets/OWNER/NAME/FILE. Raises SourceError if the source cannot be read.
    """
    name = source or default
    path, on_hub = Path(name), name.startswith("hf://")
    if not on_hub and (path.suffix in SUFFIXES or path.is_dir()):
        check_is_file(path)
        if path.suffix != ".parquet":
            return read_records(path)
    return read_hub(name, path.suffix if path.suffix in SUFFIXES else "", split=split, config=config)


def png(image: Image.Image) -> bytes:
    """The picture as PNG bytes, in RGB as vlrl.data.pixels describes. Raises Drop if training could not use it."""
    file = io.BytesIO()
    try:
        to_rgb(image).save(file, format="PNG")
    except ValueError as error:
        raise Fault(_UNUSABLE, str(error)) from None
    return file.getvalue()


def _encoded(picture: Any, folder: Path) -> bytes:
    """Encodes a picture from to_row as PNG or JPEG bytes. Raises Drop if training could not use it."""
    if isinstance(picture, Image.Image):
        return png(picture)
    if isinstance(picture, Mapping):  # the hub's format
        picture = picture["bytes"] if picture.get("bytes") else picture.get("path")
    content = picture if isinstance(picture, bytes) else _read_picture(picture, folder)
    try:
        image = decode_whole_image(content)
    except ValueError as error:
        named = "" if isinstance(picture, bytes) else f"{picture}: "
        raise Fault(_UNUSABLE, f"{named}{error}") from None
    return content if extension_of(content) else png(image)


def _read_picture(path: str | Path | None, folder: Path) -> bytes:
    if not path:
        raise Fault("no picture is named")
    try:
        return (folder / path).read_bytes()
    except FileNotFoundError:
        raise Fault("a picture file that is missing", str(folder / path)) from None
    except OSError as error:
        raise Fault("a picture file that cannot be read", f"{folder / path}: {error.strerror}") from None
    except (ValueError, TypeError) as error:  # a name that no file can have
        raise Fault("a picture file that cannot be read", f"{str(path)!a:.80}: {error}") from None


def _load_module(path: Path) -> ModuleType:
    if path.suffix != ".py":
        raise ValueError(
            f"{path} is not a recipe; a recipe is a .py file: write one with vlrl new recipe NAME, use it with --from {path}; or "
            "name the columns with --columns, and it needs none"
        )
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
        raise ValueError(f"{_line_in(path, error)} cannot be loaded ({_error_text(error)})") from error
    return module
