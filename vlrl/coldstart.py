"""The supervised cold start: a few steps on the rows' own responses, in the mixture's ratios, so that rewards can be found.

Its result is a Hugging Face folder, the model from which the run samples first. A finished one is reused. With LoRA it trains
adapters too and merges them into that model; the run then trains new ones beside it.
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from vlrl.common.jsonl import read_json, write_atomically
from vlrl.common.signals import Interrupted
from vlrl.models.packing import PackedGroup, pack_groups, prompt_cost, split_to_budget
from vlrl.rollout.groups import encode_demonstration
from vlrl.run import Run
from vlrl.telemetry.progress import announce, progress
from vlrl.trainer.out_of_memory import explain_out_of_memory, smaller_than
from vlrl.trainer.policy import Policy
from vlrl.trainer.token_budget import PlannedGroup, choose_token_budget
from vlrl.types import Draw

_DONE = "coldstart.json"


def coldstart(run: Run, folder: Path) -> None:
    """Trains config.model on demonstrations and writes the result to `folder`.

    ValueError for a row without a response; Interrupted if a signal stopped it, after which it starts from the beginning.
    """
    if _is_done(folder, run.origin):
        return
    try:
        _train(run, folder)
    except Interrupted as stop:
        raise Interrupted(stop.number, "the same command begins the cold start again") from None


def _train(run: Run, folder: Path) -> None:
    config = run.config
    steps = config.coldstart.steps
    announce("Loading the model for the cold start", shown=run.ranks.is_first)
    shared: dict[str, Any] = {"ranks": run.ranks, "temperature": 1.0, "banned": run.banned, "lora": config.lora}
    policy = Policy(run.coldstart_policy, config.model, updates=steps, **shared)
    mixture = run.coldstart_mixture()
    groups = -(-config.coldstart.batch_size // run.ranks.size)
    choose_token_budget(run, policy, partial(_samples, run, mixture.draw(0)), groups=groups, phase="cold start")
    with progress("Cold start", steps, shown=run.ranks.is_first) as tick:
        for step in range(steps):
            loss = _supervised_step(run, policy, mixture.draw(step))
            tick(1, f"loss {loss:.3f}")
    policy.export(folder, config.model, run.encoder)
    policy.close()  # the run's own needs the memory
    if run.ranks.is_first:
        write_atomically(folder / _DONE, [json.dumps(run.origin)])
    run.ranks.barrier()


def _supervised_step(run: Run, policy: Policy, draws: Sequence[Draw]) -> float:
    """One step on the demonstrations' tokens, averaged over the tokens of the whole batch. Returns that loss."""
    items = _demonstrations(run, [draw for number, draw in enumerate(draws) if number % run.ranks.size == run.ranks.rank])
    sizes = [(prompt_cost(prompt, policy.tokens_per_patch), [len(responses[0])]) for prompt, responses in items]
    pieces = [[items[n] for n, _ in piece] for piece in split_to_budget(sizes, policy.max_tokens_per_micro_batch)]
    pieces += [[]] * (int(run.ranks.max(len(pieces))) - len(pieces))
    num_tokens = run.ranks.sum({"tokens": sum(length for _, (length,) in sizes)})["tokens"]
    total = 0.0
    for piece in pieces:
        pack = pack_groups(piece, run.filler)
        with explain_out_of_memory(pack, smaller_than(pack, policy.max_tokens_per_micro_batch)):
            scores = policy.forward(pack)
            loss = -scores.logprobs.sum() / num_tokens
            policy.backward(loss + scores.zero)
        total += loss.item()
    policy.step()
    return run.ranks.sum({"loss": total})["loss"]


def _demonstrations(run: Run, draws: Sequence[Draw]) -> list[PackedGroup]:
    """The drawn rows' prompts, each with its row's response."""
    encoded = [encode_demonstration(prompt, run.encoder) for prompt in run.prompts(draws)]
    return [(prompt, [response]) for prompt, response in encoded]


def _samples(run: Run, draws: Sequence[Draw]) -> list[PlannedGroup]:
    items = _demonstrations(run, draws)
    return [PlannedGroup(prompt=prompt, group_size=1, max_new_tokens=len(responses[0])) for prompt, responses in items]


def _is_done(folder: Path, origin: dict) -> bool:
    done = folder / _DONE
    return done.exists() and read_json(done, "remove it, and the cold start begins again") == origin
