"""A recipe with its records, and the commands that build from it."""

import json
from pathlib import Path

from typer.testing import CliRunner

from vlrl.cli.main import app
from vlrl.data.shards import Dataset

RECIPE = """
from vlrl.data.recipe import Drop, records
from vlrl.data.shards import NewRow

SOURCE, LICENCE, VERSION = "made up", "none", 1
TRAIN, EVAL = None, 3
TASK = "chain_sum"

def raws(source, seed):
    yield from records(source, "nobody/nothing", split="train")

def to_row(raw):
    if raw["answer"] == "":
        raise Drop("no answer")
    return NewRow(question=raw["question"], answer=raw["answer"])
"""
NOTED = """
from vlrl.types import Row, Score

def prompt(row):
    return []

def verify(response, row):
    with open({calls!r}, "a") as file:
        file.write("x")
    return Score(reward=float(row.answer.isdigit()))

EXAMPLES = [("", Row(answer="1"), 1.0)]
"""
ECHO = """
from vlrl.data.recipe import records
from vlrl.data.shards import NewRow

SOURCE, LICENCE, VERSION = "made up", "none", 1
TRAIN, EVAL = None, 0
TASK = "short_answer"
GOLD = False

def raws(source, seed):
    return records(source, "nobody/nothing", split="train")

def to_row(raw):
    return NewRow(**raw)
"""
SENTENCE = "How much is the sum of the two numbers {} and one?"


def write_sums(folder: Path) -> None:
    """A recipe and ten records: one without an answer, one with an answer that is no number, one twice."""
    (folder / "sums.py").write_text(RECIPE)
    raws = [{"question": SENTENCE.format(n), "answer": str(n + 1)} for n in range(10)]
    raws[3]["answer"], raws[4]["answer"], raws[5] = "", "five", raws[6]
    (folder / "sums.jsonl").write_text("\n".join(map(json.dumps, raws)))


def data(*arguments) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["data", *map(str, arguments)])
    return result.exit_code, result.output


def build(made, out="out", *more) -> tuple[int, str]:
    return data("build", made / "sums.py", "--out", made / out, "--from", made / "sums.jsonl", *more)


def build_from(made, name: str) -> tuple[int, str]:
    return data("build", made / "echo.py", "--out", made / "out", "--from", made / name)


def questions(folder) -> set[str]:
    dataset = Dataset(folder)
    return {dataset[number].question for number in range(len(dataset))}
