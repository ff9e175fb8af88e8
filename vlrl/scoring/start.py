"""Starts the pool that scores a run's rollouts, with the run file's settings."""

from vlrl.config import Config
from vlrl.scoring import Scorer


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
    )
