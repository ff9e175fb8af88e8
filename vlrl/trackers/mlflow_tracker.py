"""Keeps a copy of a run's log in MLflow: a server of yours, or `mlflow ui --backend-store-uri sqlite:///runs/mlflow.db`."""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlrl.common.tracker_settings import MlflowConfig
from vlrl.trackers.rollout_table import COLUMNS, Line, cells, drawn_picture, markdown

_MOST_PARAMETERS = 100  # in a call, a limit of MLflow's, which cuts values at 6,000 characters too


class MlflowTracker:
    """runs: the folder of all runs. config: the resolved run file."""

    def __init__(self, settings: MlflowConfig, runs: Path, *, name: str, config: Mapping[str, Any]) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient
        from mlflow.entities import Param

        runs.mkdir(parents=True, exist_ok=True)
        own = f"sqlite:///{runs.absolute() / 'mlflow.db'}"
        uri = settings.uri or os.environ.get("MLFLOW_TRACKING_URI") or own
        self._client: Any = MlflowClient(tracking_uri=uri)
        known = self._client.get_experiment_by_name(settings.experiment)
        files: dict[str, Any] = {"artifact_location": (runs.absolute() / "mlflow").as_uri()} if uri == own else {}
        experiment = known.experiment_id if known else self._client.create_experiment(settings.experiment, **files)
        self._id = self._client.create_run(experiment, run_name=name).info.run_id
        parameters = [Param(key, str(value)[:6000]) for key, value in _flat(config)]
        for first in range(0, len(parameters), _MOST_PARAMETERS):
            self._client.log_batch(self._id, params=parameters[first : first + _MOST_PARAMETERS])

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._id, metrics=[Metric(key, value, now, step) for key, value in metrics.items()])

    def rollouts(self, step: int, lines: Sequence[Line]) -> None:
        self._client.log_text(self._id, markdown(COLUMNS, [cells(line) for line in lines]), f"rollouts/step-{step:06}.md")
        first = {line["task"]: line for line in reversed(lines)}
        for task, line in first.items():
            if picture := drawn_picture(line):
                self._client.log_image(self._id, picture, f"rollouts/step-{step:06}-{task}.png")

    def summary(self, values: Mapping[str, Any]) -> None:
        self._client.log_dict(self._id, dict(values), "summary.json")

    def close(self) -> None:
        self._client.set_terminated(self._id)


def _flat(config: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    """Settings by their dotted names."""
    found: list[tuple[str, Any]] = []
    for key, value in config.items():
        found += _flat(value, f"{before}{key}.") if isinstance(value, Mapping) and value else [(f"{before}{key}", value)]
    return found
