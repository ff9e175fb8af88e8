"""What the author of a task needs before any training: files to start from, prompts to look at, and known verdicts to check.

The pool that training uses scores the responses, with its deadlines and its jail.
"""

import json
import keyword
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from vlrl.authoring.templates import RECIPE, TASK
from vlrl.data.images import read_image_bytes
from vlrl.scoring import Scorer
from vlrl.tasks import Task, parts_of, prompt_of
from vlrl.types import Message, Rollout, Row, Score, Status

_CONTROL = re.compile(r"(?!\n|\t|\r\n)[\x00-\x1f\x7f]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A response to a row, with the reward that it should get."""

    response: str
    row: Row
    expected: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Scores in the order of the cases, and the seconds that each verdict took, in no order."""

    cases: Sequence[Case]
    scores: Sequence[Score]
    seconds: Sequence[float]

    @property
    def disagreements(self) -> list[int]:
        """Numbers of the cases whose score is not ok, or whose reward is another than expected."""
        pairs = enumerate(zip(self.cases, self.scores, strict=True))
        return [n for n, (case, score) in pairs if score.status is not Status.OK or abs(score.reward - case.expected) > 1e-6]

    @property
    def confusion(self) -> Counter[tuple[str, str]]:
        """How often each expected reward was met by each reward, or by a status that is not ok."""
        return Counter((f"{c.expected:g}", verdict_of(s)) for c, s in zip(self.cases, self.scores, strict=True))


def verdict_of(score: Score) -> str:
    """The reward as text, or the status where it is not ok."""
    return f"{score.reward:g}" if score.status is Status.OK else score.status


def new_task(name: str, folder: Path) -> Path:
    """Writes a task file that works, to be changed. ValueError: no task can have the name, or it is taken."""
    return _write_new("task", name, folder, TASK)


def new_recipe(name: str, folder: Path) -> Path:
    """Writes a recipe for a CSV file of pictures, to be changed. ValueError: no recipe can have the name, or it is taken."""
    return _write_new("recipe", name, folder, RECIPE)


def _write_new(kind: str, name: str, folder: Path, template: str) -> Path:
    if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
        raise ValueError(f"{name!r} can't be a {kind}'s name; use letters, digits and _, as in shape_counting")
    path = folder / f"{name}.py"
    if path.exists():
        raise ValueError(f"{path} exists already; choose another name")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(template.replace("NAME", name))
    return path


def read_cases(path: Path) -> list[Case]:
    """The cases of a JSON lines file: {"response": "...", "row": {"answer": "..."}, "expected": 1}. ValueError names the line."""
    if not path.exists():
        raise ValueError(
            f"no file {path}; each of its lines must be like " + '{"response": "...", "row": {"answer": "..."}, "expected": 1}'
        )
    cases: list[Case] = []
    if not path.read_text().strip():
        raise ValueError(f"{path} holds no case; write one JSON object a line")
    for number, line in enumerate(path.read_text().rstrip("\n").split("\n"), start=1):
        try:
            raw = json.loads(line)
            cases.append(Case(response=raw["response"], row=row_of(raw["row"]), expected=float(raw["expected"])))
        except (ValueError, KeyError, TypeError) as error:
            fault = f"has no {error}" if isinstance(error, KeyError) else f"can't be read ({error})"
            raise ValueError(f"{path}:{number} {fault}") from None
    return cases


def control_characters(cases: Sequence[Case]) -> list[str]:
    """For each case whose text holds a control character, a sentence: a backslash that JSON took for an escape leaves one."""
    warnings = []
    for number, case in enumerate(cases, start=1):
        for where, text in (("response", case.response), ("answer", case.row.answer)):
            if found := _CONTROL.search(text):
                escape = json.dumps(found[0])[1:-1]
                warnings.append(
                    f"{number} holds a control character ({escape}) in its {where}; for a backslash write two, as in "
                    f'"\\\\boxed{{...}}", and write the file with an editor or cat: echo may change backslashes'
                )
    return warnings


def prompt_to_show(task: Task, row: Row, **own: str | None) -> list[Message]:
    """The task's prompt for a row. ValueError if its prompt fails."""
    try:
        return prompt_of(task, row, **own)
    except ValueError:
        raise
    except Exception as error:  # the task's code
        raise ValueError(f"{task.path}: its prompt fails for row {row.key} ({type(error).__name__}: {error})") from error


def row_of(raw: dict[str, Any]) -> Row:
    """A row from JSON data. ValueError names a field that rows do not have."""
    known = {field.name for field in fields(Row)}
    if unknown := sorted(raw.keys() - known):
        raise ValueError(f"a row has no {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    return Row(**raw | {"images": tuple(raw.get("images", ()))})


def verify_cases(task: str, cases: Sequence[Case], scorer: Scorer) -> Report:
    """Scores the cases as training would."""
    scores = score_all(task, [(case.response, case.row) for case in cases], scorer)
    seconds = [second for task_seconds in scorer.latencies.values() for second in task_seconds]
    return Report(cases=cases, scores=scores, seconds=seconds)


def score_all(
    task: str, pairs: Sequence[tuple[str, Row]], scorer: Scorer, tick: Callable[[], None] = lambda: None
) -> list[Score]:
    """The scores of (response, row) pairs, in their order, as training would give them. tick: called after each."""
    for slot, (response, row) in enumerate(pairs):
        scorer.submit(
            Rollout(slot=slot, sample=0, tokens=(), logprobs=(), text=response, finish_reason="stop", weight_version=0), task, row
        )
    scores = scorer.collect(tick)
    return [scores[slot, 0] for slot in range(len(pairs))]


def shown(name: str, row: Row, messages: Sequence[Message], images: Path) -> Iterator[str]:
    """A task's prompt for a row, line by line, with its images written as files under `images`."""
    count = 0
    for message in messages:
        yield f"[{message['role']}]"
        for part in parts_of(message):
            if part["type"] == "image":
                images.mkdir(parents=True, exist_ok=True)
                content = read_image_bytes(part["image"])
                kind = "png" if content[1:4] == b"PNG" else "jpg"
                path = images / f"{name}-{row.key}-{count}.{kind}"
                path.write_bytes(content)
                count += 1
                yield f"<image: {path}>"
            else:
                yield part["text"]
