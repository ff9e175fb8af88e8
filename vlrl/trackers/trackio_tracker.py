"""Keeps a copy of a run's log in trackio, beside all runs: `TRACKIO_DIR=runs/trackio trackio show`."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlrl.common.tracker_settings import TrackioConfig
from vlrl.trackers.rollout_table import COLUMNS, Line, accuracy_rows, cells, drawn_picture


class TrackioTracker:
    """runs: the folder of all runs. config: the resolved run file."""

    def __init__(self, settings: TrackioConfig, runs: Path, *, name: str, config: Mapping[str, Any]) -> None:
        os.environ.setdefault("TRACKIO_DIR", str(runs.absolute() / "trackio"))  # read when it is imported
        import trackio

        self._trackio: Any = trackio
        place: dict[str, Any] = {"project": settings.project, "space_id": settings.space_id}
        # It would print where it is, and log what this machine does, which the run's own metrics have.
        self._run = trackio.init(**place, name=name, config=dict(config), embed=False, auto_log_gpu=False, auto_log_cpu=False)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def rollouts(self, step: int, lines: Sequence[Line]) -> None:
        rows = []
        for line in lines:
            picture = drawn_picture(line)
            rows.append([*cells(line), self._trackio.Image(picture) if picture else None])
        self._run.log({"rollouts": self._table([*COLUMNS, "picture"], rows)}, step=step)

    def summary(self, values: Mapping[str, Any]) -> None:
        columns, rows = accuracy_rows(values)
        if rows:
            self._run.log({"held-out accuracy": self._table(columns, rows)})

    def close(self) -> None:
        self._run.finish()

    def _table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Any:
        import pandas as pd

        return self._trackio.Table(dataframe=pd.DataFrame(rows, columns=list(columns)))
