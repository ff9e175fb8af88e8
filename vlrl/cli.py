"""The command line: `vlrl train RUN.yaml`, and what helps before and after it.

A fault is printed as its one sentence and ends with exit code 2; VLRL_TRACEBACK=1 shows where it was found.
"""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from vlrl.cli_data import data
from vlrl.cli_shared import TASKS, Folders, Overrides, RunFile, load, open_to_sample, quieten, sentences
from vlrl.config import Config, dump_config

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.command()
def train(run_file: RunFile, overrides: Overrides = None) -> None:
    """Trains as the run file says; resumes a run that was stopped."""
    with sentences():
        config = load(run_file, overrides)
        quieten()
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
    with sentences():
        config = load(run_file, overrides)
        from vlrl.plan import plan as plan_of

        print(dump_config(config))
        for line in plan_of(config, steps):
            print(line)


@app.command(name="eval")
def evaluate(
    run_file: RunFile,
    out: Annotated[Path, typer.Option(help="Folder for the rows' rewards and the summary.")],
    overrides: Overrides = None,
) -> None:
    """Evaluates the run file's model on its tasks' held-out rows: avg@k and pass@k. Goes on where it was stopped."""
    with sentences():
        run = open_to_sample(run_file, overrides)
        from vlrl.assess import assess

        found = assess(run, out)
    if run.ranks.is_first:
        for way, tasks in found.items():
            title = f"{run.config.model}{', ' if way else ''}{way}"
            table = Table("task", "rows", "samples", "average", "pass@k", "no verdict", title=title)
            for task, each in tasks.items():
                passes = ", ".join(f"@{k} {one.mean:.3f} ± {one.interval:.3f}" for k, one in each.passes.items() if k > 1)
                average = f"{each.average.mean:.3f} ± {each.average.interval:.3f}"
                table.add_row(task, str(each.average.rows), str(each.samples), average, passes, str(each.failed))
            Console().print(table)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="The OUT of a vlrl eval.")],
    second: Annotated[Path, typer.Argument(help="That of another model on the same rows.")],
    gate: Annotated[float | None, typer.Option(help="End with 1 where a task fell by more than so many standard errors.")] = None,
) -> None:
    """Compares two evaluations row by row: the difference of each task, with its interval and a paired t-test."""
    with sentences():
        from vlrl.assess import compared, fallen

        differences = compared(first, second)
    table = Table("task", "rows", "second - first", "standard errors", "p")
    for task, found in differences.items():
        change = f"{found.mean:+.3f} ± {found.interval:.3f}"
        table.add_row(task, str(found.rows), change, f"{found.standard_errors:+.1f}", f"{found.p:.3f}")
    Console().print(table)
    if gate is not None and (fell := fallen(differences, gate)):
        print(f"fell by more than {gate:g} standard errors: {', '.join(fell)}")
        raise typer.Exit(1)


@app.command()
def study(
    file: Annotated[Path, typer.Argument(help="The study, as those in configs/studies/.")],
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the runs; else runs/studies/NAME.")] = None,
) -> None:
    """Runs a comparison arm by arm and seed by seed, or goes on with it; ends with one table and a page of curves."""
    with sentences():
        from vlrl.study import load_study, run_study, write_results

        plan, folder = load_study(file), out or Path("runs/studies") / file.stem
        failed = run_study(plan, folder, overrides or ())
        print(write_results(plan, folder))
        print(f"also in {folder}/study.md, the curves in {folder}/study.html")
    if failed:
        print(f"failed, see {folder}/NAME.log: {', '.join(failed)}")
        raise typer.Exit(1)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, as runs/cpu; of several the curves are overlaid.")],
    out: Annotated[Path | None, typer.Option(help="The page; else report.html in the first run's folder.")] = None,
    serve: Annotated[
        int | None, typer.Option(help="A port of this machine alone at which the page is made anew each time.")
    ] = None,
) -> None:
    """Writes one HTML page about a run: curves, gate, step times, and its rollouts to look through."""
    with sentences():
        from vlrl.report import serve_report, write_report

        if serve is not None:
            print(f"http://127.0.0.1:{serve} (Ctrl-C ends it)", flush=True)
            serve_report(runs, serve)
        else:
            path = out or runs[0] / "report.html"
            print(f"{path}: {write_report(runs, path) / 1e6:.1f} MB")


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
    with sentences():
        from vlrl.data.shards import Dataset

        sets = [Dataset(path.parent) for path in sorted(data.glob("*/train/manifest.json"))]
        if not sets:
            raise ValueError(f"no data set under {data}; build them first: make data")
        rows = [dataset[number] for dataset in sets for number in range(min(500, len(dataset)))]
        from vlrl.model.tiny import build_tiny

        count = build_tiny(folder, [text for row in rows for text in (row.question, row.response)], moe=moe, seed=seed)
        print(f"{folder}: {count / 1e6:.2f} M parameters")


TaskName = Annotated[str, typer.Argument(help="The task: its file's stem.")]


@app.command()
def verify(
    task: TaskName,
    cases: Annotated[Path, typer.Option(help='JSON lines: {"response": "...", "row": {...}, "expected": reward}.')],
    folders: Folders = TASKS,
    timeout_s: float = 10.0,
    workers: int = 2,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Scores responses whose reward is known, as training would; ends with 1 where any verdict is another."""
    with sentences():
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
    folders: Folders = TASKS,
    run_file: Annotated[Path | None, typer.Option("--run", help="The run file whose prompts are shown.")] = None,
    num: Annotated[int, typer.Option(help="Rows to show.")] = 3,
    images: Annotated[Path, typer.Option(help="Where the rows' images are written.")] = Path("runs/try"),
    ask: Annotated[bool, typer.Option(help="Score answers that you type.")] = True,
) -> None:
    """Shows a task's prompts with their images, the score of each row's own answer, and of answers that you type."""
    with sentences():
        from vlrl.author import score_all, shown, verdict_of
        from vlrl.data.shards import Dataset
        from vlrl.scoring import Scorer
        from vlrl.tasks import gold, prompt_of

        asked = load(run_file, None).mixture.get(task) if run_file else None
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
    with sentences():
        from vlrl.author import new_task as write_task

        print(f"{write_task(name, folder)}: change prompt, verify and EXAMPLES; then vlrl try {name} --rows FOLDER")


app.add_typer(data, name="data")


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
    for each in summary.get("rollbacks", ()):
        console.print(f"The run went back from step {each['called_at']} to {each['to_step']}: {'; '.join(each['sentences'])}")
    console.print(f"The run is in {config.folder}: metrics.jsonl, rollouts.jsonl, summary.json, checkpoints/, model/")


if __name__ == "__main__":
    app()
