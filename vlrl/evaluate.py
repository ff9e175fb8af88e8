"""Evaluation: average accuracy over k samples (avg@k) per task on held-out rows, with a 95 % interval, by the run's verifiers."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from vlrl.data.shards import Dataset
from vlrl.intervals import estimate
from vlrl.metrics import progress
from vlrl.rollout.engine import Engine, sampling_seed
from vlrl.rollout.groups import check_scored, encode_prompts, sample_groups
from vlrl.run import Run
from vlrl.scoring import Scorer
from vlrl.types import Draw, Group, Prompt, Status

_ROUND = 0x45  # keeps an evaluation's sampling seeds apart from the training steps'


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy:
    """avg@k of a task: mean reward over its rows, the half width of its 95 % interval, rows and unscored rollouts."""

    mean: float
    interval: float
    rows: int
    failed: int


def evaluate(run: Run, engine: Engine, scorer: Scorer, label: str) -> dict[str, Accuracy]:
    """Accuracy of each task that names eval_rows. All ranks call it; each takes a share of the rows and all get the result.

    RuntimeError where more rollouts have no verdict than the run file allows.
    """
    settings = run.config.evaluation
    heldout = {task: Dataset(mix.eval_rows) for task, mix in run.config.mixture.items() if mix.eval_rows}
    prompts = _prompts(run.with_rows(heldout), heldout)
    sampled, owned = run.replica(prompts)
    encoded = encode_prompts(sampled, run.encoder, run.config.engine.max_model_len)
    with progress(f"Evaluating {label}", len(prompts) * settings.samples, shown=run.ranks.is_first) as tick:
        groups = sample_groups(
            sampled,
            encoded,
            engine=engine,
            scorer=scorer,
            temperature=settings.temperature,
            seed=lambda slot, sample: sampling_seed(run.config.seed, _ROUND, slot, sample),
            owned=owned,
            tick=lambda: tick(run.ranks.size),
        )
    check_scored(groups, run.ranks, most=run.config.scoring.max_failed_share, where=f"evaluation {label}")
    gathered = [pair for part in run.ranks.gather([_row_accuracy(group) for group in groups]) for pair in part]
    return {task: _accuracy([pair[1:] for pair in gathered if pair[0] == task]) for task in heldout}


def mean_accuracy(accuracies: Mapping[str, Accuracy]) -> float:
    """The tasks' accuracies, averaged with equal weight."""
    return fmean(accuracy.mean for accuracy in accuracies.values())


def _prompts(run: Run, heldout: dict[str, Dataset]) -> list[Prompt]:
    settings = run.config.evaluation
    places = [(task, index) for task, rows in heldout.items() for index in range(min(settings.rows, len(rows)))]
    draws = [Draw(slot=slot, task=task, index=index, minibatch=0) for slot, (task, index) in enumerate(places)]
    return [run.prompt(draw, settings.samples) for draw in draws]


def _row_accuracy(group: Group) -> tuple[str, float | None, int]:
    """Task, mean reward of the row's scored samples (None without any), and how many have no score."""
    rewards = [score.reward for score in group.scores if score.status is Status.OK]
    return group.prompt.task, fmean(rewards) if rewards else None, group.prompt.group_size - len(rewards)


def _accuracy(rows: list[tuple[float | None, int]]) -> Accuracy:
    means = [mean for mean, _ in rows if mean is not None]
    found = estimate(means)
    return Accuracy(
        mean=found.mean,
        interval=found.interval,
        rows=found.rows,
        failed=sum(failed for _, failed in rows),
    )
