"""Helps to write a task before training: creates starter files, prints prompts, and checks responses with known rewards.

The scoring pool of training scores the responses, with the same deadlines and jail.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from vlrl.authoring.templates import RECIPE, TASK
from vlrl.common.json_text import json_text
from vlrl.common.names import name_fault
from vlrl.data.images import open_image
from vlrl.data.pixels import MAX_SIDE
from vlrl.scoring import Scorer
from vlrl.tasks import Task, parts_of, prompt_of
from vlrl.types import Message, Rollout, Row, Score, Status

_CONTROL = re.compile(r"(?!\n|\t|\r\n)[\x00-\x1f\x7f]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A response to a row, with its expected reward."""

    response: str
    row: Row
    expected: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The scores in the order of the cases, and the seconds that each score took, in no particular order."""

    cases: Sequence[Case]
    scores: Sequence[Score]
    seconds: Sequence[float]

    @property
    def disagreements(self) -> list[int]:
        """Indices of the cases whose status is not ok, or whose reward differs from the expected one."""
        pairs = enumerate(zip(self.cases, self.scores, strict=True))
        return [n for n, (case, score) in pairs if score.status is not Status.OK or abs(score.reward - case.expected) > 1e-6]

    @property
    def confusion(self) -> Counter[tuple[str, str]]:
        """The number of cases by expected reward and actual reward, or status if it is not ok."""
        return Counter((f"{c.expected:g}", verdict_of(s)) for c, s in zip(self.cases, self.scores, strict=True))


def verdict_of(score: Score) -> str:
    """The reward as text, or the status if it is not ok."""
    return f"{score.reward:g}" if score.status is Status.OK else score.status


def new_task(name: str, folder: Path) -> Path:
    """Writes a working task file as a starting point. Raises ValueError if the name is invalid or taken."""
    return _write_new(name, folder, TASK)


def new_recipe(name: str, folder: Path) -> Path:
    """Writes a recipe for a CSV file with pictures as a starting point. Raises ValueError if the name is invalid or taken."""
    return _write_new(name, folder, RECIPE)


def _write_new(name: str, folder: Path, template: str) -> Path:
    if fault := name_fault(name):
        raise ValueError(fault)
    path = folder / f"{name}.py"
    if path.exists():
        raise ValueError(f"{path} already exists; choose another name")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(template.replace("NAME", name))
    return path


def read_cases(path: Path) -> list[Case]:
    """Reads cases from JSON lines such as {"response": "...", "row": {"answer": "..."}, "expected": 1}.

    A number as a response, question or answer is read as text.

    Raises ValueError with the line's number for a faulty line.
    """
    if not path.exists():
        raise ValueError(
            f"no file {path}; write one case per line: " + '{"response": "...", "row": {"answer": "..."}, "expected": 1}'
        )
    cases: list[Case] = []
    if not path.read_text().strip():
        raise ValueError(f"{path} is empty; write one case per line, as a JSON object")
    for number, line in enumerate(path.read_text().rstrip("\n").split("\n"), start=1):
        try:
            cases.append(_case_of(json.loads(line)))
        except (ValueError, KeyError) as error:
            fault = f"has no {error}" if isinstance(error, KeyError) else f"cannot be read ({error})"
            raise ValueError(f"{path}:{number} {fault}") from None
    return cases


def _case_of(raw: Any) -> Case:
    if not isinstance(raw, dict):
        raise ValueError(f'it is {raw!r:.80}; write an object: {{"response": "...", "row": {{"answer": "..."}}, "expected": 1}}')
    response, row, expected = json_text(raw["response"], "response"), row_of(raw["row"]), raw["expected"]
    if not isinstance(expected, int | float) or not math.isfinite(expected):
        raise ValueError(f"expected is {expected!r:.80}; write the reward as a finite number")
    return Case(response=response, row=row, expected=float(expected))


def control_characters(cases: Sequence[Case]) -> list[str]:
    """One sentence for each text with a control character. A backslash that JSON read as an escape leaves such a character."""
    warnings = []
    for number, case in enumerate(cases, start=1):
        for field, text in (("response", case.response), ("answer", case.row.answer)):
            if found := _CONTROL.search(text):
                escape = json.dumps(found[0])[1:-1]
                warnings.append(
                    f"{number} has a control character ({escape}) in its {field}; write each backslash twice, as in "
                    f'"\\\\boxed{{...}}", and write the file with an editor or cat: echo may change backslashes'
                )
    return warnings


def prompt_to_show(task: Task, row: Row, **own: Any) -> list[Message]:
    """The task's prompt for a row. Raises ValueError if the task's `prompt` fails."""
    try:
        return prompt_of(task, row, **own)
    except ValueError:
        raise
    except Exception as error:  # the task's code may raise anything
        raise ValueError(f"{task.path}: prompt fails for row {row.key} ({type(error).__name__}: {error})") from error


def row_of(raw: dict[str, Any]) -> Row:
    """Creates a row from JSON data; a number in a text field is read as text.

    Raises ValueError for anything but an object with a row's fields, and for a field of the wrong type.
    """
    if not isinstance(raw, dict):
        raise ValueError(f'row is {raw!r}; write the row itself, as {{"question": "...", "answer": "..."}}')
    known = {field.name for field in fields(Row)}
    if unknown := sorted(raw.keys() - known):
        raise ValueError(f"unknown row field {', '.join(unknown)}; a row has {', '.join(sorted(known))}")
    images, meta, seen = raw.get("images", []), raw.get("meta", {}), raw.get("seen", [])
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise ValueError(f'images is {images!r:.80}; write a list of paths, as in ["a.png"]')
    if not isinstance(meta, dict):
        raise ValueError(f'meta is {meta!r:.80}; write an object, as in {{"options": ["4", "5"]}}')
    if not isinstance(seen, list) or any(not isinstance(size, list) or list(map(type, size)) != [int, int] for size in seen):
        raise ValueError(f"seen is {seen!r:.80}; write the width and height of each picture, as in [[280, 196]]")
    texts = {name: json_text(raw[name], name) for name in raw.keys() - {"images", "meta", "seen"}}
    return Row(images=tuple(images), meta=meta, seen=tuple((width, height) for width, height in seen), **texts)


def verify_cases(task: str, cases: Sequence[Case], scorer: Scorer) -> Report:
    """Scores the cases with the pool that training uses."""
    scores = score_all(task, [(case.response, case.row) for case in cases], scorer)
    seconds = [second for task_seconds in scorer.latencies.values() for second in task_seconds]
    return Report(cases=cases, scores=scores, seconds=seconds)


def score_all(
    task: str, pairs: Sequence[tuple[str, Row]], scorer: Scorer, tick: Callable[[], None] = lambda: None
) -> list[Score]:
    """The scores of (response, row) pairs, in the same order. tick: called after each."""
    for slot, (response, row) in enumerate(pairs):
        scorer.submit(
            Rollout(slot=slot, sample=0, tokens=(), logprobs=(), weight_versions=(), finish_reason="stop", text=response),
            task,
            row,
        )
    scores = scorer.collect(tick)
    return [scores[slot, 0] for slot in range(len(pairs))]


def shown(name: str, row: Row, messages: Sequence[Message], images: Path) -> Iterator[str]:
    """Yields the lines of a task's prompt for a row; writes its images under `images`, as the model sees them before resizing."""
    count = 0
    for message in messages:
        yield f"[{message['role']}]"
        for part in parts_of(message):
            if part["type"] == "image":
                images.mkdir(parents=True, exist_ok=True)
                path = images / f"{name}-{row.key}-{count}.png"
                open_image(part["image"], max_side=MAX_SIDE).save(path)
                count += 1
                yield f"<image: {path}>"
            else:
                yield part["text"]
