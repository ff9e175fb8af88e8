"""The supervised cold start: a few steps on the rows' own responses, in the mixture's ratios, so that rewards can be found.

Its result is a Hugging Face folder, the model from which the run samples first. A finished one is reused.
"""

import json
from pathlib import Path

from vlrl.metrics import progress, write_whole
from vlrl.model.load import save_checkpoint
from vlrl.model.pack import pack_groups, split_to_budget
from vlrl.policy import Policy
from vlrl.run import Run

_DONE = "coldstart.json"


def coldstart(run: Run, folder: Path) -> None:
    """Trains config.model on demonstrations and writes the result to `folder`. ValueError for a row without a response."""
    config = run.config
    if _is_done(folder, run.origin):
        return
    steps = config.coldstart.steps
    policy = Policy(run.coldstart_policy, config.model, ranks=run.ranks, updates=steps, temperature=1.0, banned=run.banned)
    mixture = run.coldstart_mixture()
    with progress("Cold start", steps, shown=run.ranks.is_first) as tick:
        for step in range(steps):
            loss = _supervised_step(run, policy, mixture.draw(step))
            tick(1, f"loss {loss:.3f}")
    weights = policy.named_weights()
    if run.ranks.is_first:
        save_checkpoint(weights, config.model, folder, run.encoder.processor)
        write_whole(folder / _DONE, [json.dumps(run.origin)])
    else:
        for _ in weights:  # under ZeRO-3 gathering is a collective
            pass
    run.ranks.barrier()


def _supervised_step(run: Run, policy: Policy, draws: list) -> float:
    """One step on the demonstrations' tokens, averaged over the tokens of the whole batch. Returns that loss."""
    prompts = run.prompts(draws)
    mine = [prompt for number, prompt in enumerate(prompts) if number % run.ranks.size == run.ranks.rank]
    items = []
    for prompt in mine:
        if not prompt.row.response:
            raise ValueError(f"task {prompt.task}, row {prompt.row.key}: no response to learn from; set coldstart.steps to 0")
        items.append((run.encoder.encode(prompt.messages), [run.encoder.encode_response(prompt.row.response)]))
    sizes = [(len(prompt.tokens), [len(responses[0])]) for prompt, responses in items]
    pieces = [[items[n] for n, _ in piece] for piece in split_to_budget(sizes, policy.settings.tokens_per_pass)]
    pieces += [[]] * (max(run.ranks.gather(len(pieces))) - len(pieces))
    num_tokens = run.ranks.sum({"tokens": sum(length for _, (length,) in sizes)})["tokens"]
    total = 0.0
    for piece in pieces:
        pack = pack_groups(piece, run.filler)
        logp, _ = policy.forward(pack)
        loss = -logp[: len(logp) - pack.filler].sum() / num_tokens
        policy.backward(loss + 0.0 * logp.sum())
        total += loss.item()
    policy.step()
    return run.ranks.sum({"loss": total})["loss"]


def _is_done(folder: Path, origin: dict) -> bool:
    return (folder / _DONE).exists() and json.loads((folder / _DONE).read_text()) == origin
