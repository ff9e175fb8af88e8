"""The commands for writing a task: `vlrl new`, `vlrl try`, `vlrl verify`."""

import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from vlrl.cli.shared import TASKS, Folders, load, sentences

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
    cases: Annotated[Path, typer.Option(help='JSON lines: {"response": "...", "row": {...}, "expected": reward}.')],
    folders: Folders = TASKS,
    timeout_s: Annotated[float, typer.Option(help="Seconds that the verifier may take for one response.")] = 10.0,
    workers: Annotated[int, typer.Option(help="Number of scoring processes.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Scores responses with known rewards, in the same workers as training. Exits with 1 on any mismatch."""
    with sentences():
        from vlrl.authoring.task_tools import control_characters, read_cases, verify_cases
        from vlrl.scoring import Scorer

        _load_checked(task, folders)
        known = read_cases(cases)
        with Scorer(folders, workers, timeout_s, memory_mb=2048) as scorer:
            report = verify_cases(task, known, scorer)
    for warning in control_characters(known):
        print(f"vlrl: {cases}:{warning}", file=sys.stderr)
    print_report = _print_json if as_json else _print_confusion
    print_report(report)
    raise typer.Exit(bool(report.disagreements))


def try_task(
    task: TaskName,
    rows: Annotated[Path, typer.Option(help="The data set whose rows are shown.")],
    folders: Folders = TASKS,
    run_file: Annotated[
        Path | None, typer.Option("--run", help="A run file; prompts then have its system message and instruction.")
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

        asked = load(run_file, None).mixture.get(task) if run_file else None
        own = {"system": asked.system, "instruction": asked.instruction} if asked else {}
        loaded, dataset = _load_checked(task, folders), Dataset(rows)
        with Scorer(folders, 1, 10.0, memory_mb=2048) as scorer:

            def print_score(whose: str, response: str) -> None:
                (score,) = score_all(task, [(response, row)], scorer)
                print(f"{whose}: {verdict_of(score)} {dict(score.parts)} {score.detail}".rstrip())

            for number in range(min(num, len(dataset))):
                row = dataset[number]
                print(f"--- row {row.key}", *shown(task, row, prompt_to_show(loaded, row, **own), images), sep="\n")
                print_score(f"its own answer {gold(row)!r}", gold(row))
                for answer in _answers() if ask else ():
                    print_score(f"your answer {answer!r}", answer)


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


def _print_json(report: Any) -> None:
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
    print(json.dumps(result))


def _print_confusion(report: Any) -> None:
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
