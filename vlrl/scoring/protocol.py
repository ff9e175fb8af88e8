"""Defines the messages between the scorer and its workers: the scorer sends items, a worker replies scores, or a question that
the scorer must ask a service first. One line of JSON each.

JSON is safer than pickle here: a verifier handles hostile text, and the training process reads its replies.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from vlrl.common.ask import Question
from vlrl.types import Row, Score, Status


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One response to score against its row. The row's `meta` holds JSON data, as in its shard.

    replies: of services to the verifier's questions so far, by question.
    """

    task: str
    row: Row
    response: str
    replies: Mapping[str, Any] = field(default_factory=dict)


def dump_item(item: Item) -> bytes:
    row = {field.name: getattr(item.row, field.name) for field in fields(Row)}
    line = {"task": item.task, "row": row, "response": item.response, "replies": item.replies}
    return json.dumps(line, default=dict).encode()


def load_item(line: bytes) -> Item:
    raw = json.loads(line)
    row = Row(**raw["row"] | {"images": tuple(raw["row"]["images"]), "seen": tuple(map(tuple, raw["row"]["seen"]))})
    return Item(task=raw["task"], row=row, response=raw["response"], replies=raw["replies"])


def dump_result(result: Score | Question) -> bytes:
    return json.dumps(asdict(result), default=dict).encode()


def load_result(line: bytes) -> Score | Question:
    raw = json.loads(line)
    if "service" in raw:
        return Question(**raw)
    return Score(**raw | {"status": Status(raw["status"])})
