"""What every phase of a run needs: its tasks, data, mixture and encoder, and a step's draws as prompts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from vlrl import config as cfg
from vlrl.config import Config
from vlrl.data.mixture import Mixture
from vlrl.data.shards import Dataset
from vlrl.model.cost import Cost
from vlrl.model.encode import EncodedPrompt, Encoder
from vlrl.model.load import check_model, load_encoder
from vlrl.ranks import Ranks
from vlrl.tasks import Task, load_task, prompt_of
from vlrl.types import Draw, Prompt

K = TypeVar("K")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A checked run: config, this process's place, tasks and training data by name, and the model's encoder.

    filler: the image prompt that gives a pass a vision tower; banned: ids that sampling never yields; cost: of computing a group.
    rollbacks: how often the run has gone back to a checkpoint; each time it samples with other seeds.
    """

    config: Config
    ranks: Ranks
    tasks: dict[str, Task]
    rows: dict[str, Dataset]
    encoder: Encoder
    filler: EncodedPrompt
    banned: list[int]
    cost: Cost
    rollbacks: int = 0

    @property
    def identity(self) -> dict[str, Any]:
        """What a resumed run must share with the saved one; the tasks' order decides their slots."""
        settings = self.config.model_dump(mode="json")
        return {"world_size": self.ranks.size, "tasks": list(self.config.mixture), "data": self._data, **settings}

    @property
    def origin(self) -> dict[str, Any]:
        """What decides the model that the first step samples from: where these are equal, a cold start need not be repeated."""
        settings = self.config.model_dump(mode="json", include={"model", "seed", "mixture", "images", "coldstart"})
        return {"data": self._data, "policy": self.coldstart_policy.model_dump(mode="json"), **settings}

    def mixture(self) -> Mixture:
        """The training steps' mixture."""
        config = self.config
        weights = {task: mix.weight for task, mix in config.mixture.items()}
        return Mixture(
            weights,
            self._sizes,
            prompts_per_step=config.prompts_per_step,
            minibatches=config.algorithm.minibatches,
            steps=config.steps,
            seed=config.seed,
        )

    @property
    def coldstart_policy(self) -> cfg.Policy:
        """The policy's settings with the cold start's rate, which stays as it is after the warm-up."""
        settings = self.config.coldstart
        rate = {"lr": settings.lr, "warmup_steps": settings.warmup_steps, "final_lr": 1.0}
        return self.config.policy.model_copy(update=rate)

    def coldstart_mixture(self) -> Mixture:
        """The cold start's mixture: whole batches, in an order of its own."""
        config, settings = self.config, self.config.coldstart
        weights = {task: mix.coldstart_weight or mix.weight for task, mix in config.mixture.items()}
        return Mixture(
            weights, self._sizes, prompts_per_step=settings.batch_size, minibatches=1, steps=settings.steps, seed=config.seed + 1
        )

    @property
    def _data(self) -> dict[str, str]:
        return {task: rows.fingerprint for task, rows in self.rows.items()}

    @property
    def _sizes(self) -> dict[str, int]:
        return {task: len(rows) for task, rows in self.rows.items()}

    def prompts(self, draws: Sequence[Draw]) -> list[Prompt]:
        """The drawn rows as chat messages with their tasks' group sizes and length limits."""
        return [self.prompt(draw, self.config.group_size(draw.task)) for draw in draws]

    def prompt(self, draw: Draw, group_size: int, max_new_tokens: int | None = None) -> Prompt:
        """The drawn row as chat messages; max_new_tokens: instead of the task's own."""
        task, mix, row = self.tasks[draw.task], self.config.mixture[draw.task], self.rows[draw.task][draw.index]
        return Prompt(
            slot=draw.slot,
            task=draw.task,
            row=row,
            messages=tuple(prompt_of(task, row, system=mix.system, instruction=mix.instruction)),
            file=task.name,
            minibatch=draw.minibatch,
            round=draw.round,
            group_size=group_size,
            max_new_tokens=max_new_tokens or self.config.max_new_tokens(draw.task),
        )

    def replica(self, prompts: Sequence[Prompt]) -> tuple[list[Prompt], set[int]]:
        """The prompts that this rank's engine samples, and the slots that this rank scores and trains.

        Whole groups are dealt over the ranks; tensor-parallel neighbours sample one another's.
        """
        size, width = self.ranks.size, self.config.engine.tensor_parallel
        owner = {prompt.slot: number % size for number, prompt in enumerate(prompts)}
        here = self.ranks.rank // width
        sampled = [prompt for prompt in prompts if owner[prompt.slot] // width == here]
        return sampled, {slot for slot, rank in owner.items() if rank == self.ranks.rank}

    def with_rows(self, rows: dict[str, Dataset]) -> "Run":
        return replace(self, rows=rows)


def open_run(config: Config, ranks: Ranks) -> Run:
    """Opens everything that the run file names. ValueError, one sentence each, for what can't be used."""
    tasks = open_each({name: partial(load_task, mix.task or name, config.task_folders) for name, mix in config.mixture.items()})
    rows = open_each({name: partial(Dataset, mix.rows) for name, mix in config.mixture.items()})
    model = check_model(config.model)
    encoder = load_encoder(config.model, config.images)
    return Run(
        config=config,
        ranks=ranks,
        tasks=tasks,
        rows=rows,
        encoder=encoder,
        filler=encoder.filler(),
        banned=encoder.banned_tokens(model["text_config"]["vocab_size"]),
        cost=Cost.of(model),
    )


def open_each(openers: Mapping[str, Callable[[], T]]) -> dict[str, T]:
    """What each opener returns, by its name. ValueError with the sentences of all that fail, a line each."""
    opened, faults = attempt_each(openers)
    if faults:
        raise ValueError("\n".join(faults))
    return opened


def attempt_each(actions: Mapping[K, Callable[[], T]]) -> tuple[dict[K, T], list[str]]:
    """What each action returns, by its key, and the sentences of those that raise ValueError, in order."""
    results, faults = {}, []
    for key, action in actions.items():
        try:
            results[key] = action()
        except ValueError as error:
            faults.append(str(error))
    return results, faults
