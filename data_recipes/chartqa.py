"""chartqa (vision): questions about charts from the press and from statistics, with a value or a few words as the answer."""

from collections.abc import Iterator, Mapping
from typing import Any

from vlrl.data.recipe import Drop, records
from vlrl.data.shards import NewRow

SOURCE = "HuggingFaceM4/ChartQA"
LICENCE = "GPL-3.0"
VERSION = 1
TRAIN, EVAL = None, 200
TASK = "chart"


def raws(source: str | None, seed: int) -> Iterator[Mapping[str, Any]]:
    return records(source, SOURCE, split="train")


def to_row(raw: Mapping[str, Any]) -> NewRow:
    """A "how many" question asks for a count, which has no tolerance."""
    answers = [raw["label"]] if isinstance(raw["label"], str) else list(raw["label"])
    if len(answers) != 1:
        raise Drop("more than one answer")
    question = raw["query"].strip()
    exact = question.casefold().startswith("how many") and answers[0].strip().isdecimal()
    return NewRow(question=question, answer=answers[0].strip(), images=(raw["image"],), meta={"exact": exact})
