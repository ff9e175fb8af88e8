"""Responses with known rewards: those written by hand in bench/cases, and the type that generated ones share."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlrl.authoring.task_tools import row_of
from vlrl.types import Row

CASES = Path(__file__).parent / "cases"


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A response to a row with its expected reward.

    group: the row of the table that counts the case; answer, entry: the answer without a container and the generated puzzle, as
    reasoning-gym reads them.
    """

    group: str
    task: str
    kind: str
    response: str
    row: Row
    expected: float
    answer: str = ""
    entry: Mapping[str, Any] = field(default_factory=dict)


def written_cases(folder: Path = CASES) -> Iterator[Case]:
    """The cases of a folder's TASK.jsonl files: response, row, expected and, if they have one, kind."""
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            raw = json.loads(line)
            yield Case(
                group=path.stem,
                task=path.stem,
                kind=raw.get("kind", ""),
                response=raw["response"],
                row=row_of(raw["row"]),
                expected=float(raw["expected"]),
            )
