"""What a run leaves: metrics, rollouts, histograms and tokens as .jsonl, summary.json, and copies of them in trackers.

The files are the record: each line is strict JSON (a number that is not finite becomes text such as "nan", which float()
reads back) and carries its step, so that a resumed run can cut back what came after its checkpoint. Only rank 0 makes a log.
"""

import json
import math
import mmap
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from vlrl.common.jsonl import append_jsonl, read_jsonl, strict, sync, write_atomically
from vlrl.telemetry.metrics import Key, Metrics, name_of
from vlrl.trackers.background import Background
from vlrl.types import Group

_FILES = ("metrics.jsonl", "rollouts.jsonl", "histograms.jsonl", "tokens.jsonl")


class RunLog:
    """The log of one run in `folder`, which is made if missing; lines are added to those already there.

    Every method that writes raises OSError with a sentence if the folder cannot be written, as on a full disk.
    """

    def __init__(self, folder: Path, trackers: Sequence[Background] = ()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._trackers = trackers

    def step(self, step: int, metrics: Metrics) -> None:
        """Records one step's metrics: `step(12, {Key("reward", task="geometry3k"): 0.43, Key("time/generate"): 2.1})`."""
        named = {name_of(key): value for key, value in metrics.items()}
        append_jsonl(self.folder / "metrics.jsonl", [{"step": step, **named}])
        for tracker in self._trackers:
            tracker.step(step, named)

    def rollouts(self, step: int, lines: Sequence[Mapping[str, Any]]) -> None:
        """Records every rollout of a step; see `rollout_lines`."""
        append_jsonl(self.folder / "rollouts.jsonl", lines)
        for tracker in self._trackers:
            tracker.rollouts(step, lines)

    def histograms(self, step: int, counts: Mapping[Key, Sequence[int]]) -> None:
        """Records a step's histograms: counts by bin, see vlrl.algorithm.diagnostics for the edges."""
        append_jsonl(self.folder / "histograms.jsonl", [{"step": step, **{name_of(key): bins for key, bins in counts.items()}}])

    def tokens(self, step: int, traces: Sequence[Mapping[str, Any]]) -> None:
        """Records what became of the tokens of a few of a step's responses, one line each."""
        append_jsonl(self.folder / "tokens.jsonl", [{"step": step, **trace} for trace in traces])

    def summary(self, values: Mapping[str, Any]) -> None:
        """Writes summary.json anew, whole or not at all."""
        write_atomically(self.folder / "summary.json", [json.dumps(strict(values), allow_nan=False, indent=2) + "\n"])
        for tracker in self._trackers:
            tracker.summary(values)

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of the steps that are logged so far, in order; see vlrl.telemetry.metrics.read_metrics."""
        return list(read_jsonl(self.folder / "metrics.jsonl"))

    def truncate(self, step: int) -> None:
        """Cuts the line files back to the lines of steps up to `step`; torn lines go too. For a run resumed after `step`.

        Only what is cut is read. A run killed meanwhile leaves each file as it was or cut, and cuts again when it resumes.
        """
        for path in (self.folder / name for name in _FILES):
            if path.exists():
                os.truncate(path, _end_of(path, step))
                sync(path)

    def set_aside(self, step: int, folder: Path) -> None:
        """Copies the lines of the steps after `step` into a new folder, whole or not at all, unless it exists."""
        if folder.exists():
            return
        fresh = folder.with_name(f"{folder.name}.new")
        fresh.mkdir(parents=True, exist_ok=True)
        for path in (self.folder / name for name in _FILES):
            if path.exists():
                with path.open("rb") as file, (fresh / path.name).open("wb") as copy:
                    file.seek(_end_of(path, step))
                    shutil.copyfileobj(file, copy)
                os.truncate(fresh / path.name, _end_of(fresh / path.name, math.inf))
                sync(fresh / path.name)
        fresh.rename(folder)
        sync(folder.parent)

    def begin_another_copy(self) -> None:
        """Makes every tracker begin another copy, for a run that went back: the steps of a copy only go up."""
        for tracker in self._trackers:
            tracker.restart()

    def close(self) -> None:
        """Ends the trackers' copies; the files need no end."""
        for tracker in self._trackers:
            tracker.close()


def rollout_lines(step: int, group: Group) -> Iterator[dict[str, Any]]:
    """A line of rollouts.jsonl for each of the group's samples; images stay references."""
    prompt = group.prompt
    for sample in group.samples:
        rollout, score = sample.rollout, sample.score
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
            **({"seen": prompt.row.seen} if prompt.row.seen else {}),
            "response": rollout.text,
            "finish_reason": rollout.finish_reason,
            "num_tokens": len(rollout.tokens),
            "weight_versions": [(version, len(list(each))) for version, each in groupby(rollout.weight_versions)],
            "reward": sample.reward,
            "verifier_reward": score.reward,
            "parts": score.parts,
            "status": score.status,
            "detail": score.detail,
            "advantage": sample.advantage,
        }


def step_of(line: str) -> int:
    """The step that a line of a log belongs to, from its beginning alone.

    >>> step_of('{"step": 12, "reward/mean": 0.25}')
    12
    """
    return int(line[len('{"step": ') : 32].partition(",")[0].rstrip("}\n"))


def _end_of(path: Path, step: float) -> int:
    """Where the last complete line of a step up to `step` ends; 0 if there is none. Reads from the end of the file."""
    end = path.stat().st_size
    if not end:
        return 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        while end:
            start = content.rfind(b"\n", 0, end - 1) + 1
            if _step_of_complete(content[start:end]) <= step:
                break
            end = start
    return end


def _step_of_complete(line: bytes) -> float:
    """The step that a line belongs to, infinite for one that was not written to its end."""
    try:
        return json.loads(line)["step"] if line.endswith(b"\n") else math.inf
    except (ValueError, TypeError):
        return math.inf
