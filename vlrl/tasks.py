"""A task is one file in a task folder; its name is the file's stem. It defines three things and registers nothing:

    def prompt(row: Row) -> list[Message]              the question as chat messages
    def verify(response: str, row: Row) -> Score       the reward; BadRow where the row itself cannot be scored
    EXAMPLES = [("so \\boxed{12}", Row(answer="12"), 1.0), ...]      (response, row, reward): what verify must reproduce

What a prompt asks of every row alike should be a constant INSTRUCTION: a run file may put another in its place.

Files are loaded by path, in the run and in each scoring worker, so a user's folder needs no installing.
"""

import ast
import importlib.util
import math
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from vlrl.common.fingerprint import text_fingerprint
from vlrl.common.suggest import nearest
from vlrl.types import Message, Row, Score, Status

Example = tuple[str, Row, float]

_PARTS = ("prompt", "verify", "EXAMPLES")
_DETAIL = 500


class BadRow(ValueError):  # noqa: N818
    """Raised by a verifier for a row that no response could win: a missing or unreadable reference, say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A loaded task file: what it defines, under the file's stem.

    fingerprint: equal for equal code, of the file and of the files of its folder that it imports.
    """

    name: str
    path: Path
    prompt: Callable[[Row], list[Message]]
    verify: Callable[[str, Row], Score]
    examples: tuple[Example, ...]
    instruction: str = ""
    fingerprint: str = ""


def load_task(name: str, folders: Sequence[Path | str]) -> Task:
    """The task `name` from the first folder that has it; its file runs once in a process.

    ValueError where no folder has it, where its file cannot be loaded, and where a part is missing.
    """
    files = {path.stem: path for folder in reversed(folders) for path in sorted(Path(folder).glob("[!_]*.py"))}
    if name not in files:
        places = [str(folder) for folder in folders]
        raise ValueError(f"no task {name!r} in {places}; {nearest(name, files)}found {sorted(files)}")
    module = _load_module(files[name].resolve())
    missing = [part for part in _PARTS if part not in vars(module)]
    if missing:
        raise ValueError(f"{files[name]} must define {', '.join(missing)}; see the docstring of vlrl/tasks.py")
    return Task(
        name=name,
        path=files[name],
        prompt=module.prompt,
        verify=module.verify,
        examples=tuple(module.EXAMPLES),
        instruction=getattr(module, "INSTRUCTION", ""),
        fingerprint=_fingerprint(files[name].resolve()),
    )


def prompt_of(task: Task, row: Row, *, system: str | None = None, instruction: str | None = None) -> list[Message]:
    """The task's prompt for a row, after a system message and with another instruction where these are given.

    ValueError where the task's prompt holds no INSTRUCTION to replace.
    """
    messages = task.prompt(row)
    if instruction is not None:
        texts = [part["text"] for message in messages for part in parts_of(message) if part["type"] == "text"]
        if not task.instruction or not any(task.instruction in text for text in texts):
            raise ValueError(f"{task.path}: its prompt holds no INSTRUCTION that another could replace; define one there")
        messages = [_replaced(message, task.instruction, instruction) for message in messages]
    return messages if system is None else [{"role": "system", "content": system}, *messages]


def parts_of(message: Message) -> list[dict[str, Any]]:
    """A message's content as parts, also where it is a text alone."""
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def verdict(task: Task, response: str, row: Row) -> Score:
    """The verifier's score, and a score in any case: what it raises or returns amiss becomes a status and a detail."""
    try:
        return _checked(task.verify(response, row))
    except BadRow as error:
        return _failed(Status.BAD_ROW, str(error))
    except BaseException as error:  # foreign code: some libraries' time-outs and exits are not Exceptions
        return _failed(Status.ERROR, f"{described(error)} ({_place(error, task.path)})")


def described(error: BaseException) -> str:
    """ "KeyError: 'hint'" """
    return f"{type(error).__name__}: {error}"


def gold(row: Row) -> str:
    """The response that a row's own answer makes: its demonstration, or the answer in a box."""
    return row.response or f"\\boxed{{{row.answer}}}"


def check_examples(task: Task) -> list[str]:
    """One sentence for each of the task's examples that its verifier does not reproduce; none where all is well."""
    return example_faults(task, [verdict(task, response, row) for response, row, _ in task.examples])


def example_faults(task: Task, scores: Sequence[Score]) -> list[str]:
    """As `check_examples`, of scores that the examples have got already."""
    if not task.examples:
        return [f"{task.path}: EXAMPLES is empty; give at least one (response, row, reward)"]
    faults: dict[str, str] = {}  # by what was wrong: what stops every verdict, such as a missing jail, is told once
    for number, ((_, _, reward), score) in enumerate(zip(task.examples, scores, strict=True)):
        worth = f"{task.path}: EXAMPLES[{number}] is worth {reward}, but verify gives"
        if score.status != Status.OK:
            faults.setdefault(score.detail, f"{worth} {score.status}: {score.detail}")
        elif not math.isclose(score.reward, reward, abs_tol=1e-6):
            faults[f"EXAMPLES[{number}]"] = f"{worth} {score.reward}"
    return list(faults.values())


@cache
def _load_module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(str(path.with_suffix("")), path)
    assert spec and spec.loader, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses of the task's own look themselves up there
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise ValueError(f"{error.filename}:{error.lineno}: {error.msg}") from None
    except ImportError as error:
        raise ValueError(f"{path} cannot be imported: {error}") from error
    except Exception as error:  # the file is foreign code
        raise ValueError(f"{path} cannot be imported: {described(error)} ({_place(error, path)})") from error
    return module


def _fingerprint(path: Path) -> str:
    return text_fingerprint(*(each.read_bytes() for each in sorted({path, *_own_imports(path, set())})))


def _own_imports(path: Path, found: set[Path]) -> set[Path]:
    """The files of the folder that a file imports, and those that they import in turn, added to `found`."""
    for name in _imported_names(path):
        for helper in (path.parent / f"{name}.py", path.parent / name / "__init__.py"):
            if helper.is_file() and helper not in found:
                found.add(helper)
                _own_imports(helper, found)
    return found


def _imported_names(path: Path) -> Iterator[str]:
    """Each word of each import's dotted name: tasks, _shared and clean for `from tasks._shared import clean`."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            dotted = [alias.name for alias in node.names] + ([node.module or ""] if isinstance(node, ast.ImportFrom) else [])
            yield from (word for name in dotted for word in name.split("."))


def _place(error: BaseException, path: Path) -> str:
    """tasks/dots.py:12, the innermost line of the task's file that was running, or of any file where none of it was."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename) == path.resolve()]
    frame = (own or frames)[-1]
    return f"{Path(frame.filename).parent.name}/{Path(frame.filename).name}:{frame.lineno}"


def _replaced(message: Message, old: str, new: str) -> Message:
    parts = parts_of(message)
    return message | {
        "content": [part | {"text": part["text"].replace(old, new)} if part["type"] == "text" else part for part in parts]
    }


def _checked(score: Score) -> Score:
    """The score with its numbers as plain floats. TypeError or ValueError where it is no score, or a number is not finite."""
    if not isinstance(score, Score):
        raise TypeError(f"verify must return a Score, it returned {type(score).__name__}")
    reward = float(score.reward)
    parts = {name: float(value) for name, value in score.parts.items()}
    if not all(map(math.isfinite, [reward, *parts.values()])):
        raise ValueError(f"verify must return finite numbers, it returned the reward {reward} with parts {parts}")
    return replace(score, reward=reward, parts=parts, detail=str(score.detail)[:_DETAIL])


def _failed(status: Status, detail: str) -> Score:
    return Score(reward=0.0, status=status, detail=detail[:_DETAIL])
