"""What a run leaves: metrics, rollouts, histograms and tokens as .jsonl, summary.json, and, if wanted, wandb.

The files are the record: each line is strict JSON (a number that is not finite becomes text such as "nan", which float()
reads back), is on its way to the disk when the call returns, and carries its step, so that a resumed run can cut back what came
after its checkpoint. wandb is foreign code and only a copy: whatever it raises, the run goes on without it.
Only rank 0 makes a log.
"""

import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vlrl.types import Group

logger = logging.getLogger(__name__)


class RunLog:
    """The log of one run in `folder`, which is made if missing; lines are added to those already there.

    config: the resolved run file, for wandb alone. Every method that writes raises OSError with a sentence where the folder
    cannot be written, a full disk above all.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        config: Mapping[str, Any],
        project: str = "vlrl",
        wandb: Literal["disabled", "offline", "online"] = "offline",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._wandb: Any = None
        if wandb != "disabled":
            self._guarded(lambda: self._start_wandb(mode=wandb, project=project, name=name, config=dict(config)))

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Records one step's metrics: `step(12, {"reward/geometry3k": 0.43, "time/generate": 2.1})`."""
        _append(self.folder / "metrics.jsonl", [{"step": step, **metrics}])
        if self._wandb:
            self._guarded(lambda: self._wandb.log(dict(metrics), step=step))

    def rollouts(self, step: int, groups: Sequence[Group]) -> None:
        """Records every rollout of a step, one line each; images stay references."""
        _append(self.folder / "rollouts.jsonl", [line for group in groups for line in _rollout_lines(step, group)])

    def histograms(self, step: int, counts: Mapping[str, Sequence[int]]) -> None:
        """Records a step's histograms: counts by bin, see vlrl.algorithm.diagnostics for the edges."""
        _append(self.folder / "histograms.jsonl", [{"step": step, **counts}])

    def tokens(self, step: int, traces: Sequence[Mapping[str, Any]]) -> None:
        """Records what became of the tokens of a few of a step's responses, one line each."""
        _append(self.folder / "tokens.jsonl", [{"step": step, **trace} for trace in traces])

    def summary(self, values: Mapping[str, Any]) -> None:
        """Writes summary.json anew, whole or not at all."""
        write_whole(self.folder / "summary.json", [json.dumps(_strict(values), allow_nan=False, indent=2) + "\n"])
        if self._wandb:
            self._guarded(lambda: self._wandb.summary.update(dict(values)))

    def metrics(self) -> list[dict[str, Any]]:
        """The steps' metrics that are logged so far, in order."""
        return list(whole_lines(self.folder / "metrics.jsonl"))

    def truncate(self, step: int) -> None:
        """Cuts the line files back to the lines of steps up to `step`; torn lines go too. For a run resumed after `step`."""
        for path in (self.folder / f"{name}.jsonl" for name in ("metrics", "rollouts", "histograms", "tokens")):
            if path.exists():
                with path.open(encoding="utf-8", errors="replace") as lines:
                    write_whole(path, (line for line in lines if _belongs(line, step)))

    def close(self) -> None:
        """Ends the wandb run; the files need no end."""
        if self._wandb:
            self._guarded(lambda: self._wandb.finish())
        self._wandb = None

    def _start_wandb(self, *, mode: Literal["offline", "online"], **run: Any) -> None:
        # Read when wandb is imported: without these it keeps a log under the home folder, looks up its server even offline, and
        # talks of other products.
        os.environ.setdefault("WANDB_CACHE_DIR", str(self.folder.absolute() / "wandb" / "cache"))
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb  # half a second, and nothing at all where it is disabled

        settings = wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True)
        self._wandb = wandb.init(mode=mode, dir=str(self.folder), settings=settings, **run)
        if self._wandb.url:
            print(f"wandb: {self._wandb.url}", flush=True)

    def _guarded(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except Exception as error:  # foreign code, which fails in its own ways: no network, no key, a dead service process
            self._wandb = None
            logger.warning("wandb failed and is off for the rest of the run (%s: %s)", type(error).__name__, error)


@dataclass(slots=True)
class Clock:
    """Seconds of each named piece of a step."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that `percent` of them do not exceed, nan without any."""
    ordered = sorted(values) or [math.nan]
    return ordered[(len(ordered) - 1) * percent // 100]


class Tick(Protocol):
    """Tells a progress line that `done` more are done, with a short note to show beside it."""

    def __call__(self, done: int = 1, note: str = "") -> None: ...


@contextmanager
def progress(phase: str, total: int | None, *, shown: bool = True) -> Iterator[Tick]:
    """A phase's bar with the time remaining; where stdout is no terminal, a line at each tenth of the way.

    total: None where it is not known; the count alone is then shown, as a line every 10 seconds where stdout is no terminal.

    `with progress("Training", total=150, shown=rank == 0) as tick: tick(1, "reward 0.43")`
    """
    console = Console()
    if not console.is_terminal:
        yield _plain_count(phase, shown) if total is None else _plain_tick(phase, total, shown)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console, disable=not shown) as bar:
        task = bar.add_task(phase, total=total, note="")
        yield lambda done=1, note="": bar.update(task, advance=done, note=note)


def _plain_tick(phase: str, total: int, shown: bool) -> Tick:
    start, so_far = time.monotonic(), 0

    def tick(done: int = 1, note: str = "") -> None:
        nonlocal so_far
        before, so_far = so_far, so_far + done
        if shown and done and 10 * so_far // total > 10 * before // total:
            left_s = (time.monotonic() - start) * (total - so_far) / so_far
            print(f"{phase} {so_far}/{total}, {left_s:.0f} s left{', ' if note else ''}{note}", flush=True)

    return tick


def _plain_count(phase: str, shown: bool) -> Tick:
    told, so_far = time.monotonic(), 0

    def tick(done: int = 1, note: str = "") -> None:
        nonlocal told, so_far
        so_far += done
        if shown and time.monotonic() - told > 10:
            told = time.monotonic()
            print(f"{phase} {so_far}{', ' if note else ''}{note}", flush=True)

    return tick


def _rollout_lines(step: int, group: Group) -> Iterator[dict[str, Any]]:
    prompt = group.prompt
    advantages = group.advantages or (None,) * len(group.rollouts)
    for rollout, score, advantage in zip(group.rollouts, group.scores, advantages, strict=True):
        yield {
            "step": step,
            "task": prompt.task,
            "slot": prompt.slot,
            "round": prompt.round,
            "sample": rollout.sample,
            "row": prompt.row.key,
            "messages": prompt.messages,
            "answer": prompt.row.answer,
            "boxes": {key: prompt.row.meta[key] for key in ("width", "height", "box", "boxes") if key in prompt.row.meta},
            "response": rollout.text,
            "finish_reason": rollout.finish_reason,
            "num_tokens": len(rollout.tokens),
            "reward": score.reward,
            "parts": score.parts,
            "status": score.status,
            "detail": score.detail,
            "advantage": advantage,
        }


def _append(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    text = "".join(json.dumps(_strict(line), allow_nan=False) + "\n" for line in lines)
    with _or_a_sentence(path), path.open("a", encoding="utf-8") as file:
        file.write(text)


def whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a .jsonl file that may still be growing, have a torn last line, or not be there."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


def write_whole(path: Path, lines: Iterable[str]) -> None:
    """Writes a file anew, whole or not at all. OSError that says what to do."""
    fresh = path.with_name(path.name + ".new")
    with _or_a_sentence(path):
        with fresh.open("w", encoding="utf-8") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)


@contextmanager
def _or_a_sentence(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror}; make room, then resume the run from its checkpoint") from error


def _belongs(line: str, step: int) -> bool:
    """Whether a line is whole and of a step up to `step`."""
    try:
        return line.endswith("\n") and json.loads(line)["step"] <= step
    except ValueError:
        return False


def _strict(value: Any) -> Any:
    """The value with every float that strict JSON has no spelling for as text: "nan", "inf", "-inf"."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(float(value))
    if isinstance(value, Mapping):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return value
