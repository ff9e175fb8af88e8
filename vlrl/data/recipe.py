"""What all recipes share: the command line, and two data sets, OUT/train and OUT/eval, without a row in common.

A recipe is a script around a pure `to_row(raw)`: it names its source, turns each raw record into a NewRow or None (left
out), and hands the rows over. Rows that repeat a question with the same images count once, before the split.
"""

import argparse
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vlrl.data.shards import NewRow, write_dataset


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """out: folder of the two data sets; train, eval: rows of each."""

    out: Path
    seed: int
    train: int
    eval: int


def parse_options(description: str | None, *, train: int, eval: int) -> Options:
    """--out, --seed, --train and --eval of a recipe's command line, with the recipe's own sizes as defaults."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the data sets OUT/train and OUT/eval")
    parser.add_argument("--seed", type=int, default=0, help="draws and splits the rows")
    parser.add_argument("--train", type=int, default=train, help="rows of OUT/train")
    parser.add_argument("--eval", type=int, default=eval, help="rows of OUT/eval")
    return Options(**vars(parser.parse_args()))


def write_splits(
    options: Options, rows: Iterable[NewRow | None], *, source: str, licence: str, recipe: str, recipe_version: int
) -> None:
    """Writes OUT/train and OUT/eval from the distinct rows, shuffled. ValueError: fewer distinct rows than asked for."""
    drawn = list(rows)
    distinct = list({(row.question, row.images): row for row in drawn if row is not None}.values())
    num_wanted = options.train + options.eval
    if len(distinct) < num_wanted:
        raise ValueError(f"{recipe}: {len(distinct)} distinct rows among {len(drawn)} records; {num_wanted} were asked for")
    random.Random(options.seed).shuffle(distinct)
    splits = {"eval": distinct[: options.eval], "train": distinct[options.eval : num_wanted]}
    for split, chosen in splits.items():
        folder = options.out / split
        dataset = write_dataset(folder, chosen, source=source, licence=licence, recipe=recipe, recipe_version=recipe_version)
        print(f"{folder}: {len(dataset)} rows, {dataset.manifest.num_images} images")
