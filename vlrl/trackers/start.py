"""Starts the trackers that a run file names."""

from collections.abc import Callable
from functools import partial
from typing import Any

from vlrl.common.tracker_settings import TrackerConfig
from vlrl.config import Config
from vlrl.trackers.background import Background
from vlrl.trackers.mlflow_tracker import MlflowTracker
from vlrl.trackers.tensorboard_tracker import TensorboardTracker
from vlrl.trackers.tracker import Tracker
from vlrl.trackers.trackio_tracker import TrackioTracker
from vlrl.trackers.wandb_tracker import WandbTracker


def open_trackers(config: Config) -> list[Background]:
    """Each in a thread of its own. A library is imported only if its tracker is on."""
    about: dict[str, Any] = {"name": config.name, "config": config.model_dump(mode="json")}
    started: dict[str, tuple[TrackerConfig, Callable[[], Tracker]]] = {}
    if config.wandb.mode != "disabled":
        started["wandb"] = config.wandb, partial(WandbTracker, config.wandb, config.folder, **about)
    if config.tensorboard:
        started["tensorboard"] = config.tensorboard, partial(TensorboardTracker, config.folder, config=about["config"])
    if config.trackio:
        started["trackio"] = config.trackio, partial(TrackioTracker, config.trackio, config.runs, **about)
    if config.mlflow:
        started["mlflow"] = config.mlflow, partial(MlflowTracker, config.mlflow, config.runs, **about)
    return [Background(name, start, tables_every=settings.tables_every) for name, (settings, start) in started.items()]
