"""The commands for writing a task and its verifier: `vlrl new`, `vlrl try`, `vlrl verify`, `vlrl rescore`."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from vlrl.cli.shared import TASKS, Folders, load, quieten, sentences
from vlrl.config import Config
from vlrl.telemetry.progress import progress
from vlrl.types import Row

TaskName = Annotated[str, typer.Argument(help="The task's name: its file's name without .py.")]

new = typer.Typer(no_args_is_help=True, help="Writes a template file for a task or a recipe.")


@new.command(name="task", epilog="Example: vlrl new task dots")
def new_task(name: TaskName, folder: Annotated[Path, typer.Option(help="The task folder.")] = Path("tasks")) -> None:
    """Writes a working task file, for questions with and without pictures."""
    with sentences():
        from vlrl.authoring.task_tools import new_task as write_task

        print(f"{write_task(name, folder)}: change prompt, verify and EXAMPLES; then vlrl try {name} --rows FOLDER")


@new.command(name="recipe", epilog="Example: vlrl new recipe dots")
def new_recipe(
    name: Annotated[str, typer.Argument(help="The recipe's name, which is also its task's name, without .py.")],
    folder: Annotated[Path, typer.Option(help="The recipe folder.")] = Path("data_recipes"),
) -> None:
    """Writes a recipe for a CSV file with the columns picture, question and answer."""
    with sentences():
        from vlrl.authoring.task_tools import new_recipe as write_recipe

        path = write_recipe(name, folder)
        print(f"{path}: change SOURCE and to_row; then vlrl data build {path} --out data/{name}")


def verify(
    task: TaskName,
    cases: Annotated[
        Path | None,
        typer.Option(help='JSON lines: {"response": "...", "row": {...}, "expected": reward}. Default: the task\'s EXAMPLES.'),
    ] = None,
    folders: Folders = TASKS,
    timeout_s: Annotated[float, typer.Option(help="Seconds that the verifier may take for one response.")] = 10.0,
    workers: Annotated[int, typer.Option(help="Number of scoring processes.")] = 2,
    run_file: Annotated[
        Path | None, typer.Option("--run", help="A run file, whose judges, graders and reward models the verifier asks.")
    ] = None,
    bias: Annotated[
        bool, typer.Option(help="Also score with answer and reference swapped, and with empty words added to the answer.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Scores responses with known rewards, in the same workers as training. Exits with 1 on any mismatch.

    The task's EXAMPLES are always checked.

    --bias is for judges: it shows how many verdicts change where none should.
    """
    with sentences():
        from vlrl.authoring.bias import biases
        from vlrl.authoring.task_tools import Case, control_characters, read_cases, verify_cases
        from vlrl.scoring import Scorer

        examples = _load_checked(task, folders).examples
        own = [Case(response=response, row=row, expected=reward) for response, row, reward in examples]
        known = read_cases(cases) if cases else own
        with Scorer(folders, workers, timeout_s, memory_mb=2048, services=_services(run_file)) as scorer:
            report = verify_cases(task, known, scorer)
            changes = biases(task, known, report.scores, scorer) if bias else []
    for warning in control_characters(known):
        print(f"vlrl: {cases}:{warning}", file=sys.stderr)
    print_report = _print_json if as_json else _print_confusion
    print_report(report, changes)
    raise typer.Exit(bool(report.disagreements))


def try_task(
    task: TaskName,
    rows: Annotated[Path, typer.Option(help="The data set whose rows are shown.")],
    folders: Folders = TASKS,
    run_file: Annotated[
        Path | None, typer.Option("--run", help="A run file; prompts then have its system message, instruction and coordinates.")
    ] = None,
    num: Annotated[int, typer.Option(help="Number of rows to show.")] = 3,
    images: Annotated[Path, typer.Option(help="Folder for the rows' images.")] = Path("runs/try"),
    ask: Annotated[bool, typer.Option(help="Score answers that you type or pipe in, one per line.")] = True,
) -> None:
    """Shows a task's prompts with their images, and scores each row's reference answer and the answers that you type.

    You can also pipe in answers, one per line. An empty line moves to the next row.
    """
    with sentences():
        from vlrl.authoring.task_tools import prompt_to_show, score_all, shown, verdict_of
        from vlrl.data.shards import Dataset
        from vlrl.scoring import Scorer
        from vlrl.tasks import gold

        loaded, dataset = _load_checked(task, folders), Dataset(rows)
        config = load(run_file, None) if run_file else None
        asked = config.mixture.get(task) if config else None
        own: dict[str, Any] = {"system": asked.system, "instruction": asked.instruction} if asked else {}
        encoder = _encoder(config) if config and loaded.reads_places else None
        if encoder:
            own["coordinates"] = encoder.family.coordinates
        with Scorer(folders, 1, 10.0, memory_mb=2048, services=_services(run_file)) as scorer:

            def print_score(whose: str, response: str, row: Row) -> None:
                (score,) = score_all(task, [(response, row)], scorer)
                print(f"{whose}: {verdict_of(score)} {dict(score.parts)} {score.detail}".rstrip())

            for number in range(min(num, len(dataset))):
                row = dataset[number]
                messages = prompt_to_show(loaded, row, **own)
                print(f"--- row {row.key}", *shown(task, row, messages, images), sep="\n")
                print_score(f"its own answer {gold(row)!r}", gold(row), row)
                asked_row = replace(row, seen=encoder.encode(messages).seen) if encoder else row
                if asked_row.seen:
                    sizes = ", ".join(f"{width} x {height}" for width, height in asked_row.seen)
                    print(f"the model sees {sizes} pixels, and your answers count in them; the row's own is in thousandths")
                for answer in _answers() if ask else ():
                    print_score(f"your answer {answer!r}", answer, asked_row)


def rescore(
    run: Annotated[Path, typer.Argument(help="A run's folder, such as runs/cpu.")],
    tasks: Annotated[list[str] | None, typer.Option("--task", help="A task of the run; can be repeated. Default: all.")] = None,
    most: Annotated[int, typer.Option(help="Score at most this many rollouts, evenly spread over the run.")] = 2000,
    show: Annotated[int, typer.Option(help="Print at most this many of the rollouts whose reward is now another.")] = 20,
) -> None:
    """Scores a run's recorded rollouts again, with the verifiers as they are now. Exits with 1 if a reward is another."""
    with sentences():
        from vlrl.evaluation.rescore import recorded
        from vlrl.evaluation.rescore import rescore as score_again
        from vlrl.report.read import check_is_run
        from vlrl.scoring.start import start_scorer

        check_is_run(run)
        config = load(run / "config.yaml", None)
        if unknown := sorted(set(tasks or ()) - config.mixture.keys()):
            raise ValueError(f"{run} has no task {', '.join(unknown)}; it has {', '.join(config.mixture)}")
        chosen = {name: mix for name, mix in config.mixture.items() if not tasks or name in tasks}
        lines = recorded(run, chosen, most)
        with progress("Scoring", len(lines)) as tick, start_scorer(config) as scorer:
            found = score_again(lines, chosen, scorer, tick)
    _print_rescored(found, show)
    raise typer.Exit(any(each.differs for each in found))


def _services(run_file: Path | None) -> dict[str, Any]:
    """The services that a run file names. Their replies are kept only if it says where, since no run is open."""
    from vlrl.scoring.start import open_services

    return open_services(load(run_file, None).scoring, None) if run_file else {}


def _encoder(config: Config) -> Any:
    """The run's encoder, which knows how its model gives places in a picture and at which size it sees one. Imports torch."""
    quieten()
    from vlrl.models.checkpoint_io import load_encoder

    return load_encoder(config.model, config.images, config.template_kwargs)


def _answers() -> Iterator[str]:
    """Lines from the standard input, up to an empty line or the end. At a terminal it prints a question for each."""
    asking = "your answer (empty for the next row): " if sys.stdin.isatty() else ""
    with suppress(EOFError):
        while answer := input(asking):
            yield answer


def _load_checked(name: str, folders: list[Path]) -> Any:
    """Loads the task. Raises ValueError if its verifier gives any of its EXAMPLES a different reward."""
    from vlrl.tasks import check_examples, load_task

    task = load_task(name, folders)
    if faults := check_examples(task):
        raise ValueError("\n".join(faults))
    return task


def _print_rescored(found: Sequence[Any], show: int) -> None:
    from vlrl.authoring.task_tools import verdict_of

    table = Table("task", "rollouts", "another reward", "mean reward before", "now", "no verdict")
    for task in dict.fromkeys(each.line["task"] for each in found):
        of_task = [each for each in found if each.line["task"] == task]
        before = [each.line["verifier_reward"] for each in of_task if each.line["status"] == "ok"]
        now = [each.score.reward for each in of_task if each.score.status == "ok"]
        means = [f"{fmean(rewards):.3f}" if rewards else "" for rewards in (before, now)]
        failed = f"{len(of_task) - len(before)} and {len(of_task) - len(now)}"
        table.add_row(task, str(len(of_task)), str(sum(each.differs for each in of_task)), *means, failed)
    console = Console()
    for each in [each for each in found if each.differs][:show]:
        line, score = each.line, each.score
        verdict = f"{line['verifier_reward']:g}" if line["status"] == "ok" else line["status"]
        place = "{task} step {step} slot {slot} sample {sample}".format(**line)
        texts = f"answer {line['answer']!r:.80}, response {line['response'][-200:]!r}"
        console.print(f"{place}: {verdict} before, {verdict_of(score)} now {score.detail}: {texts}", markup=False)
    console.print(table)


def _print_json(report: Any, changes: Sequence[Any]) -> None:
    from vlrl.telemetry.clock import percentile

    result = {
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
    if changes:
        result["bias"] = {each.change: each.counts for each in changes}
    print(json.dumps(result))


def _print_confusion(report: Any, changes: Sequence[Any]) -> None:
    from vlrl.authoring.task_tools import verdict_of
    from vlrl.telemetry.clock import percentile

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
    median, p99 = (1000 * percentile(report.seconds, percent) for percent in (50, 99))
    console.print(f"{len(report.disagreements)} of {len(report.cases)} disagree; median {median:.1f} ms, p99 {p99:.1f} ms")
    if changes:
        table = Table("change", *changes[0].counts)
        for each in changes:
            table.add_row(each.change, *map(str, each.counts.values()))
        console.print(table)
