"""Keeps a copy of a run's log in wandb: its metrics, tables of rollouts with their pictures, and the evaluation.

wandb is foreign code and never the record: whatever it raises, the copy ends with one warning and the run continues without it.
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlrl.config import WandbConfig
from vlrl.data.images import open_image
from vlrl.tasks import parts_of

logger = logging.getLogger(__name__)

_SIDE = 320  # pixels of a picture
_COLUMNS = ("step", "task", "prompt", "picture", "answer", "response", "reward", "advantage", "tokens", "status")


class WandbTracker:
    """config: the resolved run file. If wandb is disabled or has failed, every method does nothing."""

    def __init__(self, settings: WandbConfig, folder: Path, *, name: str, config: Mapping[str, Any]) -> None:
        self._settings, self._folder, self._name, self._config = settings, folder, name, dict(config)
        self._wandb: Any = None
        self._run: Any = None
        self._open()

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._run:
            self._guarded(lambda: self._run.log(dict(metrics), step=step))

    def rollouts(self, step: int, lines: Sequence[Mapping[str, Any]]) -> None:
        """Every tables_every steps, a table of one group of each task, with a gradient if the task has one."""
        every = self._settings.tables_every
        if self._run and every and step % every == 0:
            self._guarded(lambda: self._run.log({"rollouts": self._table(lines)}, step=step))

    def summary(self, values: Mapping[str, Any]) -> None:
        if self._run:
            self._guarded(lambda: self._finish_with(values))

    def restart(self) -> None:
        """A failed wandb gets another chance."""
        self.close()
        self._open()

    def close(self) -> None:
        if self._run:
            self._guarded(lambda: self._run.finish())
        self._run = None

    def _open(self) -> None:
        if self._settings.mode != "disabled":
            self._guarded(self._start)

    def _start(self) -> None:
        # Read when wandb is imported: without these it keeps a log and what it has yet to send under the home folder, looks up
        # its server even offline, and talks of other products.
        os.environ.setdefault("WANDB_CACHE_DIR", str(self._folder.absolute() / "wandb" / "cache"))
        os.environ.setdefault("WANDB_DATA_DIR", str(self._folder.absolute() / "wandb" / "data"))
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb  # takes half a second, which a disabled wandb does not cost

        self._wandb = wandb
        self._folder.mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True)
        place: dict[str, Any] = {"project": self._settings.project, "dir": str(self._folder), "mode": self._settings.mode}
        self._run = wandb.init(**place, name=self._name, config=self._config, settings=settings)
        if self._run.url:
            print(f"wandb: {self._run.url}", flush=True)

    def _table(self, lines: Sequence[Mapping[str, Any]]) -> Any:
        chosen: dict[str, tuple[int, int]] = {}
        for line in sorted(lines, key=lambda line: not line["advantage"]):
            chosen.setdefault(line["task"], (line["slot"], line["round"]))
        shown = [line for line in lines if chosen[line["task"]] == (line["slot"], line["round"])]
        return self._wandb.Table(columns=list(_COLUMNS), data=[self._row(line) for line in shown])

    def _row(self, line: Mapping[str, Any]) -> list[Any]:
        parts = [part for message in line["messages"] for part in parts_of(message)]
        prompt = "\n".join(part["text"] for part in parts if part["type"] == "text")
        # A list of pictures would be kept as the word "Image": a cell holds one, a prompt's first.
        refs = [part["image"] for part in parts if part["type"] == "image"]
        picture = self._picture(refs[0], line["boxes"]) if refs else None
        rest = (line[name] for name in ("answer", "response", "reward", "advantage", "num_tokens", "status"))
        return [line["step"], line["task"], prompt, picture, *rest]

    def _picture(self, ref: str, boxes: Mapping[str, Any]) -> Any:
        """The picture with the boxes that its row has."""
        picture = open_image(ref, max_side=1 << 14)
        corners = boxes.get("boxes") or [boxes[name] for name in ("box",) if name in boxes]
        sides = ("minX", "minY", "maxX", "maxY")
        extent = (boxes.get("width", 1), boxes.get("height", 1)) * 2
        drawn = [
            {"position": {side: x / whole for side, x, whole in zip(sides, box, extent, strict=True)}, "class_id": 0}
            for box in corners
        ]
        picture.thumbnail((_SIDE, _SIDE))
        return self._wandb.Image(picture, boxes={"answer": {"box_data": drawn, "class_labels": {0: "answer"}}} if drawn else None)

    def _finish_with(self, values: Mapping[str, Any]) -> None:
        names = ("before", "before_interval", "after", "after_interval", "rows")
        data = [[task, *(of_task[name] for name in names)] for task, of_task in values.get("tasks", {}).items()]
        if data:
            self._run.log({"held-out accuracy": self._wandb.Table(columns=["task", *names], data=data)})
        self._run.summary.update(dict(values))

    def _guarded(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except Exception as error:  # foreign code, which fails in its own ways: no network, no key, a dead service process
            self._run = None
            logger.warning("wandb failed and is off for the rest of the run (%s: %s)", type(error).__name__, error)
