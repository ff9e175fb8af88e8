"""A recipe is one file that turns a source's records into rows; `vlrl data build` does the rest. It defines:

    SOURCE, LICENCE, VERSION                             what the manifest says
    TRAIN, EVAL = 400, 100                               rows of the two data sets; None: all that are left
    def raws(source: str | None, seed: int)              the records, of a file or a hub's data set where there is one to name
    def to_row(raw) -> NewRow                            pure; raises Drop("why") for a record that is no row

`records` reads files and data sets of the hub, so that raws may be `return records(source, SOURCE, split="train")`.

Its task is the one of the same name, or TASK. GOLD = False: the source has no answers of its own that could be checked, only
tests. Rows that repeat a question with the same images count once, before the split.
"""

import importlib.util
import io
import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from PIL import Image

from vlrl.data.shards import NewRow

T = TypeVar("T")

_PARTS = ("SOURCE", "LICENCE", "VERSION", "TRAIN", "EVAL", "raws", "to_row")
_KINDS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}


class Drop(Exception):  # noqa: N818 (a verdict, not an error)
    """Raised by `to_row` for a record that is no row; the reason is counted and told."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """A record that became no row of a data set: its number in the source, from 1, and the reason."""

    record: int
    reason: str
    question: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A loaded recipe file: what it defines, under the file's stem.

    sizes: rows of each split, None for all that are left; has_gold: rows have an answer that their verifier should accept.
    """

    name: str
    task: str
    source: str
    licence: str
    version: int
    sizes: dict[str, int | None]
    has_gold: bool
    raws: Callable[[str | None, int], Iterable[Any]]
    to_row: Callable[[Any], NewRow]


def load_recipe(path: Path) -> Recipe:
    """ValueError where the file cannot be loaded, or a part is missing."""
    module = _load_module(path)
    if missing := [part for part in _PARTS if part not in vars(module)]:
        raise ValueError(f"{path} must define {', '.join(missing)}; see the docstring of vlrl/data/recipe.py")
    return Recipe(
        name=path.stem,
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
    """The distinct rows with their record's number, in the records' order; the others are added to `left_out`."""
    seen = set()
    for number, raw in enumerate(recipe.raws(source, seed), start=1):
        try:
            row = recipe.to_row(raw)
        except Drop as reason:
            left_out.append(LeftOut(record=number, reason=str(reason)))
            continue
        except (KeyError, TypeError, AttributeError) as error:
            has = f"; it has {', '.join(map(str, raw))}" if isinstance(raw, dict) else ""
            raise ValueError(
                f"recipe {recipe.name}: record {number} makes no row ({type(error).__name__}: {error}){has}"
            ) from error
        if not row.answer and not row.meta:
            left_out.append(LeftOut(record=number, reason="neither an answer nor meta to verify by", question=row.question))
        elif (row.question, row.images) in seen:
            left_out.append(LeftOut(record=number, reason="asked before", question=row.question))
        else:
            seen.add((row.question, row.images))
            yield number, row


def split(rows: Sequence[T], sizes: dict[str, int | None], seed: int) -> dict[str, list[T]]:
    """The rows, shuffled, as train and eval without a row in common. ValueError: fewer rows than asked for."""
    wanted = sum(size or 0 for size in sizes.values())
    if len(rows) < wanted:
        raise ValueError(f"there are {len(rows)} rows; {wanted} were asked for")
    shuffled = list(rows)
    random.Random(seed).shuffle(shuffled)
    num_eval = len(rows) - (sizes["train"] or 0) if sizes["eval"] is None else sizes["eval"]
    end = len(rows) if sizes["train"] is None else num_eval + sizes["train"]
    return {"eval": shuffled[:num_eval], "train": shuffled[num_eval:end]}


def records(source: str | None, default: str, *, split: str, config: str | None = None) -> Iterator[dict[str, Any]]:
    """The records of a .json, .jsonl, .csv or .parquet file, or of a data set on the hub (`default` where source is None).

    split, config: of the hub's data set; a file of it may be named too, as hf://datasets/OWNER/NAME/FILE.
    ValueError where the source cannot be read.
    """
    name = source or default
    path, on_hub = Path(name), name.startswith("hf://")
    if path.suffix in _KINDS and not on_hub:
        if not path.exists():
            raise ValueError(f"no file {name}; name one with --from")
        if path.suffix in (".jsonl", ".json"):
            with path.open(encoding="utf-8") as lines:  # a line ends at \n alone: JSON text may hold other separators
                yield from json.load(lines) if path.suffix == ".json" else _json_lines(path, lines)
            return
    from datasets import disable_progress_bars, load_dataset  # a second or two, for a source that is no plain file

    disable_progress_bars()
    try:
        if path.suffix in _KINDS:
            yield from load_dataset(_KINDS[path.suffix], data_files=name, split="train")
        else:
            yield from load_dataset(name, config, split=split)
    except Exception as error:  # the library and its readers fail in ways of their own
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{name} cannot be read ({type(error).__name__}: {reason}); name a file with --from") from None


def _json_lines(path: Path, lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}:{number} is not JSON ({error.msg})") from None


def pictured(raws: Iterable[dict[str, Any]], source: str | None, key: str = "image") -> Iterator[dict[str, Any]]:
    """The records with their image, or each of a list, as encoded bytes: of a path beside the file, of bytes, or of a picture."""
    folder = Path(source or "").parent
    for raw in raws:
        images = raw[key]
        yield raw | {key: [_encoded(image, folder) for image in images] if isinstance(images, list) else _encoded(images, folder)}


def png(image: Image.Image) -> bytes:
    """The picture, encoded."""
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def _encoded(image: Any, folder: Path) -> bytes:
    if isinstance(image, str):
        return (folder / image).read_bytes()
    return image["bytes"] if isinstance(image, dict) else png(image.convert("RGB"))


def _load_module(path: Path) -> ModuleType:
    if path.suffix != ".py":
        raise ValueError(f"{path} is no recipe, which is a .py file; data are read by one: RECIPE.py --from {path}")
    if not path.exists():
        raise ValueError(f"no recipe {path}; found {sorted(file.stem for file in path.parent.glob('[!_]*.py'))}")
    spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
    assert spec and spec.loader, path
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be loaded: {error}") from error
    return module
