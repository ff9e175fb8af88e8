"""Whether a run is well, in one line: a function of what is in its folder.

What is wrong comes first: a run that is not running, a rank that is silent, a part of a step that takes too long, missing
verdicts, a lost reward, an alarm of the collapse watch.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from vlrl.report.draw import known
from vlrl.report.read import RunData
from vlrl.telemetry.collapse_watch import CollapseWatch
from vlrl.telemetry.metrics import read_metrics

RECENT = 5  # steps
SILENT_S = 15.0
"""A rank sends its news, and the first one writes its status, once a second; a busy machine may be silent for seconds."""

_SLOW, _SLOWEST_S = 10, 60.0  # a part of a step takes too long from ten usual steps on, and from 60 seconds on
_UNSCORED = 0.05  # of a task's rollouts
_LEAST_LOST, _NOISE = 0.1, 4.0  # of reward; of the standard error of two means over RECENT steps
_SCALE = 1.4826  # from a median absolute deviation to a standard deviation
_WATCHED, _ALARMED = 60, 10  # steps that the collapse watch sees, and for how many an alarm is shown


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """is_well: None if the run has not begun. sentence: why it is not, or how far it is."""

    is_well: bool | None
    sentence: str


def health(folder: Path, run: RunData | None, status: Mapping[str, Any] | None, *, quiet_s: float | None) -> Health:
    """run: None if its folder has no config.yaml yet. status: the content of its status file.

    quiet_s: for how many seconds the status has not counted on; None if that is not known yet.
    """
    is_running = bool(status and not status["ended"] and quiet_s is not None and quiet_s < SILENT_S)
    if run is None and not is_running:
        return Health(is_well=None, sentence=_not_begun(folder))
    if status and not status["ended"] and quiet_s is None:
        return Health(is_well=None, sentence="The run has a status file; waiting for a sign of life.")
    if not status or not is_running:
        assert run
        return _not_running(run, status, quiet_s)
    faults = [*_silent(status), *_slow(run, status), *(_of_metrics(run) if run else ())]
    progress = _progress(run, status)
    return Health(is_well=not faults, sentence=" ".join([*faults, progress]))


def _not_begun(folder: Path) -> str:
    if folder.is_dir():
        return f"{folder} has no config.yaml yet, which a run writes before its first step; this page waits for it."
    return f"{folder} does not exist yet; this page waits for it."


def _not_running(run: RunData, status: Mapping[str, Any] | None, quiet_s: float | None) -> Health:
    done, steps = _steps(run)
    if not status and run.summary and run.summary.get("steps") == steps:
        return Health(is_well=True, sentence=f"The run ended at step {done}.")
    resume = f"the same command resumes it: vlrl train {run.folder / 'config.yaml'}"
    if status and status["ended"]:
        reason = status["ended"].rstrip(".")
        return Health(is_well=False, sentence=f"The run ended after step {done} of {steps}: {reason}; {resume}")
    if status:
        silence = f"has given no sign of life for {duration(quiet_s or 0.0)}, as if it was killed"
        return Health(is_well=False, sentence=f"The run {silence} after step {done} of {steps}; {resume}")
    return Health(is_well=False, sentence=f"The run is stopped after step {done} of {steps}; {resume}")


def _silent(status: Mapping[str, Any]) -> Iterator[str]:
    silent = [rank for rank in status["ranks"] if rank["silent_s"] >= SILENT_S]
    if not silent:
        return
    worst = max(silent, key=lambda rank: rank["silent_s"])
    host = f" on host {worst['host']}" if worst["host"] != "?" else ""
    others = f", and {len(silent) - 1} other ranks too" if len(silent) > 1 else ""
    yield f"Rank {worst['rank']}{host} has been silent for {duration(worst['silent_s'])}{others}."


def _slow(run: RunData | None, status: Mapping[str, Any]) -> Iterator[str]:
    """A part of a step that takes much longer than whole steps do; of the ranks, one that does not wait for another."""
    times = known(run.metrics[-2 * RECENT :], "time/step") if run else []
    usual = median(times) if times else 0.0
    limit = max(_SLOWEST_S, _SLOW * usual)
    late = [rank for rank in status["ranks"] if rank.get("phase", "").startswith("Training") and rank["for_s"] >= limit]
    late = [rank for rank in late if ", " in rank["phase"]]  # else it is between the parts of a step
    if times and late:
        worst = max(late, key=lambda rank: (not rank.get("waits"), rank["for_s"]))
        part = worst["phase"].partition(", ")[2]
        where = f"Rank {worst['rank']} on host {worst['host']}"
        yield f"{where} has been in “{part}” for {duration(worst['for_s'])}; a step usually takes {duration(usual)}."


def _of_metrics(run: RunData) -> Iterator[str]:
    yield from _unscored(run)
    for task in run.tasks:
        yield from _lost_reward(task, [(line["step"], line.get(f"reward/{task}")) for line in run.metrics])
    yield from _alarms(run)


def _unscored(run: RunData) -> Iterator[str]:
    recent = run.metrics[-RECENT:]
    shares = {task: fmean(found) for task in run.tasks if (found := known(recent, f"scoring/failed/{task}"))}
    worst = max(shares, key=shares.__getitem__, default="")
    if not worst or shares[worst] < _UNSCORED:
        return
    reasons: Counter[str] = Counter()
    for group in reversed(run.groups):
        if group[0]["step"] < recent[0]["step"]:
            break
        reasons.update(line["detail"] for line in group if line["task"] == worst and line["status"] != "ok")
    why = f"; most often: {reasons.most_common(1)[0][0][:160].rstrip('.')}" if reasons else ""
    last = f"the last {len(recent)} steps" if len(recent) > 1 else "the last step"
    yield f"The scorer could not judge {shares[worst]:.0%} of the rollouts of {worst} in {last}{why}."


def _lost_reward(task: str, values: Sequence[tuple[int, Any]]) -> Iterator[str]:
    """Compares the last steps' mean with the best mean of as many steps, by the noise between neighbouring steps."""
    found = [(step, value) for step, value in values if isinstance(value, int | float)]
    rewards = [value for _, value in found]
    if len(found) < 2 * RECENT:
        return
    means = [fmean(rewards[end - RECENT : end]) for end in range(RECENT, len(rewards) + 1)]
    best = max(range(len(means)), key=means.__getitem__)
    lost = means[best] - means[-1]
    noise = _SCALE * median(abs(one - other) for one, other in zip(rewards, rewards[1:], strict=False)) / 2**0.5
    if lost > max(_LEAST_LOST, _NOISE * noise * (2 / RECENT) ** 0.5):
        yield f"{task} has lost {lost:.2f} of reward since step {found[best + RECENT - 1][0]}."


def _alarms(run: RunData) -> Iterator[str]:
    watch, last = CollapseWatch(), run.metrics[-1]["step"] if run.metrics else 0
    for line in run.metrics[-_WATCHED:]:
        for alarm in watch.see(line["step"], read_metrics(line, run.tasks)):
            if line["step"] > last - _ALARMED:
                yield f"At step {line['step']} the {alarm.sentence}."


def _progress(run: RunData | None, status: Mapping[str, Any]) -> str:
    parts = []
    if "done" not in status:
        doing = status["ranks"][0]
        parts.append(f"{doing['phase']} for {duration(doing['for_s'])}")
    elif status["phase"] == "Training":
        parts.append(f"Step {status['done']} of {status['total']}")
        if run and (times := known(run.metrics[-2 * RECENT :], "time/step")):
            parts.append(f"{duration(fmean(times))} a step")
    else:
        parts.append(f"{status['phase']}, {status['done']} of {status['total']}")
    if left := status.get("seconds_left"):
        parts.append(f"about {duration(left)} left")
    number = sum(rank["silent_s"] < SILENT_S for rank in status["ranks"])
    ranks = "the rank is working" if len(status["ranks"]) == 1 else f"{number} of {len(status['ranks'])} ranks are working"
    all_of_them = number == len(status["ranks"]) > 1
    return f"{', '.join(parts)}; {f'all {number} ranks are working' if all_of_them else ranks}."


def _steps(run: RunData) -> tuple[int, int]:
    return (run.metrics[-1]["step"] if run.metrics else 0), run.config.steps


def duration(seconds: float) -> str:
    """
    >>> duration(3.14), duration(84.4), duration(200), duration(9000), duration(400000)
    ('3.1 s', '84 s', '3 min', '2.5 h', '4.6 days')
    """
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
