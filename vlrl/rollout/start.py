"""Starts what samples and scores for a run: its engine and its scorer, as the run file asks for them."""

from vlrl.config import Config
from vlrl.rollout.engine import Engine
from vlrl.run import Run
from vlrl.scoring import Scorer


def start_engine(run: Run, model: str) -> Engine:
    """The engine with the weights of `model`, a Hugging Face folder or a name on the hub."""
    config = run.config
    return Engine(
        config.engine,
        model,
        dtype=config.policy.dtype,
        seed=config.seed,
        decode=run.encoder.decode,
        end_token=run.encoder.end_token,
        banned=run.banned,
        merge_size=run.encoder.merge_size,
        ranks=run.ranks,
        tells_routes=config.algorithm.routing_replay == "r3",
    )


def start_scorer(config: Config) -> Scorer:
    """A pool that loads the run's tasks; a context manager."""
    settings = config.scoring
    return Scorer(
        config.task_folders,
        settings.workers,
        settings.timeout_s,
        settings.memory_mb,
        timeouts_s={task: mix.scoring.timeout_s for task, mix in config.mixture.items() if mix.scoring.timeout_s},
        at_a_time={task: mix.scoring.workers for task, mix in config.mixture.items() if mix.scoring.workers},
    )
