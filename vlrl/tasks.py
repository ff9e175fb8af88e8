"""Loads tasks and scores responses with them. A task is one file in a task folder, named by the file's stem. It defines:

    def prompt(row: Row) -> list[Message]              the question as chat messages
    def verify(response: str, row: Row) -> Score       the reward; raises BadRow if no response to the row can be scored.
                                                       response: without reasoning, see vlrl.common.responses
    EXAMPLES = [("so \\boxed{12}", Row(answer="12"), 1.0), ...]      (response, row, reward) that verify must reproduce

A task may also define

    def guessed(rows: Sequence[Row]) -> list[str]      for each row, the guess that would be right without a look at its pictures,
                                                       or ""; `vlrl data build` leaves such rows out

Text that is the same in every prompt should be a constant INSTRUCTION, which a run file can replace. If it asks for places in a
picture, it says "from 0 to 1000", which becomes "in pixels of the picture" for a model that gives places so; verify reads them
with Frame.of(row), see vlrl/verifiers/boxes.py. There is no registry.

Files are loaded by path, in the run and in each scoring worker, so a user's folder need not be installed.
"""

import ast
import importlib.util
import math
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from vlrl.common.ask import Question, Unanswered, answering
from vlrl.common.fingerprint import text_fingerprint
from vlrl.common.names import name_fault
from vlrl.common.responses import after_reasoning
from vlrl.common.suggest import nearest
from vlrl.types import Convention, Message, Row, Score, Status

Example = tuple[str, Row, float]

THOUSANDTHS, _PIXELS = "from 0 to 1000", "in pixels of the picture"
_PARTS = ("prompt", "verify", "EXAMPLES")
_DETAIL = 500
_BOXES = Path(__file__).parent / "verifiers/boxes.py"
_SCORING = [Path(__file__).parent / room for room in ("verifiers", "sandbox", "common")]  # a change there changes rewards


class BadRow(ValueError):  # noqa: N818
    """Raised by a verifier for a row that it cannot score, e.g. because the reference is missing or unreadable."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A loaded task file and its definitions; its name is the file's stem.

    fingerprint: a hash of the file, and of what it imports from its own folder and from _SCORING.
    reads_places: whether it imports vlrl.verifiers.boxes.
    """

    name: str
    path: Path
    prompt: Callable[[Row], list[Message]]
    verify: Callable[[str, Row], Score]
    examples: tuple[Example, ...]
    instruction: str = ""
    fingerprint: str = ""
    reads_places: bool = False
    guessed: Callable[[Sequence[Row]], list[str]] | None = None


def load_task(name: str, folders: Sequence[Path | str]) -> Task:
    """Loads the task `name` from the first folder that has it. A process runs the file only once.

    Raises ValueError if the name is not valid, no folder has the task, its file cannot be loaded, or a definition is missing.
    """
    if fault := name_fault(name):
        raise ValueError(fault)
    files = {path.stem: path for folder in reversed(folders) for path in sorted(Path(folder).glob("[!_]*.py"))}
    if name not in files:
        places = [str(folder) for folder in folders]
        found = f"found {sorted(files)}" if files else "there is no task file; name the folder with --tasks or task_folders"
        raise ValueError(f"no task {name!r} in {places}; {nearest(name, files)}{found}")
    path = files[name].resolve()
    module = _load_module(path)
    missing = [part for part in _PARTS if part not in vars(module)]
    if missing:
        raise ValueError(f"{files[name]} must define {', '.join(missing)}; see the docstring of vlrl/tasks.py")
    imported = _scoring_imports(path, set())
    return Task(
        name=name,
        path=files[name],
        prompt=module.prompt,
        verify=module.verify,
        examples=tuple(module.EXAMPLES),
        instruction=getattr(module, "INSTRUCTION", ""),
        fingerprint=text_fingerprint(*(each.read_bytes() for each in sorted({path, *imported}))),
        reads_places=_BOXES in imported,
        guessed=getattr(module, "guessed", None),
    )


def prompt_of(
    task: Task, row: Row, *, system: str | None = None, instruction: str | None = None, coordinates: Convention = "relative_1000"
) -> list[Message]:
    """The task's prompt for a row. system: a system message to add; instruction: replaces the task's INSTRUCTION.

    coordinates: how the model gives places in a picture; the instruction asks for them so.

    Raises ValueError if the prompt has no INSTRUCTION to replace.
    """
    messages = task.prompt(row)
    asked = task.instruction if instruction is None else instruction
    if coordinates == "pixels":
        asked = asked.replace(THOUSANDTHS, _PIXELS)
    if instruction is not None:
        texts = [part["text"] for message in messages for part in parts_of(message) if part["type"] == "text"]
        if not task.instruction or not any(task.instruction in text for text in texts):
            raise ValueError(f"{task.path}: the prompt has no INSTRUCTION to replace; define INSTRUCTION and use it in prompt")
    if asked != task.instruction:
        messages = [_replaced(message, task.instruction, asked) for message in messages]
    return messages if system is None else [{"role": "system", "content": system}, *messages]


def parts_of(message: Message) -> list[dict[str, Any]]:
    """A message's content as a list of parts; a plain text becomes one part."""
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def score_response(task: Task, response: str, row: Row) -> Score:
    """Runs the verifier on what follows the response's reasoning, and always returns a score.

    A reasoning that is not closed leaves the verifier an empty text. Exceptions and invalid return values become a status and a
    detail, and so does a question to a service, such as a judge: only the scorer can ask it.
    """
    found = score_or_question(task, response, row)
    if isinstance(found, Score):
        return found
    return _failed(Status.ERROR, f"verify asks the service {found.service!r}, which is not asked here; see docs/judges.md")


def score_or_question(task: Task, response: str, row: Row, replies: Mapping[str, Any] = MappingProxyType({})) -> Score | Question:
    """Like `score_response`, or the first question to a service whose reply is not in `replies`, which are by question."""
    try:
        with answering(replies):
            return _checked(task.verify(after_reasoning(response), row))
    except Unanswered as asked:
        return asked.question
    except BadRow as error:
        return _failed(Status.BAD_ROW, str(error))
    except BaseException as error:  # timeouts and exits of some libraries are not Exceptions
        return _failed(Status.ERROR, f"{describe_error(error)} ({_place(error, task.path)})")


def describe_error(error: BaseException) -> str:
    """ "KeyError: 'hint'" """
    return f"{type(error).__name__}: {error}"


def gold(row: Row) -> str:
    """The row's own answer as a response: its demonstration, or else the answer in a box."""
    return row.response or f"\\boxed{{{row.answer}}}"


def check_examples(task: Task) -> list[str]:
    """One sentence for each example whose reward the verifier does not reproduce; empty if all are reproduced."""
    return example_faults(task, [score_response(task, response, row) for response, row, _ in task.examples])


def example_faults(task: Task, scores: Sequence[Score]) -> list[str]:
    """Like `check_examples`, for given scores of the examples."""
    if not task.examples:
        return [f"{task.path}: EXAMPLES is empty; give at least one (response, row, reward)"]
    faults: dict[str, str] = {}  # by cause, so that a cause that affects every example, such as a missing jail, is reported once
    for number, ((_, _, reward), score) in enumerate(zip(task.examples, scores, strict=True)):
        expected = f"{task.path}: EXAMPLES[{number}] expects {reward}, but verify gives"
        if score.status != Status.OK:
            faults.setdefault(score.detail, f"{expected} {score.status}: {score.detail}")
        elif not math.isclose(score.reward, reward, abs_tol=1e-6):
            faults[f"EXAMPLES[{number}]"] = f"{expected} {score.reward}"
    return list(faults.values())


@cache
def _load_module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(str(path.with_suffix("")), path)
    assert spec and spec.loader, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass in the file looks up its module there
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise ValueError(f"{error.filename}:{error.lineno}: {error.msg}") from None
    except ImportError as error:
        raise ValueError(f"{path} cannot be imported: {error}") from error
    except Exception as error:  # a user's file may raise anything
        raise ValueError(f"{path} cannot be imported: {describe_error(error)} ({_place(error, path)})") from error
    return module


def _scoring_imports(path: Path, found: set[Path]) -> set[Path]:
    """The files that a file imports, directly or indirectly, from its own folder or from _SCORING; adds them to `found`."""
    for name in _imported_names(path.read_bytes()):
        for folder in (path.parent, *_SCORING):
            for helper in (folder / f"{name}.py", folder / name / "__init__.py"):
                if helper.is_file() and helper not in found:
                    found.add(helper)
                    _scoring_imports(helper, found)
    return found


@cache
def _imported_names(source: bytes) -> frozenset[str]:
    """The words of all names that a file imports: tasks, _shared and clean for `from tasks._shared import clean`."""
    imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)]
    dotted = [alias.name for node in imports for alias in node.names]
    dotted += [node.module or "" for node in imports if isinstance(node, ast.ImportFrom)]
    return frozenset(word for name in dotted for word in name.split("."))


def _place(error: BaseException, path: Path) -> str:
    """The innermost line of the task's file in the traceback, such as tasks/dots.py:12; or of any file if it is not there."""
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
    """The score with plain floats. Raises TypeError if it is not a Score, ValueError if a number is not finite."""
    if not isinstance(score, Score):
        raise TypeError(f"verify must return a Score, got {type(score).__name__}")
    reward = float(score.reward)
    parts = {name: float(value) for name, value in score.parts.items()}
    if not all(map(math.isfinite, [reward, *parts.values()])):
        raise ValueError(f"verify must return finite numbers, got reward {reward} with parts {parts}")
    return replace(score, reward=reward, parts=parts, detail=str(score.detail)[:_DETAIL])


def _failed(status: Status, detail: str) -> Score:
    return Score(reward=0.0, status=status, detail=detail[:_DETAIL])
