"""The command line: `vlrl train RUN.yaml`, and what helps before and after it.

A fault is printed as its one sentence and ends with exit code 2; VLRL_TRACEBACK=1 shows where it was found.
"""

import json
import logging
import math
import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from vlrl.config import Config, dump_config, load_config

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

RunFile = Annotated[Path, typer.Argument(help="The run file, as those in configs/.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Settings that replace the file's: a.b=c ...")]


@app.command()
def train(run_file: RunFile, overrides: Overrides = None) -> None:
    """Trains as the run file says; resumes a run that was stopped."""
    with _sentences():
        config = _load(run_file, overrides)
        _quieten()
        from vlrl.preflight import preflight
        from vlrl.ranks import join_ranks
        from vlrl.train import train as run_training

        ranks = join_ranks()
        if config.threads:
            import torch

            torch.set_num_threads(config.threads)
        summary = run_training(preflight(config, ranks))
        if ranks.is_first:
            _report(config, summary)


@app.command()
def plan(run_file: RunFile, overrides: Overrides = None, steps: int = 8) -> None:
    """Prints the resolved run file, and the prompts of each task in the first steps and in their mini-batches."""
    with _sentences():
        config = _load(run_file, overrides)
        from vlrl.plan import plan as plan_of

        print(dump_config(config))
        for line in plan_of(config, steps):
            print(line)


@app.command()
def doctor() -> None:
    """Prints what this machine has of what a run needs."""
    from vlrl.doctor import doctor as lines

    for line in lines():
        print(line)


@app.command()
def tiny(
    folder: Annotated[Path, typer.Argument(help="Where the checkpoint goes.")],
    data: Annotated[Path, typer.Option(help="Folder of data sets whose texts the tokenizer learns.")] = Path("data"),
    moe: Annotated[bool, typer.Option(help="A mixture of experts.")] = False,
    seed: int = 0,
) -> None:
    """Makes a tiny random Qwen3-VL, to run everything on a laptop."""
    with _sentences():
        from vlrl.data.shards import Dataset

        sets = [Dataset(path.parent) for path in sorted(data.glob("*/train/manifest.json"))]
        if not sets:
            raise ValueError(f"no data set under {data}; build them first: make data")
        rows = [dataset[number] for dataset in sets for number in range(min(500, len(dataset)))]
        from vlrl.model.tiny import build_tiny

        count = build_tiny(folder, [text for row in rows for text in (row.question, row.response)], moe=moe, seed=seed)
        print(f"{folder}: {count / 1e6:.2f} M parameters")


TaskName = Annotated[str, typer.Argument(help="The task: its file's stem.")]
Folders = Annotated[list[Path], typer.Option("--tasks", help="Folders of task files; may be given again.")]
_TASKS = [Path("tasks")]


@app.command()
def verify(
    task: TaskName,
    cases: Annotated[Path, typer.Option(help='JSON lines: {"response": "...", "row": {...}, "expected": reward}.')],
    folders: Folders = _TASKS,
    timeout_s: float = 10.0,
    workers: int = 2,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Scores responses whose reward is known, as training would; ends with 1 where any verdict is another."""
    with _sentences():
        from vlrl.author import read_cases, verify_cases
        from vlrl.scoring import Scorer

        _load_checked(task, folders)
        known = read_cases(cases)
        with Scorer(folders, workers, timeout_s, memory_mb=2048) as scorer:
            report = verify_cases(task, known, scorer)
    print_report = _print_json if as_json else _print_confusion
    print_report(report)
    raise typer.Exit(bool(report.disagreements))


@app.command(name="try")
def try_task(
    task: TaskName,
    rows: Annotated[Path, typer.Option(help="The data set whose rows are shown.")],
    folders: Folders = _TASKS,
    run_file: Annotated[Path | None, typer.Option("--run", help="The run file whose prompts are shown.")] = None,
    num: Annotated[int, typer.Option(help="Rows to show.")] = 3,
    images: Annotated[Path, typer.Option(help="Where the rows' images are written.")] = Path("runs/try"),
    ask: Annotated[bool, typer.Option(help="Score answers that you type.")] = True,
) -> None:
    """Shows a task's prompts with their images, the score of each row's own answer, and of answers that you type."""
    with _sentences():
        from vlrl.author import score_all, shown, verdict_of
        from vlrl.data.shards import Dataset
        from vlrl.scoring import Scorer
        from vlrl.tasks import gold, prompt_of

        asked = _load(run_file, None).mixture.get(task) if run_file else None
        own = {"system": asked.system, "instruction": asked.instruction} if asked else {}
        loaded, dataset = _load_checked(task, folders), Dataset(rows)
        with Scorer(folders, 1, 10.0, memory_mb=2048) as scorer:

            def tell(whose: str, response: str) -> None:
                (score,) = score_all(task, [(response, row)], scorer)
                print(f"{whose}: {verdict_of(score)} {dict(score.parts)} {score.detail}".rstrip())

            for number in range(min(num, len(dataset))):
                row = dataset[number]
                print(f"--- row {row.key}", *shown(task, row, prompt_of(loaded, row, **own), images), sep="\n")
                tell(f"its own answer {gold(row)!r}", gold(row))
                while ask and sys.stdin.isatty() and (answer := input("your answer (empty to go on): ")):
                    tell("yours", answer)


new = typer.Typer(no_args_is_help=True, help="Starts a file of your own.")
app.add_typer(new, name="new")


@new.command(name="task")
def new_task(name: TaskName, folder: Annotated[Path, typer.Option(help="The task folder.")] = Path("tasks")) -> None:
    """Writes a task file that runs, to be changed."""
    with _sentences():
        from vlrl.author import new_task as write_task

        print(f"{write_task(name, folder)}: change prompt, verify and EXAMPLES; then vlrl try {name} --rows FOLDER")


data = typer.Typer(no_args_is_help=True, help="Builds data sets from recipes, and looks at them.")
app.add_typer(data, name="data")


@data.command()
def build(
    recipe: Annotated[Path, typer.Argument(help="The recipe, as those in data_recipes/.")],
    out: Annotated[Path, typer.Option(help="Folder for the data sets OUT/train and OUT/eval.")],
    source: Annotated[
        str | None, typer.Option("--from", help="A file, or a data set on the hub, in place of the recipe's.")
    ] = None,
    train: Annotated[int | None, typer.Option(help="Rows of OUT/train; -1: all that are left.")] = None,
    evaluation: Annotated[int | None, typer.Option("--eval", help="Rows of OUT/eval; -1: all that are left.")] = None,
    seed: Annotated[int, typer.Option(help="Draws and splits the rows.")] = 0,
    task: Annotated[str | None, typer.Option(help="The task that checks the answers, in place of the recipe's.")] = None,
    against: Annotated[list[Path] | None, typer.Option(help="Evaluation sets whose questions train must not hold.")] = None,
    ngram: Annotated[int, typer.Option(help="Words in a run that counts as alike.")] = 8,
    overlap: Annotated[float, typer.Option(help="Share of alike runs from which a question is left out.")] = 0.5,
    folders: Folders = _TASKS,
    timeout_s: float = 10.0,
    workers: int = 2,
) -> None:
    """Builds a recipe's data sets; each row's own answer must be accepted by its task's verifier."""
    with _sentences():
        from dataclasses import replace

        from vlrl.build import build as build_sets
        from vlrl.build import told
        from vlrl.data.recipe import load_recipe
        from vlrl.data.shards import Dataset
        from vlrl.scoring import Scorer

        loaded = load_recipe(recipe)
        asked = {name: size for name, size in (("train", train), ("eval", evaluation)) if size is not None}
        sizes = loaded.sizes | {name: None if size < 0 else size for name, size in asked.items()}
        loaded = replace(loaded, sizes=sizes, task=task or loaded.task)
        others = [Dataset(folder) for folder in against or ()]
        with Scorer(folders, workers, timeout_s, memory_mb=2048) as scorer:
            built, left_out = build_sets(
                loaded, out, scorer, source=source, seed=seed, against=others, ngram=ngram, overlap=overlap
            )
    for dataset in built.values():
        print(f"{dataset.folder}: {len(dataset)} rows, {dataset.manifest.num_images} images")
    print(f"left out: {told(left_out)}" + (f"; each in {out}/left_out.jsonl" if left_out else ""))


@data.command()
def check(folder: Path, task: Annotated[str, typer.Option(help="The rows' task.")], folders: Folders = _TASKS) -> None:
    """Reads a whole data set, and puts each row's own answer to its task's verifier; ends with 1 where one is not accepted."""
    with _sentences():
        from vlrl.build import gold_faults
        from vlrl.data.shards import Dataset
        from vlrl.scoring import Scorer

        dataset = Dataset(folder)
        dataset.verify()
        rows = [dataset[number] for number in range(len(dataset))]
        with Scorer(folders, 2, 10.0, memory_mb=2048) as scorer:
            faults = gold_faults(task, rows, scorer)
    for row, fault in zip(rows, faults, strict=True):
        if fault:
            print(f"row {row.key}: {fault}")
    print(f"{folder}: {len(rows)} rows, {sum(map(bool, faults))} with an answer that is not accepted")
    raise typer.Exit(any(faults))


@data.command()
def show(folder: Path, num: Annotated[int, typer.Option(help="Rows to show.")] = 3) -> None:
    """Prints a data set's manifest and its first rows."""
    with _sentences():
        from dataclasses import asdict

        from vlrl.data.shards import Dataset

        dataset = Dataset(folder)
        print(json.dumps(asdict(dataset.manifest), indent=2))
        for number in range(min(num, len(dataset))):
            print(json.dumps(asdict(dataset[number]), ensure_ascii=False, indent=2))


@data.command(name="filter")
def filter_rows(
    run_file: RunFile,
    out: Annotated[Path, typer.Option(help="Folder for the data sets OUT/TASK.")],
    overrides: Overrides = None,
    samples: Annotated[int, typer.Option(help="Responses to sample for each row.")] = 8,
    at_most: Annotated[float, typer.Option(help="Mean reward above which a row is dropped.")] = 0.9,
) -> None:
    """Samples each training row with the run's model; keeps those that are solved sometimes, and not nearly always."""
    with _sentences():
        config = _load(run_file, overrides)
        _quieten()
        from vlrl.config import ColdStart
        from vlrl.passrate import filter_rows as filtered
        from vlrl.preflight import preflight
        from vlrl.ranks import join_ranks

        ranks = join_ranks()
        run = preflight(config.model_copy(update={"coldstart": ColdStart()}), ranks, to_train=False)
        rates = filtered(run, out, samples=samples, at_most=at_most)
    if ranks.is_first:
        table = Table("task", "rows", "kept", "never solved", "solved too often", "not scored", "mean rate")
        for task, of_rows in rates.items():
            counts = Counter(rate.verdict(at_most) for rate in of_rows)
            verdicts = [str(counts[name]) for name in ("kept", "never solved", "solved too often", "not scored")]
            table.add_row(task, str(len(of_rows)), *verdicts, f"{fmean(rate.rate for rate in of_rows):.3f}")
        Console().print(table)
        print(f"The rows are in {out}/TASK, each row's rate in {out}/TASK/pass_rates.jsonl")


@new.callback()
def _new() -> None:
    """Starts a file of your own."""


def _load_checked(name: str, folders: list[Path]) -> Any:
    """The task, its EXAMPLES reproduced by its verifier. ValueError where they are not."""
    from vlrl.tasks import check_examples, load_task

    task = load_task(name, folders)
    if faults := check_examples(task):
        raise ValueError("\n".join(faults))
    return task


def _print_json(report: Any) -> None:
    from vlrl.metrics import percentile

    told = {
        "cases": len(report.cases),
        "disagreements": [
            {
                "line": number + 1,
                "response": report.cases[number].response,
                "expected": report.cases[number].expected,
                "reward": report.scores[number].reward,
                "status": report.scores[number].status,
                "detail": report.scores[number].detail,
            }
            for number in report.disagreements
        ],
        "confusion": [[expected, got, count] for (expected, got), count in report.confusion.items()],
        "p50_s": percentile(report.seconds, 50),
        "p99_s": percentile(report.seconds, 99),
    }
    print(json.dumps(told))


def _print_confusion(report: Any) -> None:
    from vlrl.author import verdict_of
    from vlrl.metrics import percentile

    table = Table("expected", "got", "cases")
    for (expected, got), count in sorted(report.confusion.items()):
        table.add_row(expected, got, str(count))
    console = Console()
    console.print(table)
    for number in report.disagreements:
        case, score = report.cases[number], report.scores[number]
        console.print(
            f"line {number + 1}: expected {case.expected:g}, got {verdict_of(score)} {score.detail}: {case.response!r:.200}",
            markup=False,
        )
    latency = (
        f"{1000 * percentile(report.seconds, 50):.1f} ms at half of them, {1000 * percentile(report.seconds, 99):.1f} ms at 99 %"
    )
    console.print(f"{len(report.disagreements)} of {len(report.cases)} disagree; {latency}")


def _load(run_file: Path, overrides: list[str] | None) -> Config:
    return load_config(run_file, tuple(overrides or ()))


def _quieten() -> None:
    """Keeps the libraries' start-up talk off the screen; their errors stay. Before torch, vLLM and DeepSpeed are imported."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)
    for name in ("DeepSpeed", "torch._library.triton", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


@contextmanager
def _sentences() -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError, ArithmeticError, RuntimeError) as error:
        if "VLRL_TRACEBACK" in os.environ:
            raise
        print(f"vlrl: {error}", file=sys.stderr)
        raise typer.Exit(2) from None


def _report(config: Config, summary: dict[str, Any] | None) -> None:
    console = Console()
    title = f"{config.name}: held-out accuracy ± 95 % interval"
    if summary is None:
        console.print(f"Stopped; the same command goes on from the checkpoint in {config.folder}/checkpoints")
        return
    table = Table("task", "before", "after", "rise", title=title)
    number: Callable[[float], str] = "{:.3f}".format
    for task, values in summary["tasks"].items():
        cells = [f"{number(values[at])} ± {number(values[f'{at}_interval'])}" for at in ("before", "after")]
        rise, interval = values["after"] - values["before"], math.hypot(values["before_interval"], values["after_interval"])
        table.add_row(task, *cells, f"{rise:+.3f} ± {number(interval)}")
    mean = summary["mean"]
    table.add_section()
    table.add_row("mean", number(mean["before"]), number(mean["after"]), f"{mean['after'] - mean['before']:+.3f}")
    console.print(table)
    console.print(f"The run is in {config.folder}: metrics.jsonl, rollouts.jsonl, summary.json, checkpoints/, model/")


if __name__ == "__main__":
    app()
