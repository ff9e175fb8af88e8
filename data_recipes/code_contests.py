"""code_contests (code): programming contest problems, solved by a program that reads its input and prints its answer."""

from collections.abc import Iterator, Mapping
from typing import Any

from vlrl.data.recipe import Drop, records
from vlrl.data.shards import NewRow

SOURCE = "deepmind/code_contests"
LICENCE = "CC BY 4.0"
VERSION = 1
TRAIN, EVAL = None, 100
TASK = "code_stdin"
PYTHON3 = 3  # in the source's list of languages
MOST_CASES, MOST_CHARACTERS = 12, 20_000  # cases of a problem; characters of a case's input and output
SETS = ("public_tests", "private_tests", "generated_tests")  # shown in the problem, used by its judge, and variations
ANY_ANSWER = ("any of them", "any one of them", "if there are multiple", "if there are several", "multiple answers")


def raws(source: str | None, seed: int) -> Iterator[Mapping[str, Any]]:
    return records(source, SOURCE, split="train")


def to_row(raw: Mapping[str, Any]) -> NewRow:
    """The demonstration is the shortest accepted Python program. The build runs it on every case."""
    description = raw["description"].strip()
    if raw.get("input_file") or raw.get("output_file"):
        raise Drop("a file in place of stdin or stdout")
    if "<image>" in description:
        raise Drop("a picture in the description")
    if any(words in description.casefold() for words in ANY_ANSWER):
        raise Drop("more than one right answer")
    programs = [
        program
        for language, program in zip(raw["solutions"]["language"], raw["solutions"]["solution"], strict=True)
        if language == PYTHON3
    ]
    if not programs:
        raise Drop("no program in Python 3")
    cases = [
        [stdin, stdout]
        for name in SETS
        for stdin, stdout in zip(raw[name]["input"], raw[name]["output"], strict=True)
        if len(stdin) + len(stdout) <= MOST_CHARACTERS
    ]
    if not cases:
        raise Drop("no case that is small enough")
    return NewRow(
        question=description,
        meta={"name": raw["name"], "cases": cases[:MOST_CASES]},
        response=f"```python\n{min(programs, key=len).strip()}\n```",
    )
