"""Going back from a collapse: to which checkpoint, with which changes, and the record of it, the run folder's rollbacks.json.

The record is the commit point: it is written before anything is undone, and all that follows it can be done twice. A run that is
killed at any moment reads the record when it starts again and completes the same rollback. A checkpoint's state holds the number
of rollbacks before it, so that one from a future that the run has left is recognised.
"""

import json
import shutil
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from vlrl.common.jsonl import read_json, strict, write_atomically
from vlrl.config import Config
from vlrl.telemetry.collapse_watch import Alarm

RECORD, LEFT_BEHIND = "rollbacks.json", "rolled_back"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollback:
    """One rollback: the step that was called and why, the step that the run went back to, the tasks and what was changed."""

    number: int
    called_at: int
    to_step: int
    sentences: tuple[str, ...]
    tasks: tuple[str, ...]
    change: str


def read_record(folder: Path) -> tuple[Rollback, ...]:
    """The run's rollbacks so far. ValueError if their record is damaged."""
    path = folder / RECORD
    if not path.exists():
        return ()
    remedy = "put it back: it says which checkpoints and log lines the run has left behind"
    return TypeAdapter(tuple[Rollback, ...]).validate_python(read_json(path, remedy))


def write_record(folder: Path, rollbacks: Sequence[Rollback]) -> None:
    """Writes the record, on the disk at the return."""
    write_atomically(folder / RECORD, [json.dumps(strict([asdict(each) for each in rollbacks]), indent=2) + "\n"])


def begin_anew(folder: Path) -> None:
    """Removes what is left of the rollbacks of a run that begins at its first step again."""
    (folder / RECORD).unlink(missing_ok=True)
    shutil.rmtree(folder / LEFT_BEHIND, ignore_errors=True)


def decide(
    config: Config, rollbacks: Sequence[Rollback], calls: Sequence[Alarm], checkpoints: Collection[int], step: int
) -> Rollback | None:
    """The rollback that these alarms of the collapse watch ask for; None if they are only warnings.

    checkpoints: steps of those that are saved at regular steps.
    """
    settings = config.rollback
    asking = [call for call in calls if call.signal in settings.signals]
    if config.on_collapse != "rollback" or not asking or not checkpoints or len(rollbacks) >= settings.times:
        return None
    tasks = tuple(dict.fromkeys(call.of for call in asking if call.of in config.mixture))
    return Rollback(
        number=len(rollbacks) + 1,
        called_at=step,
        to_step=target(checkpoints, min(call.well_after for call in asking)),
        sentences=tuple(call.sentence for call in asking),
        tasks=tasks,
        change=_change(config, tasks),
    )


def target(checkpoints: Collection[int], well_after: int) -> int:
    """The newest of the checkpoints whose weights surely did well, else the oldest.

    >>> target([0, 20, 40, 60], well_after=45), target([40, 60], well_after=30)
    (40, 40)
    """
    return max((step for step in checkpoints if step <= well_after), default=min(checkpoints))


def protected(checkpoints: Collection[int], step: int, *, every: int, keep: int, well_after: int) -> set[int]:
    """The earlier checkpoints that a run which saves one at `step` must keep, so that it can go back.

    A checkpoint that a signal left between the regular steps moves none of the regular ones out: which of them a run goes back
    to must not depend on where it was stopped.
    """
    earlier = {each for each in checkpoints if each < step}
    if step % every:
        return earlier
    regular = sorted(each for each in earlier if each % every == 0)
    newest = regular[max(0, len(regular) - keep + 1) :]
    return {*newest, target([*regular, step], well_after)}


def is_left_behind(step: int, count: int, rollbacks: Sequence[Rollback]) -> bool:
    """Whether a checkpoint after `step` steps, saved after `count` rollbacks, is of a future that the run has left since."""
    return any(step > each.to_step for each in rollbacks[count:])


def changed(config: Config, rollbacks: Sequence[Rollback]) -> Config:
    """The settings that a run follows after these rollbacks."""
    settings, mixture = config.rollback, dict(config.mixture)
    if not rollbacks:
        return config
    for task in (task for each in rollbacks for task in each.tasks):
        weight = mixture[task].loss_weight * settings.scale_task_loss
        mixture[task] = mixture[task].model_copy(update={"loss_weight": weight})
    algorithm, kl = config.algorithm, settings.kl_coefficient
    if kl is not None:
        algorithm = algorithm.model_copy(update={"kl_coefficient": kl})
    return config.model_copy(update={"mixture": mixture, "algorithm": algorithm})


def lr_scale(config: Config, rollbacks: Sequence[Rollback]) -> float:
    """What the learning rate is multiplied by after these rollbacks."""
    return config.rollback.scale_lr ** len(rollbacks)


def announcement(config: Config, rollback: Rollback) -> str:
    """What the user reads when the run goes back."""
    left = config.rollback.times - rollback.number
    return (
        f"step {rollback.called_at}: {'; '.join(rollback.sentences)}. The run goes back to step {rollback.to_step}, with "
        f"{rollback.change}; {left or 'no'} rollback{'' if left == 1 else 's'} left"
    )


def used_up(config: Config, rollbacks: Sequence[Rollback], calls: Sequence[Alarm]) -> str:
    """What is added to a warning that would have been a rollback, were any left; else nothing."""
    asked = config.on_collapse == "rollback" and any(call.signal in config.rollback.signals for call in calls)
    times = config.rollback.times
    used = f"all {times} rollbacks are used up" if times > 1 else "its one rollback is used up"
    return f". The run continues: {used}" if asked and len(rollbacks) >= times else ""


def _change(config: Config, tasks: Sequence[str]) -> str:
    settings = config.rollback
    changes = []
    if settings.scale_lr != 1:
        changes.append(f"the learning rate times {settings.scale_lr:g}")
    if settings.kl_coefficient is not None:
        changes.append(f"algorithm.kl_coefficient {settings.kl_coefficient:g}")
    if settings.scale_task_loss != 1 and tasks:
        changes.append(f"the loss_weight of {', '.join(tasks)} times {settings.scale_task_loss:g}")
    return ", ".join([*changes, "new sampling seeds"])
