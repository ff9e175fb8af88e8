"""Reads a run's folder for its report. A run that is still training is read up to its last complete step."""

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlrl.common.jsonl import GrowingLines, read_jsonl
from vlrl.common.suggest import nearest_folder
from vlrl.config import Config
from vlrl.run_file import load_config
from vlrl.stats import Estimate, estimate
from vlrl.telemetry.run_log import step_of
from vlrl.trainer.rollback import LEFT_BEHIND, Rollback, read_record

MOST_ROLLOUTS = 10_000  # in the browser, without those of the newest step; a longer run shows evenly spaced steps
_SETTINGS = "config.yaml"

Line = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Steps:
    """A run's metrics and histograms, one line per step, and its summary, which is empty until the run has ended."""

    metrics: list[Line]
    histograms: list[Line]
    summary: Line


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftBehind(Steps):
    """The steps that a rollback abandoned: those after the step that the run went back to."""

    rollback: Rollback


@dataclass(frozen=True, kw_only=True, slots=True)
class RunData(Steps):
    """A run's settings and logs.

    rewards: the mean reward by task and step, with its interval over the means of the groups; groups: the rollouts of each
    prompt, and traces the responses that were logged token by token, both for the steps that the browser shows; left_behind: the
    abandoned steps of each rollback.
    """

    name: str
    folder: Path
    config: Config
    rewards: dict[str, dict[int, Estimate]]
    groups: list[list[Line]]
    traces: dict[tuple[int, int, int], Line]
    num_rollouts: int
    left_behind: list[LeftBehind]

    @property
    def tasks(self) -> list[str]:
        return list(self.config.mixture)


def read_steps(folder: Path) -> Steps:
    """Reads a run's steps; there are none if the run has not started."""
    return Steps(**_logged(folder))


def check_is_run(folder: Path) -> None:
    """Raises ValueError if the folder is not a run's."""
    if not (folder / _SETTINGS).exists():
        near = nearest_folder(folder, with_file=_SETTINGS)
        fault = "is not a run's folder: it has no config.yaml" if folder.is_dir() else "does not exist"
        raise ValueError(f"{folder} {fault}; {near}A run's folder is RUNS/NAME, with `runs` and `name` of its run file")


def read_run(folder: Path) -> RunData:
    """Reads a run. Raises ValueError if the folder is not a run's."""
    return RunReader(folder).read()


class RunReader:
    """Reads a run's folder, and at each later call only what was added to its files. Each line is parsed once.

    Of a long run only the rollouts of every n-th step are kept, and those of the newest: n doubles when they are too many.
    life: rises when groups that were returned are gone, since the run went back or n doubled.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.life = 0
        self._files = {name: GrowingLines(folder / f"{name}.jsonl") for name in ("metrics", "histograms", "rollouts", "tokens")}
        self._config: tuple[int, Config] | None = None
        self._forget()

    @property
    def num_lasting(self) -> int:
        """How many of the first groups remain when the next step is read."""
        tail = 0
        while self._newest % self._every and tail < len(self._groups) and self._groups[-1 - tail][0]["step"] == self._newest:
            tail += 1
        return len(self._groups) - tail

    def read(self) -> RunData:
        """The run as it is now. Raises ValueError if the folder is not a run's."""
        check_is_run(self.folder)
        if any(file.was_cut() for file in self._files.values()):
            self._files = {name: GrowingLines(file.path) for name, file in self._files.items()}
            self.life += 1
            self._forget()
        config = self._read_config()
        self._metrics += self._files["metrics"].lines()
        self._histograms += self._files["histograms"].lines()
        for line in self._files["rollouts"].lines():
            self._add(line)
        traces = self._files["tokens"].lines(lambda line: self._is_shown(step_of(line)))
        self._traces |= {(line["step"], line["slot"], line["sample"]): line for line in traces}
        for task, step in self._scored:
            self._rewards[task][step] = estimate([total / count for total, count in self._sums[task, step].values()])
        self._scored.clear()
        return RunData(
            name=config.name,
            folder=self.folder,
            config=config,
            metrics=self._metrics,
            histograms=self._histograms,
            rewards=dict(self._rewards),
            groups=self._groups,
            traces=self._traces,
            summary=_summary(self.folder),
            num_rollouts=self._num_rollouts,
            left_behind=self._read_left_behind(),
        )

    def _forget(self) -> None:
        self._metrics: list[Line] = []
        self._histograms: list[Line] = []
        self._groups: list[list[Line]] = []
        self._traces: dict[tuple[int, int, int], Line] = {}
        self._sums: dict[tuple[str, int], dict[tuple[int, int], tuple[float, int]]] = defaultdict(dict)
        """By task and step, of each group with a score: the sum and the number of its rewards."""
        self._scored: set[tuple[str, int]] = set()
        """The tasks and steps with a score that `_rewards` lacks."""
        self._rewards: dict[str, dict[int, Estimate]] = defaultdict(dict)
        self._left_behind: list[LeftBehind] = []
        self._num_rollouts = self._newest = 0
        self._every = 1

    def _add(self, line: Line) -> None:
        if line["step"] > self._newest:
            self._begin(line["step"])
        place = line["slot"], line["round"]
        last = self._groups[-1][0] if self._groups else {}
        if (last.get("step"), last.get("slot"), last.get("round")) == (line["step"], *place):
            self._groups[-1].append(line)
        else:
            self._groups.append([line])
        self._num_rollouts += 1
        if line["status"] == "ok":
            self._scored.add((line["task"], line["step"]))
            sums = self._sums[line["task"], line["step"]]
            total, count = sums.get(place, (0.0, 0))
            sums[place] = total + line["reward"], count + 1

    def _begin(self, step: int) -> None:
        """Leaves out the steps that are no longer shown once this one is the newest."""
        before, self._newest = self._newest, step
        if before % self._every:
            self._leave_out()
        if sum(map(len, self._groups)) > MOST_ROLLOUTS:
            self._every *= 2
            self.life += 1
            self._leave_out()

    def _leave_out(self) -> None:
        self._groups = [group for group in self._groups if self._is_shown(group[0]["step"])]
        self._traces = {place: line for place, line in self._traces.items() if self._is_shown(place[0])}

    def _is_shown(self, step: int) -> bool:
        return step % self._every == 0 or step >= self._newest

    def _read_config(self) -> Config:
        path = self.folder / _SETTINGS
        changed = path.stat().st_mtime_ns
        if self._config is None or self._config[0] != changed:
            self._config = changed, load_config(path)
        return self._config[1]

    def _read_left_behind(self) -> list[LeftBehind]:
        record = read_record(self.folder)
        if len(record) != len(self._left_behind):
            self._left_behind = [
                LeftBehind(rollback=each, **_logged(self.folder / LEFT_BEHIND / str(each.number))) for each in record
            ]
        return self._left_behind


def _logged(folder: Path) -> dict[str, Any]:
    """The fields of Steps."""
    lines = {name: list(read_jsonl(folder / f"{name}.jsonl")) for name in ("metrics", "histograms")}
    return {**lines, "summary": _summary(folder)}


def _summary(folder: Path) -> Line:
    path = folder / "summary.json"
    return json.loads(path.read_text()) if path.exists() else {}
