"""`vlrl data`: builds data sets from recipes, prints, checks and filters them."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from vlrl.cli.shared import SETTINGS, TASKS, Folders, Overrides, RunFile, open_to_sample, sentences
from vlrl.common.folder_lock import held

data = typer.Typer(no_args_is_help=True, help="Builds, checks, prints and filters data sets.")


@data.command(
    epilog="Example: vlrl data build data_recipes/dots.py --from dots/dots.csv --out data/dots; without a recipe: "
    "vlrl data build hub:hiyouga/geometry3k --columns question=problem,answer=answer,images=images --task geometry --eval 200 "
    "--out data/geometry3k"
)
def build(
    recipe: Annotated[
        Path,
        typer.Argument(
            metavar="RECIPE|SOURCE",
            help="A recipe's file; data_recipes/ has examples. Or a source of rows: a file, a folder of "
            "files, or hub:OWNER/NAME with /CONFIG, @REVISION and :SPLIT after it as needed.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the data sets OUT/train and OUT/eval.")],
    source: Annotated[
        str | None, typer.Option("--from", help="A file, or a data set on the hub, instead of the recipe's SOURCE.")
    ] = None,
    train: Annotated[int | None, typer.Option(help="Number of rows in OUT/train; -1 for all remaining rows.")] = None,
    evaluation: Annotated[
        str | None,
        typer.Option(
            "--eval",
            help="Number of rows in OUT/eval; -1 for all remaining rows. For a source also its split, as split:test, or another "
            "source.",
        ),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            help="For a source: its columns by the row's fields, as question=problem,answer=meta.answer. Fields: question, "
            "answer, images, options, response, messages, meta.NAME. Default: the columns with these names."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed that draws and splits the rows.")] = 0,
    task: Annotated[str | None, typer.Option(help="The task that checks the answers, instead of the recipe's.")] = None,
    against: Annotated[
        list[Path] | None, typer.Option(help="An evaluation set whose questions OUT/train must not hold; can be repeated.")
    ] = None,
    ngram: Annotated[int, typer.Option(help="For --against: number of words in an n-gram.")] = 8,
    overlap: Annotated[
        float, typer.Option(help="For --against: a question with at least this share of equal n-grams is left out.")
    ] = 0.5,
    min_kept: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Fail if a smaller share of the records passes the checks; dropped records do not count.",
        ),
    ] = 0.5,
    folders: Folders = TASKS,
    timeout_s: Annotated[float, typer.Option(help="Seconds that the verifier may take for one answer.")] = 10.0,
    workers: Annotated[int, typer.Option(help="Number of scoring processes.")] = 2,
) -> None:
    """Builds data sets from a recipe, or from the columns of a source. Reads every picture, and scores each row's reference
    answer with the task's verifier.

    Leaves out and counts records with a missing or broken picture, with an answer that the verifier does not accept, or with one
    that a guess would hit. Exits with 2, and keeps the old sets, if fewer than --min-kept of the records pass these checks.
    """
    with sentences(resumes=True), held(out, doing="written", remedy="give another --out"):
        from vlrl.data.build import build as build_sets
        from vlrl.data.build import report
        from vlrl.data.shards import Dataset
        from vlrl.data.source_files import is_source
        from vlrl.scoring import Scorer

        asked: dict[str, Any] = {"train": train, "held_out": evaluation, "task": task, "folders": folders}
        if recipe.suffix == ".py" or not (is_source(str(recipe)) or columns):
            loaded = _recipe(recipe, columns, **asked)
        else:
            loaded = _recipe_of_columns(recipe, source, columns, **asked)
        others = [Dataset(folder) for folder in against or ()]
        with Scorer(folders, workers, timeout_s, memory_mb=2048) as scorer:
            built, left_out = build_sets(
                loaded,
                out,
                scorer,
                source=source,
                seed=seed,
                against=others,
                ngram=ngram,
                overlap=overlap,
                min_kept=min_kept,
            )
    print("\n".join(report(built, left_out, out)))


def _recipe(file: Path, columns: list[str] | None, *, train: int | None, held_out: str | None, task: str | None, **_: Any) -> Any:
    """The recipe in a file, with the command's sizes and task."""
    from vlrl.data.recipe import load_recipe

    loaded = load_recipe(file)
    if columns:
        raise ValueError(f"--columns: a recipe chooses its columns in to_row; leave it out, or name a source instead of {file}")
    if held_out and not _is_number(held_out):
        raise ValueError(f"--eval {held_out}: a recipe's rows are drawn; give their number")
    asked = {"train": train, "eval": int(held_out) if held_out else None}
    sizes = {name: None if size < 0 else size for name, size in asked.items() if size is not None}
    return replace(loaded, sizes=loaded.sizes | sizes, task=task or loaded.task)


def _recipe_of_columns(
    place: Path,
    source: str | None,
    columns: list[str] | None,
    *,
    train: int | None,
    held_out: str | None,
    task: str | None,
    folders: list[Path],
) -> Any:
    """A recipe that reads a source by its columns."""
    from vlrl.common.columns import parse_columns
    from vlrl.data.column_rows import recipe_of
    from vlrl.data.source_files import Source, pinned
    from vlrl.tasks import load_task

    if source:
        raise ValueError(f"--from {source}: {place} is a source itself; leave out --from, or name a recipe's file")
    if not task:
        raise ValueError(f"{place}: name the task that verifies the rows with --task, or name a recipe's file instead of {place}")
    load_task(task, folders)
    of_columns = parse_columns(columns or ())
    found, licence = pinned(Source.parse(str(place)))
    held: Any = int(held_out) if held_out and _is_number(held_out) else None
    if held_out and held is None:
        held = pinned(Source.parse_held_out(held_out, found))[0]
    recipe = recipe_of(found, of_columns, task, licence=licence, held_out=held)
    sizes = {name: None if size < 0 else size for name, size in (("train", train), ("eval", held)) if isinstance(size, int)}
    return replace(recipe, sizes=recipe.sizes | sizes)


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


@data.command(epilog="Example: vlrl data check data/dots")
def check(
    folder: Annotated[Path, typer.Argument(help="A data set, or a build's folder with train and eval.")],
    task: Annotated[
        str | None, typer.Option(help="The task that verifies the rows. Default: the one that they were built for.")
    ] = None,
    folders: Folders = TASKS,
    num: Annotated[int, typer.Option(min=0, help="How many errors of each kind to print in full.")] = 3,
) -> None:
    """Checks whole data sets: their bytes, each picture, and that the task's verifier accepts each row's reference answer.

    Also finds rows that are in both train and eval. Exits with 1 if anything is wrong.
    """
    with sentences():
        from vlrl.data.check import check_sets, opened, task_of

        sets = opened(folder)
        found = check_sets(sets, task or task_of(sets), folders, num)
    for each in found:
        for fault in each.faults:
            print(fault)
        print(each.summary)
    raise typer.Exit(any(each.faults for each in found))


@data.command(epilog="Example: vlrl data show data/dots/eval --num 1")
def show(
    folder: Annotated[Path, typer.Argument(help="The data set.")],
    num: Annotated[int, typer.Option(help="Number of rows to show.")] = 3,
    row: Annotated[int, typer.Option(help="The first row to show, such as the `row` of a line in rollouts.jsonl.")] = 0,
) -> None:
    """Prints a data set's manifest and some of its rows."""
    with sentences():
        from dataclasses import asdict

        from vlrl.data.shards import Dataset

        dataset = Dataset(folder)
        print(json.dumps(asdict(dataset.manifest), indent=2))
        for number in range(row, min(row + num, len(dataset))):
            print(json.dumps(asdict(dataset[number]), ensure_ascii=False, indent=2))


@data.command(
    name="filter",
    context_settings=SETTINGS,
    epilog="Example: vlrl data filter configs/cpu.yaml model=runs/cpu/coldstart --out data/filtered",
)
def filter_rows(
    run_file: RunFile,
    out: Annotated[Path, typer.Option(help="Folder for the data sets OUT/TASK.")],
    overrides: Overrides = None,
    samples: Annotated[int, typer.Option(help="Number of responses to sample for each row.")] = 8,
    at_most: Annotated[float, typer.Option(help="Rows with a mean reward above this are dropped.")] = 0.9,
) -> None:
    """Samples each training row with the run's model. Keeps the rows that it solves sometimes but not nearly always."""
    with sentences(resumes=True), held(out, doing="written", remedy="give another --out"):
        run = open_to_sample(run_file, overrides)
        from vlrl.evaluation.pass_rate import filter_rows as filtered
        from vlrl.evaluation.pass_rate import verdict

        rates = filtered(run, out, samples=samples, at_most=at_most)
    if run.ranks.is_first:
        table = Table("task", "rows", "kept", "never solved", "solved too often", "not scored", "mean rate")
        for task, of_rows in rates.items():
            counts = Counter(verdict(row, at_most) for row in of_rows)
            verdicts = [str(counts[name]) for name in ("kept", "never solved", "solved too often", "not scored")]
            table.add_row(task, str(len(of_rows)), *verdicts, f"{fmean(row.mean for row in of_rows):.3f}")
        Console().print(table)
        print(f"The kept rows are in {out}/TASK; {out}/TASK/pass_rates.jsonl has every row's pass rate")
