"""Starts the pool that scores a run's rollouts, with the run file's settings."""

import os
from collections.abc import Mapping
from pathlib import Path

from vlrl.config import Config, ScoringConfig
from vlrl.scoring import Scorer
from vlrl.scoring.record import Record
from vlrl.scoring.service import Backend, Service


def start_scorer(config: Config) -> Scorer:
    """A pool for the run's tasks; a context manager."""
    settings = config.scoring
    return Scorer(
        config.task_folders,
        settings.workers,
        settings.timeout_s,
        settings.memory_mb,
        timeouts_s={task: mix.scoring.timeout_s for task, mix in config.mixture.items() if mix.scoring.timeout_s},
        isolation=settings.isolation,
        at_a_time={task: mix.scoring.workers for task, mix in config.mixture.items() if mix.scoring.workers},
        services=open_services(settings, config.folder / "services"),
    )


def open_services(settings: ScoringConfig, folder: Path | None) -> dict[str, Service]:
    """The services of the run file by name. folder: for their replies, if the settings give none; None keeps them in memory.

    Raises ValueError if the environment lacks a service's key.
    """
    rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    services = {}
    for name, backend in open_backends(settings).items():
        service = settings.services[name]
        budgets = {each: getattr(service, f"max_{each}", None) for each in ("requests", "tokens")}
        record = Record(settings.replies or folder, name, budgets, rank=rank, ranks=ranks)
        longest_s = service.timeout_s + getattr(service, "start_s", 0.0)
        services[name] = Service(backend, record, concurrency=service.concurrency, longest_s=longest_s)
    return services


def open_backends(settings: ScoringConfig) -> Mapping[str, Backend]:
    if not settings.services:
        return {}
    from vlrl.scoring.grader import Grader  # which imports an HTTP client, as the next one does
    from vlrl.scoring.judge import Judge
    from vlrl.scoring.reward_model import RewardModel

    return {
        **{name: Judge(each, f"scoring.judges.{name}") for name, each in settings.judges.items()},
        **{name: Grader(each, f"scoring.graders.{name}") for name, each in settings.graders.items()},
        **{name: RewardModel(each, f"scoring.reward_models.{name}") for name, each in settings.reward_models.items()},
    }
