"""Defines the messages between the scorer and its workers: the scorer sends items, a worker replies scores, one line of JSON
each.

JSON is safer than pickle here: a verifier handles hostile text, and the training process reads its replies.
"""

import json
from dataclasses import asdict, dataclass, fields

from vlrl.types import Row, Score, Status


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One response to score against its row. The row's `meta` holds JSON data, as in its shard."""

    task: str
    row: Row
    response: str


def dump_item(item: Item) -> bytes:
    row = {field.name: getattr(item.row, field.name) for field in fields(Row)}
    return json.dumps({"task": item.task, "row": row, "response": item.response}, default=dict).encode()


def load_item(line: bytes) -> Item:
    raw = json.loads(line)
    row = Row(**raw["row"] | {"images": tuple(raw["row"]["images"]), "seen": tuple(map(tuple, raw["row"]["seen"]))})
    return Item(task=raw["task"], row=row, response=raw["response"])


def dump_score(score: Score) -> bytes:
    return json.dumps(asdict(score)).encode()


def load_score(line: bytes) -> Score:
    raw = json.loads(line)
    return Score(**raw | {"status": Status(raw["status"])})
