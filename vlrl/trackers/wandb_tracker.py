"""Keeps a copy of a run's log in wandb: its metrics, tables of rollouts with their pictures, and the evaluation."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlrl.common.tracker_settings import WandbConfig
from vlrl.trackers.rollout_table import COLUMNS, Line, accuracy_rows, boxes_of, cells, picture_of


class WandbTracker:
    """config: the resolved run file."""

    def __init__(self, settings: WandbConfig, folder: Path, *, name: str, config: Mapping[str, Any]) -> None:
        # Read when wandb is imported: without these it keeps a log and what it has yet to send under the home folder, looks up
        # its server even offline, and talks of other products.
        os.environ.setdefault("WANDB_CACHE_DIR", str(folder.absolute() / "wandb" / "cache"))
        os.environ.setdefault("WANDB_DATA_DIR", str(folder.absolute() / "wandb" / "data"))
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        self._wandb: Any = wandb
        folder.mkdir(parents=True, exist_ok=True)
        quiet = wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True)
        place: dict[str, Any] = {"project": settings.project, "dir": str(folder), "mode": settings.mode}
        self._run: Any = wandb.init(**place, name=name, config=dict(config), settings=quiet)
        if self._run.url:
            print(f"wandb: {self._run.url}", flush=True)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def rollouts(self, step: int, lines: Sequence[Line]) -> None:
        # A list of pictures would be kept as the word "Image": a cell holds one, a prompt's first.
        rows = [[*cells(line), self._picture(line)] for line in lines]
        self._run.log({"rollouts": self._wandb.Table(columns=[*COLUMNS, "picture"], data=rows)}, step=step)

    def summary(self, values: Mapping[str, Any]) -> None:
        columns, rows = accuracy_rows(values)
        if rows:
            self._run.log({"held-out accuracy": self._wandb.Table(columns=columns, data=rows)})
        self._run.summary.update(dict(values))

    def close(self) -> None:
        self._run.finish()

    def _picture(self, line: Line) -> Any:
        picture = picture_of(line)
        if picture is None:
            return None
        sides = ("minX", "minY", "maxX", "maxY")
        drawn = [{"position": dict(zip(sides, box, strict=True)), "class_id": 0} for box in boxes_of(line)]
        return self._wandb.Image(picture, boxes={"answer": {"box_data": drawn, "class_labels": {0: "answer"}}} if drawn else None)
