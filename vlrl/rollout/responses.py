"""Samples responses and scores each that ends while others are still sampled.

A long response may be sampled in parts (a partial rollout): when it has as many new tokens as it may have now, it is put aside,
and the engine reads it again and continues it later, under the weights that it has then. So each token's log-prob is that of the
weights that sampled it, given everything before it.
"""

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from vlrl.rollout.engine import Decoding, Engine, Request
from vlrl.scoring import Scorer
from vlrl.telemetry.clock import Clock
from vlrl.types import Group, Prompt, Rollout, Sample

Place = tuple[int, int]
"""The slot of a prompt, and the number of a sample."""


@dataclass(kw_only=True, slots=True, eq=False)
class Responses:
    """The responses to some prompts, as far as they are sampled.

    prompts: all that this engine samples; one without an encoding gets no responses. owned: the slots of those that this rank
    scores and trains. seed: of (slot, sample, tokens sampled before). begun: what there is of each response that has not ended,
    None for nothing. samples: those that have ended and belong to this rank.
    """

    prompts: Sequence[Prompt]
    owned: Collection[int]
    seed: Callable[[int, int, int], int]
    begun: dict[Place, Rollout | None]
    samples: dict[Place, Sample] = field(default_factory=dict)

    @classmethod
    def to(cls, prompts: Sequence[Prompt], owned: Collection[int], seed: Callable[[int, int, int], int]) -> "Responses":
        """No response to any of the prompts yet."""
        places = [(prompt.slot, sample) for prompt in prompts if prompt.encoded for sample in range(prompt.group_size)]
        return cls(prompts=prompts, owned=owned, seed=seed, begun=dict.fromkeys(places))

    def groups(self) -> list[Group]:
        """The owned prompts with their samples, in the order of the prompts."""
        found: dict[int, list[Sample]] = {prompt.slot: [] for prompt in self.prompts if prompt.slot in self.owned}
        for slot, sample in sorted(self.samples):
            found[slot].append(self.samples[slot, sample])
        return [Group(prompt=each, samples=tuple(found[each.slot])) for each in self.prompts if each.slot in found]


def sample_responses(
    limits: Mapping[Responses, int | None],
    *,
    engine: Engine,
    scorer: Scorer,
    decode: Callable[[Sequence[int]], str],
    decoding: Decoding,
    tick: Callable[[], None] = lambda: None,
    clock: Clock | None = None,
) -> None:
    """Continues all these responses until each has ended, or has as many new tokens as its limit says; None is no limit.

    decode: token ids to text. tick: called after each response; what it raises ends the sampling. clock: of sampling, and of
    waiting for the last scores.
    """
    clock = clock or Clock()
    # A request's slot is the prompt's number in this call, since two batches have the same slots.
    prompts = [(responses, prompt, most) for responses, most in limits.items() for prompt in responses.prompts]
    requests = [
        _request(responses, prompt, sample, number, decoding, most)
        for number, (responses, prompt, most) in enumerate(prompts)
        for sample in range(prompt.group_size)
        if (prompt.slot, sample) in responses.begun
    ]
    if len(requests) > engine.slots:  # a long one that begins last would keep the others waiting
        requests.sort(key=lambda request: request.max_new_tokens, reverse=True)
    ended: dict[Place, Rollout] = {}
    left, few = len(requests), min(len(requests), engine.slots) / 4
    tail_since = math.inf
    with clock("time/generate"):
        for part in engine.generate(requests):
            left -= 1
            if left < few:
                tail_since = min(tail_since, time.perf_counter())
            responses, prompt, _ = prompts[part.slot]
            place = prompt.slot, part.sample
            rollout = _joined(responses.begun[place], replace(part, slot=prompt.slot))
            if rollout.finish_reason == "length" and len(rollout.tokens) < prompt.max_new_tokens:
                responses.begun[place] = rollout
            else:
                del responses.begun[place]
                if prompt.slot in responses.owned:
                    rollout = replace(rollout, text=prompt.encoded.opened + decode(rollout.tokens))
                    ended[part.slot, part.sample] = rollout
                    scorer.submit(replace(rollout, slot=part.slot), prompt.task, prompt.row, file=prompt.file)
            tick()
    clock.add("rollout/tail_s", max(0.0, time.perf_counter() - tail_since))
    with clock("time/score"):
        scores = scorer.collect()
    for (number, sample), rollout in ended.items():
        score = scores[number, sample]
        prompts[number][0].samples[rollout.slot, sample] = Sample(rollout=rollout, score=score, reward=score.reward)


def _request(responses: Responses, prompt: Prompt, sample: int, number: int, decoding: Decoding, most: int | None) -> Request:
    begun = responses.begun[prompt.slot, sample]
    tokens = begun.tokens if begun else ()
    left = prompt.max_new_tokens - len(tokens)
    return Request(
        slot=number,
        sample=sample,
        prompt=prompt.encoded,
        max_new_tokens=left if most is None else min(left, most),
        decoding=decoding,
        seed=responses.seed(prompt.slot, sample, len(tokens)),
        begun=tokens,
    )


def _joined(begun: Rollout | None, part: Rollout) -> Rollout:
    """The rollout with what was sampled of it before."""
    if begun is None:
        return part
    return replace(
        part,
        tokens=begun.tokens + part.tokens,
        logprobs=begun.logprobs + part.logprobs,
        weight_versions=begun.weight_versions + part.weight_versions,
        routes=None if part.routes is None else np.concatenate([begun.routes, part.routes[len(begun.routes) :]]),
    )
