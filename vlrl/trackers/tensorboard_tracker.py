"""Keeps a copy of a run's log for TensorBoard, in the run's folder: `tensorboard --logdir runs`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlrl.trackers.rollout_table import COLUMNS, Line, accuracy_rows, cells, drawn_picture, markdown


class TensorboardTracker:
    """config: the resolved run file."""

    def __init__(self, folder: Path, *, config: Mapping[str, Any]) -> None:
        import tensorboard  # noqa: F401 (fails at the start of the run, not at its first step)

        self._folder, self._config = folder / "tensorboard", config
        self._opened: Any = None

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        writer = self._writer(step)
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    def rollouts(self, step: int, lines: Sequence[Line]) -> None:
        import numpy as np

        writer = self._writer(step)
        for task in dict.fromkeys(line["task"] for line in lines):
            shown = [line for line in lines if line["task"] == task]
            writer.add_text(f"rollouts/{task}", markdown(COLUMNS, [cells(line) for line in shown]), step)
            if picture := drawn_picture(shown[0]):
                writer.add_image(f"rollouts/{task}", np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    def summary(self, values: Mapping[str, Any]) -> None:
        self._writer().add_text("held-out accuracy", markdown(*accuracy_rows(values)))

    def close(self) -> None:
        if self._opened:
            self._opened.close()

    def _writer(self, step: int | None = None) -> Any:
        """Opened at the first step, so that steps which a run repeats after a resume or a rollback are not shown twice."""
        if not self._opened:
            from torch.utils.tensorboard import SummaryWriter

            self._opened = SummaryWriter(str(self._folder), purge_step=step)
            self._opened.add_text("config", f"```json\n{json.dumps(self._config, indent=1)}\n```")
        return self._opened
