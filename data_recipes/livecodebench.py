"""livecodebench (code): contest problems from after most models' training, solved by a program. For evaluation.

The hub's newest file, test6.jsonl, has the problems from January to April 2025. --from names another file or a local copy.
"""

import base64
import io
import json
import pickle
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from vlrl.data.recipe import Drop, records
from vlrl.data.shards import NewRow

SOURCE = "hf://datasets/livecodebench/code_generation_lite/test6.jsonl"
LICENCE = "CC, as the source says; problems of LeetCode, AtCoder and Codeforces"
VERSION = 1
TRAIN, EVAL = 0, None
TASK = "code_stdin"
GOLD = False  # the source has tests and no solutions
MOST_CASES = 40


def raws(source: str | None, seed: int) -> Iterator[Mapping[str, Any]]:
    return records(source, SOURCE, split="test")


def to_row(raw: Mapping[str, Any]) -> NewRow:
    cases = [*json.loads(raw["public_test_cases"]), *_private(raw["private_test_cases"])]
    if raw["starter_code"] or any(case["testtype"] != "stdin" for case in cases):
        raise Drop("a function, not a program")
    return NewRow(
        question=raw["question_content"].strip(),
        meta={
            "id": str(raw["question_id"]),
            "date": str(raw["contest_date"]),
            "difficulty": raw["difficulty"],
            "cases": [[case["input"], case["output"]] for case in cases[:MOST_CASES]],
        },
    )


def _private(text: str) -> list[dict[str, str]]:
    """Reads JSON, or a compressed pickle of a JSON string in base64. Refuses a pickle of anything but plain data."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return json.loads(_Plain(io.BytesIO(zlib.decompress(base64.b64decode(text)))).load())


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise ValueError(f"a test's pickle imports {module}.{name}; it may only contain plain data")
