"""docs/verifiers.md: every example in its tables gives the result beside it, and no function is missing."""

import importlib
import inspect
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import needs_a_jail
from vlrl.tasks import BadRow

DOCUMENT = (Path(__file__).parents[2] / "docs/verifiers.md").read_text()
MODULES = ("answers", "boxes", "choices", "code", "code_blocks", "dress", "grids", "literals", "logic", "outputs", "structured")
MODULES += ("symbolic", "text")
NOT_FOR_TASKS = {
    "run_calls",
    "is_blank",
    "bare_value",
    "without_lead_in",
    "plain_words",
    "written_number",
}  # what other functions are made of


def offered() -> dict[str, Any]:
    """The public functions and classes that the verifiers' modules define."""
    modules = [importlib.import_module(f"vlrl.verifiers.{name}") for name in MODULES]
    return {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
    }


def rows() -> list[list[str]]:
    """The cells of each line about a function."""
    return [line.strip("| ").split(" | ") for line in DOCUMENT.splitlines() if line.startswith("| `")]


def value_of(cell: str) -> Any:
    """What the code in a cell's backticks makes; BadRow itself if it raises that."""
    try:
        return eval(cell.strip("`"), offered() | {"Fraction": Fraction, "BadRow": BadRow})
    except BadRow:
        return BadRow


@needs_a_jail
@pytest.mark.parametrize(("example", "result"), [row[2:4] for row in rows()], ids=[row[0] for row in rows()])
def test_an_example_in_the_table_gives_the_result_beside_it(example, result):
    got, expected = value_of(example), value_of(result)
    assert got == expected and type(got) is type(expected)


def test_every_function_that_a_task_may_use_is_in_the_table():
    functions = {name for name, value in offered().items() if inspect.isfunction(value)}
    assert {row[0].strip("`") for row in rows()} == functions - NOT_FOR_TASKS
