"""Tests a run's verifiers before the run starts, on their EXAMPLES, on odd responses, and on the own answers of a few rows.

The scoring pool of training scores all of them, so a verifier that hangs or crashes only takes its deadline. A verifier that
rejects most of its rows' own answers probably gets another task's rows, so that every reward would be 0.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from vlrl.config import Config
from vlrl.data.shards import Dataset
from vlrl.inputs import attempt_each, spread
from vlrl.rollout.reward import unknown_parts
from vlrl.scoring.start import open_backends, start_scorer
from vlrl.tasks import Task, example_faults, gold
from vlrl.types import Rollout, Row, Score, Status

logger = logging.getLogger(__name__)

ODD_RESPONSES = ("", " \n\t", "yes", "the answer is", "\\boxed{}", "\\boxed{", "{", "[[", "\x00", "½ ٣ \u202e", "7" * 5000)
NUM_OWN_ANSWERS = 8  # from each data set
_ACCEPTED_REWARD = 0.9  # as in vlrl.data.build


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """A response to score. task: its name in the mixture; dataset: the row's data set, None for one of EXAMPLES."""

    task: str
    response: str
    row: Row
    dataset: Dataset | None = None
    is_odd: bool = False


def verifier_faults(config: Config, tasks: Mapping[str, Task], datasets: Mapping[str, Sequence[Dataset]]) -> Iterator[str]:
    """One sentence for each fault of a verifier, or of a verifier with its rows. Only warns if it rejects half of the answers or
    less.

    datasets: by task name in the mixture, the data sets whose rows the task will score.
    """
    checks = [check for name, task in tasks.items() for check in _checks(name, task, datasets.get(name, ()))]
    scored = list(zip(checks, _scores(config, tasks, checks), strict=True))
    for name, task in tasks.items():
        mine = [(check, score) for check, score in scored if check.task == name]
        examples = [score for check, score in mine if check.dataset is None]
        odd = [(check, score) for check, score in mine if check.is_odd]
        if faults := example_faults(task, examples):
            yield from faults
            continue
        yield from _reward_faults(config, name, task, examples)
        if faults := [fault for check, score in odd if (fault := _odd_fault(task, check, score))]:
            yield faults[0] + _ask_for_other_task(datasets[name][0], mine)
            continue
        for dataset in datasets.get(name, ()):
            own = [(check, score) for check, score in mine if check.dataset is dataset and not check.is_odd]
            yield from _own_answer_faults(task, dataset, own)


def service_faults(config: Config) -> list[str]:
    """One sentence for each service that verifiers may ask and that cannot be used now."""
    backends, faults = attempt_each({"": partial(open_backends, config.scoring)})
    checks = {name: each.check for opened in backends.values() for name, each in opened.items()}
    return faults + attempt_each(checks)[1]


def _checks(name: str, task: Task, datasets: Sequence[Dataset]) -> Iterator[Check]:
    for response, row, _ in task.examples:
        yield Check(task=name, response=response, row=row)
    for number, dataset in enumerate(datasets):
        rows = _sampled(dataset)
        if not number:
            yield from (
                Check(task=name, response=odd, row=row, dataset=dataset, is_odd=True) for odd in ODD_RESPONSES for row in rows[:1]
            )
        yield from (Check(task=name, response=gold(row), row=row, dataset=dataset) for row in rows if row.response or row.answer)


def _sampled(dataset: Dataset) -> list[Row]:
    """The rows whose own answers are checked. Skips unreadable rows, which quick_checks reports."""
    rows = []
    for number in spread(len(dataset), NUM_OWN_ANSWERS):
        with suppress(ValueError, TypeError):
            rows.append(dataset[number])
    return rows


def _scores(config: Config, tasks: Mapping[str, Task], checks: Sequence[Check]) -> list[Score]:
    with start_scorer(config) as scorer:
        for slot, check in enumerate(checks):
            rollout = Rollout(
                slot=slot, sample=0, tokens=(), logprobs=(), weight_versions=(), finish_reason="stop", text=check.response
            )
            scorer.submit(rollout, check.task, check.row, file=tasks[check.task].name)
        scores = scorer.collect()
    return [scores[slot, 0] for slot in range(len(checks))]


def _reward_faults(config: Config, name: str, task: Task, examples: Sequence[Score]) -> Iterator[str]:
    known = {part for score in examples for part in score.parts}
    for part in unknown_parts(config.mixture[name].reward, known):
        yield (
            f"mixture.{name}.reward: no score of {task.path} has a part {part!r}; "
            f"use one of {', '.join([*sorted(known), 'reward'])}, where 'reward' is the verifier's own reward"
        )


def _odd_fault(task: Task, check: Check, score: Score) -> str:
    if score.status in (Status.OK, Status.BAD_ROW):
        return ""
    return (
        f"{task.path}: verify gives {score.status} for the response {check.response[:20]!r} to row {check.row.key}: "
        f"{score.detail}; return a Score for any text"
    )


def _ask_for_other_task(dataset: Dataset, scored: Sequence[tuple[Check, Score]]) -> str:
    """A question for the end of a fault, if the verifier failed on all checked rows of the data set; otherwise empty.

    If the rows have no own answers, the odd responses count instead.
    """
    in_dataset = [(check, score) for check, score in scored if check.dataset is dataset]
    own = [score for check, score in in_dataset if not check.is_odd] or [score for _, score in in_dataset]
    if any(score.status is Status.OK for score in own):
        return ""
    return f"; or are these another task's rows? {dataset.folder} was made by the recipe {dataset.manifest.recipe!r}"


def _own_answer_faults(task: Task, dataset: Dataset, own: Sequence[tuple[Check, Score]]) -> Iterator[str]:
    if unscored := [(check, score) for check, score in own if score.status is not Status.OK]:
        check, score = unscored[0]
        yield (
            f"{dataset.folder}: {task.name} cannot score {len(unscored)} of {len(own)} own answers; the first: "
            f"row {check.row.key}, verify gives {score.status}: {score.detail}{_ask_for_other_task(dataset, own)}"
        )
        return
    rejected = [(check, score) for check, score in own if score.reward < _ACCEPTED_REWARD]
    if not rejected:
        return
    check, score = rejected[0]
    found = (
        f"{dataset.folder}: {task.name} rejects {len(rejected)} of {len(own)} checked own answers; "
        f"the first: row {check.row.key}, {check.response[:60]!r} gets reward {score.reward:g}"
    )
    recipe, command = dataset.manifest.recipe, f"See: vlrl data check {dataset.folder} --task {task.name}"
    if 2 * len(rejected) > len(own):
        yield f"{found}. Are these another task's rows (their recipe is {recipe!r})? {command}"
    else:
        logger.warning("%s. %s", found, command)
