"""Lists what a run will draw: each step's prompts by task and mini-batch, and every task's share of the whole run.

It needs the run file and the sizes of the data sets, but no model.
"""

from collections import Counter
from collections.abc import Iterator
from functools import partial

from vlrl.config import Config
from vlrl.data.mixture import Mixture
from vlrl.data.shards import Dataset
from vlrl.inputs import attempt_each, heldout_folders, train_rows
from vlrl.types import Draw


def plan(config: Config, steps: int) -> Iterator[str]:
    """Yields a line for each of the first `steps` steps, then one for each task.

    Raises what Mixture raises, and ValueError with one line for each data set that is missing, the held-out ones too.
    """
    rows, faults = attempt_each({task: partial(train_rows, task, mix) for task, mix in config.mixture.items()})
    faults += attempt_each({task: partial(Dataset, folder) for task, folder in heldout_folders(config).items()})[1]
    if faults:
        raise ValueError("\n".join(faults))
    sizes = {task: len(each) for task, each in rows.items()}
    weights = {task: mix.weight for task, mix in config.mixture.items()}
    minibatches = config.algorithm.minibatches
    mixture = Mixture(
        weights,
        sizes,
        prompts_per_step=config.prompts_per_step,
        minibatches=minibatches,
        steps=config.steps,
        seed=config.seed,
    )
    for step in range(min(steps, config.steps)):
        yield f"step {step + 1}: {_by_task(mixture.draw(step), list(weights), minibatches)}"
    for task, weight in weights.items():
        asked = config.steps * config.prompts_per_step * weight / sum(weights.values())
        realised = sum(quota[task] for quota in mixture.quotas)
        yield (
            f"{task}: {realised} prompts in {config.steps} steps, {asked:.1f} asked for; "
            f"{realised / sizes[task]:.2f} epochs of {sizes[task]} rows"
        )


def _by_task(draws: list[Draw], tasks: list[str], minibatches: int) -> str:
    """The prompts of each task, and in brackets those in each mini-batch: 'chain_sum 6 (3+3) knights 7 (4+3)'."""
    counts = Counter((draw.task, draw.minibatch) for draw in draws)
    parts = {task: [counts[task, number] for number in range(minibatches)] for task in tasks}
    return " ".join(f"{task} {sum(part)} ({'+'.join(map(str, part))})" for task, part in parts.items())
