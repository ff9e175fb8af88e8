"""Reads a run's inputs before its model is loaded: tasks, data sets and mixture. Nothing here needs torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, TypeVar

from vlrl.common.columns import Columns
from vlrl.config import Config, TaskConfig
from vlrl.data.mixture import Mixture
from vlrl.data.row_cache import RowsRequest
from vlrl.data.shards import MANIFEST, Dataset
from vlrl.data.source_files import Source, is_source
from vlrl.tasks import Task, prompt_of
from vlrl.types import Convention, Draw, Prompt, Row

K = TypeVar("K")
T = TypeVar("T")

_LONGEST, _SPREAD = 2, 4  # rows of each data set whose prompts are checked


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """A run file's settings, with each task's loaded file and training data, by its name in the mixture."""

    config: Config
    tasks: dict[str, Task]
    rows: dict[str, Dataset]

    def with_rows(self, rows: dict[str, Dataset]) -> Self:
        return replace(self, rows=rows)

    @property
    def coordinates(self) -> Convention:
        """How prompts ask for places in a picture: in Qwen3-VL's way, before the model is known."""
        return "relative_1000"

    def resume_identity(self, world_size: int) -> dict[str, Any]:
        """The values that a resumed run is compared with the saved one by; the tasks' order decides their slots."""
        settings = self.config.model_dump(mode="json")
        return {"world_size": world_size, "tasks": list(self.config.mixture), **self.contents, **settings}

    @property
    def contents(self) -> dict[str, Any]:
        """Fingerprints of each task's rows and file."""
        return {
            "data": {task: rows.fingerprint for task, rows in self.rows.items()},
            "task_files": {name: f"{task.path.name} {task.fingerprint}" for name, task in self.tasks.items()},
        }

    def mixture(self) -> Mixture:
        """The mixture of the training steps."""
        config = self.config
        weights = {task: mix.weight for task, mix in config.mixture.items()}
        return Mixture(
            weights,
            self._sizes,
            prompts_per_step=config.prompts_per_step,
            minibatches=config.algorithm.minibatches,
            steps=config.steps,
            seed=config.seed,
        )

    def coldstart_mixture(self) -> Mixture:
        """The mixture of the cold start: undivided batches, shuffled with another seed."""
        config, settings = self.config, self.config.coldstart
        weights = {task: mix.coldstart_weight or mix.weight for task, mix in config.mixture.items()}
        return Mixture(
            weights, self._sizes, prompts_per_step=settings.batch_size, minibatches=1, steps=settings.steps, seed=config.seed + 1
        )

    @property
    def _sizes(self) -> dict[str, int]:
        return {task: len(rows) for task, rows in self.rows.items()}

    def prompts(self, draws: Sequence[Draw]) -> list[Prompt]:
        """The drawn rows as chat messages with their tasks' group sizes and length limits."""
        return [self.prompt(draw, self.config.group_size(draw.task)) for draw in draws]

    def prompt(self, draw: Draw, group_size: int, max_new_tokens: int | None = None) -> Prompt:
        """The drawn row as chat messages. max_new_tokens: overrides the task's own limit."""
        task, mix, row = self.tasks[draw.task], self.config.mixture[draw.task], self.rows[draw.task][draw.index]
        return Prompt(
            slot=draw.slot,
            task=draw.task,
            row=row,
            messages=tuple(prompt_of(task, row, system=mix.system, instruction=mix.instruction, coordinates=self.coordinates)),
            file=task.name,
            minibatch=draw.minibatch,
            round=draw.round,
            group_size=group_size,
            max_new_tokens=max_new_tokens or self.config.max_new_tokens(draw.task),
        )


def rows_request(name: str, mix: TaskConfig) -> RowsRequest | None:
    """What to build for a task of the mixture whose rows are a source; None if they are a data set.

    Raises ValueError if rows, eval_rows and columns contradict one another.
    """
    rows, held_out = str(mix.rows), mix.eval_rows
    named = "" if held_out is None or isinstance(held_out, int) else str(held_out)
    if not is_source(rows) and mix.columns is None:
        if held_out and (not named or is_source(named)):
            raise ValueError(
                f"mixture.{name}.eval_rows: {held_out} is part of a source, and rows {rows} is a data set; name the folder of a "
                "data set, or give columns, for a source in rows"
            )
        return None
    if (mix.rows / MANIFEST).exists():
        raise ValueError(f"mixture.{name}.columns: rows {rows} is a data set, whose rows are made already; leave out columns")
    source, is_dataset = Source.parse(rows), bool(named) and (Path(named) / MANIFEST).exists()
    asked = None if is_dataset else Source.parse_held_out(named, source) if named else held_out
    assert not isinstance(asked, Path)
    return RowsRequest(task=mix.task or name, source=source, columns=mix.columns or Columns(), held_out=asked)


def row_folders(name: str, mix: TaskConfig) -> tuple[Path, Path | None]:
    """The data sets of a task's training rows and of its held-out ones, if any. Raises ValueError for a source not yet built."""
    request = rows_request(name, mix)
    eval_rows = mix.eval_rows if isinstance(mix.eval_rows, Path) else None
    return (request.train, request.eval or eval_rows) if request else (mix.rows, eval_rows)


def train_rows(name: str, mix: TaskConfig) -> Dataset:
    """The task's training rows. Raises ValueError if they are not there."""
    return Dataset(row_folders(name, mix)[0])


def heldout_folders(config: Config) -> dict[str, Path]:
    """The data set of each task that has held-out rows."""
    folders = {name: row_folders(name, mix)[1] for name, mix in config.mixture.items()}
    return {name: folder for name, folder in folders.items() if folder}


def open_each(openers: Mapping[str, Callable[[], T]]) -> dict[str, T]:
    """Calls each opener; returns the results by name. Raises ValueError with one line for each opener that fails."""
    opened, faults = attempt_each(openers)
    if faults:
        raise ValueError("\n".join(faults))
    return opened


def attempt_each(actions: Mapping[K, Callable[[], T]]) -> tuple[dict[K, T], list[str]]:
    """Calls each action; returns the results by key, and the messages of those that raise ValueError, in order."""
    results, faults = {}, []
    for key, action in actions.items():
        try:
            results[key] = action()
        except ValueError as error:
            faults.append(str(error))
    return results, faults


def spread(count: int, most: int) -> list[int]:
    """At most `most` of the numbers below `count`, evenly spaced and deterministic.

    >>> spread(100, 4), spread(3, 8)
    ([0, 25, 50, 75], [0, 1, 2])
    """
    chosen = min(count, most)
    return [place * count // chosen for place in range(chosen)]


def representative_rows(rows: Mapping[int, Row]) -> list[int]:
    """The rows with the longest questions, and some evenly spaced rows with images; of all rows if none has images."""
    longest = sorted(rows, key=lambda number: len(rows[number].question))[-_LONGEST:]
    candidates = [number for number in rows if rows[number].images] or list(rows)
    return sorted({*longest, *(candidates[place] for place in spread(len(candidates), _SPREAD))})
