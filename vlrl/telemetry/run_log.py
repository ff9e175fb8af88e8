"""What a run leaves: metrics, rollouts, histograms and tokens as .jsonl, summary.json, and copies of them in trackers.

The files are the record: each line is strict JSON (a number that is not finite becomes text such as "nan", which float()
reads back) and carries its step, so that a resumed run can cut back what came after its checkpoint. Only rank 0 makes a log.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlrl.common.jsonl import append_jsonl, read_jsonl, strict, write_atomically
from vlrl.telemetry.metrics import Key, Metrics, name_of
from vlrl.telemetry.tracker import Tracker
from vlrl.types import Group

_FILES = ("metrics.jsonl", "rollouts.jsonl", "histograms.jsonl", "tokens.jsonl")


class RunLog:
    """The log of one run in `folder`, which is made if missing; lines are added to those already there.

    Every method that writes raises OSError with a sentence if the folder cannot be written, as on a full disk.
    """

    def __init__(self, folder: Path, trackers: Sequence[Tracker] = ()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._trackers = trackers

    def step(self, step: int, metrics: Metrics) -> None:
        """Records one step's metrics: `step(12, {Key("reward", task="geometry3k"): 0.43, Key("time/generate"): 2.1})`."""
        named = {name_of(key): value for key, value in metrics.items()}
        append_jsonl(self.folder / "metrics.jsonl", [{"step": step, **named}])
        for tracker in self._trackers:
            tracker.step(step, named)

    def rollouts(self, step: int, groups: Sequence[Group]) -> None:
        """Records every rollout of a step, one line each; images stay references."""
        lines = [line for group in groups for line in _rollout_lines(step, group)]
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
        """Cuts the line files back to the lines of steps up to `step`; torn lines go too. For a run resumed after `step`."""
        for path in (self.folder / name for name in _FILES):
            if path.exists():
                with path.open(encoding="utf-8", errors="replace") as lines:
                    write_atomically(path, (line for line in lines if _step_of(line) <= step))

    def set_aside(self, step: int, folder: Path) -> None:
        """Copies the lines of the steps after `step` into a new folder, whole or not at all, unless it exists."""
        if folder.exists():
            return
        fresh = folder.with_name(f"{folder.name}.new")
        fresh.mkdir(parents=True, exist_ok=True)
        for path in (self.folder / name for name in _FILES):
            if path.exists():
                with path.open(encoding="utf-8", errors="replace") as lines:
                    write_atomically(fresh / path.name, (line for line in lines if step < _step_of(line) < math.inf))
        fresh.rename(folder)

    def begin_another_copy(self) -> None:
        """Makes every tracker begin another copy, for a run that went back: the steps of a copy only go up."""
        for tracker in self._trackers:
            tracker.restart()

    def close(self) -> None:
        """Ends the trackers' copies; the files need no end."""
        for tracker in self._trackers:
            tracker.close()


def _rollout_lines(step: int, group: Group) -> Iterator[dict[str, Any]]:
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
            "response": rollout.text,
            "finish_reason": rollout.finish_reason,
            "num_tokens": len(rollout.tokens),
            "reward": sample.reward,
            "verifier_reward": score.reward,
            "parts": score.parts,
            "status": score.status,
            "detail": score.detail,
            "advantage": sample.advantage,
        }


def _step_of(line: str) -> float:
    """The step that a line belongs to, infinite for a torn line."""
    try:
        return json.loads(line)["step"] if line.endswith("\n") else math.inf
    except (ValueError, TypeError):
        return math.inf
