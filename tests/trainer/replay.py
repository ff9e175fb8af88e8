"""Updates on fixed rollouts, for any number of ranks, ZeRO stage and token budget; tests/trainer/test_update.py compares them.

python -m tests.trainer.replay MODEL FOLDER PICTURE,PICTURE JOB... runs each job, `OPTIMIZER-STAGE-BUDGET`, and writes
FOLDER/JOB.pt: the losses of five AdamW updates, or the weights before and after one step of plain SGD.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from tests.conftest import SMALL_IMAGES
from tests.models.helpers import message
from vlrl import config as cfg
from vlrl.distributed.ranks import Ranks, join_ranks
from vlrl.models.checkpoint_io import load_encoder
from vlrl.models.processor import Encoder
from vlrl.rollout.groups import with_advantages
from vlrl.telemetry.metrics import Key, combine, name_of
from vlrl.trainer.micro_batch import MiniBatch, make_minibatch, with_old_scores
from vlrl.trainer.policy import Policy
from vlrl.trainer.update import TaskGates, update
from vlrl.types import Group, Prompt, Rollout, Row, Sample, Score, Status

ALGORITHM = cfg.AlgorithmConfig()
MIX = {"sum": cfg.TaskConfig(weight=1, rows=Path("none"))}
GATES = TaskGates(ALGORITHM, MIX)
SGD = {"optimizer": {"type": "SGD", "params": {"lr": 0.1}}}
UNCLIPPED = 1e9

# Slot by slot: how many pictures, which lengths, which rewards (None: a timeout). On two ranks the even slots fall to the
# first and the odd ones, all text, to the second; slots 3 and 6 have no advantage; the first four are mini-batch 0.
PLAN: list[tuple[int, list[int], list[float | None]]] = [
    (1, [5, 1, 9], [1.0, 0.0, 0.5]),
    (0, [7, 7], [0.0, 1.0]),
    (2, [3, 12, 6, 2], [1.0, None, 0.0, 0.0]),
    (0, [4, 8, 2], [1.0, 1.0, 1.0]),
    (1, [6, 6], [0.0, 1.0]),
    (0, [2, 11, 3], [0.3, None, 0.7]),
    (0, [1, 4], [1.0, None]),
    (0, [9, 3, 5, 7], [1.0, 0.0, 0.0, 0.0]),
]
MINIBATCHES = 2


def fixed_groups(encoder: Encoder, pictures: Sequence[str]) -> list[Group]:
    """The plan's groups, their tokens and engine log-probs drawn from a fixed seed."""
    numbers = torch.Generator().manual_seed(0)
    groups = []
    for slot, (images, lengths, rewards) in enumerate(PLAN):
        encoded = encoder.encode(message(f"What is {slot} + 34?", *pictures[:images]))
        minibatch = slot * MINIBATCHES // len(PLAN)
        prompt = Prompt(slot=slot, task="sum", row=Row(), messages=(), minibatch=minibatch, encoded=encoded)
        rollouts = [_rollout(slot, sample, length, numbers) for sample, length in enumerate(lengths)]
        scores = [Score(reward=0.0, status=Status.TIMEOUT) if reward is None else Score(reward=reward) for reward in rewards]
        groups.append(with_advantages(group_of(prompt, rollouts, scores), ALGORITHM))
    return groups


def group_of(prompt: Prompt, rollouts: Sequence[Rollout], scores: Sequence[Score]) -> Group:
    """A group whose rewards are the verifier's own."""
    pairs = zip(rollouts, scores, strict=True)
    return Group(prompt=prompt, samples=tuple(Sample(rollout=r, score=s, reward=s.reward) for r, s in pairs))


def fixed_minibatches(
    model: str, pictures: Sequence[str], ranks: Ranks, *, budget: int = 4096, keep_zero: bool = False
) -> list[MiniBatch]:
    """This rank's share of the plan's mini-batches."""
    encoder = load_encoder(model, SMALL_IMAGES)
    groups = fixed_groups(encoder, pictures)
    mine = [group for group in groups if group.prompt.slot % ranks.size == ranks.rank]
    return [
        make_minibatch(
            [group for group in mine if group.prompt.minibatch == number],
            filler=encoder.filler(),
            budget=budget,
            keep_zero=keep_zero,
            ranks=ranks,
        )
        for number in range(MINIBATCHES)
    ]


def open_policy(
    model: str,
    ranks: Ranks,
    *,
    temperature: float = 1.0,
    banned: Sequence[int] = (),
    lora: cfg.LoraConfig | None = None,
    **settings,
) -> Policy:
    """The model in fp32 at ZeRO 0, unless the settings say otherwise."""
    chosen = cfg.PolicyConfig(**{"dtype": "float32", "zero_stage": 0, "lr": 1e-3} | settings)
    return Policy(chosen, model, ranks=ranks, updates=5, temperature=temperature, banned=list(banned), lora=lora)


def weights_of(policy: Policy) -> dict[str, torch.Tensor]:
    return {name: weight.detach().float().clone() for name, weight in policy.named_weights()}


def loss_of(policy: Policy, minibatch: MiniBatch, **options) -> float:
    """Makes one update; the mini-batch's loss over all ranks before it."""
    totals = update(policy, minibatch, **{"gates": GATES} | options).totals
    return combine(policy.ranks.gather(totals))[Key("policy/loss")].total / minibatch.num_scored


def losses_of(policy: Policy, minibatches: Sequence[MiniBatch], updates: int) -> list[float]:
    """The losses of steps over the mini-batches in turn, π_old being the policy before each step's first."""
    losses: list[float] = []
    while len(losses) < updates:
        step = [minibatches[0], *(with_old_scores(policy, minibatch) for minibatch in minibatches[1:])]
        losses += [loss_of(policy, minibatch) for minibatch in step[: updates - len(losses)]]
    return losses


def run(job: str, model: str, pictures: Sequence[str], ranks: Ranks) -> dict:
    optimizer, stage, budget = job.split("-")
    minibatches = fixed_minibatches(model, pictures, ranks, budget=int(budget))
    if optimizer == "adamw":
        return {"losses": losses_of(open_policy(model, ranks, zero_stage=int(stage)), minibatches, 5)}
    policy = open_policy(model, ranks, zero_stage=int(stage), gradient_clipping=UNCLIPPED, deepspeed=SGD)
    before = weights_of(policy)
    told = update(policy, minibatches[0], gates=GATES).step
    return {"before": before, "after": weights_of(policy), "told": {name_of(key): value for key, value in told.items()}}


def _rollout(slot: int, sample: int, length: int, numbers: torch.Generator) -> Rollout:
    return Rollout(
        slot=slot,
        sample=sample,
        tokens=tuple(torch.randint(20, 250, (length,), generator=numbers).tolist()),
        logprobs=tuple((-5.8 + 0.3 * torch.randn(length, generator=numbers)).tolist()),
        text="",
        finish_reason="stop",
        weight_versions=(),
    )


def main(model: str, folder: str, pictures: str, *jobs: str) -> None:
    torch.set_num_threads(1)
    ranks = join_ranks()
    for job in jobs:
        result = run(job, model, pictures.split(","), ranks)
        if ranks.is_first:
            torch.save(result, Path(folder) / f"{job}.pt")
    ranks.barrier()


if __name__ == "__main__":
    main(*sys.argv[1:])
