"""Responses that are sampled in parts: what is put together is what would have come in one piece, and no part is too long."""

import math
from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vlrl.algorithm.gates import sapo
from vlrl.algorithm.loss import policy_loss
from vlrl.rollout.engine import Decoding, Request
from vlrl.rollout.responses import Responses, sample_responses
from vlrl.types import Prompt, Rollout, Row, Score

MOST = 12
GROUP = 3


def logprob(token: int, version: int) -> float:
    """What the weights of this version give the token."""
    return -1.0 - token / 4 - version * (-1) ** token


class Planned:
    """An engine whose every response is the numbers up to a planned length; the last request ends first."""

    def __init__(self, lengths: dict[tuple[int, int], int], slots: int = 256) -> None:
        self.lengths = lengths
        self.slots = slots
        self.version = 0
        self.asked: list[Request] = []

    def generate(self, requests: Sequence[Request]) -> Iterator[Rollout]:
        self.asked = list(requests)
        for request in reversed(requests):
            whole = range(self.lengths[request.prompt.slot, request.sample])
            tokens = tuple(whole[len(request.begun) :][: request.max_new_tokens])
            assert request.begun == tuple(whole[: len(request.begun)])
            yield Rollout(
                slot=request.slot,
                sample=request.sample,
                tokens=tokens,
                logprobs=tuple(logprob(token, self.version) for token in tokens),
                weight_versions=(self.version,) * len(tokens),
                finish_reason="stop" if len(request.begun) + len(tokens) == len(whole) < MOST else "length",
            )


class LengthScorer:
    """Gives a response its number of characters."""

    def __init__(self) -> None:
        self.scores: dict[tuple[int, int], Score] = {}

    def submit(self, rollout: Rollout, task: str, row: Row, *, file: str) -> None:
        self.scores[rollout.slot, rollout.sample] = Score(reward=float(len(rollout.text)))

    def collect(self) -> dict[tuple[int, int], Score]:
        scores, self.scores = self.scores, {}
        return scores


def prompts(count: int) -> list[Prompt]:
    return [
        Prompt(
            slot=slot,
            task="any",
            row=Row(),
            messages=(),
            group_size=GROUP,
            max_new_tokens=MOST,
            encoded=SimpleNamespace(slot=slot, opened=">"),
        )
        for slot in range(count)
    ]


def responses(count: int, owned: set[int]) -> Responses:
    return Responses.to(prompts(count), owned, lambda slot, sample, tokens: hash((slot, sample, tokens)))


def sample(engine: Planned, limits: dict[Responses, int | None]) -> None:
    def decode(tokens: Sequence[int]) -> str:
        return "x" * len(tokens)

    sample_responses(limits, engine=engine, scorer=LengthScorer(), decode=decode, decoding=Decoding(temperature=1.0))


LENGTHS = st.lists(st.integers(1, MOST), min_size=2 * GROUP, max_size=2 * GROUP).map(
    lambda lengths: {(slot, number): lengths[slot * GROUP + number] for slot in range(2) for number in range(GROUP)}
)


@given(LENGTHS, st.lists(st.integers(1, 5), max_size=4))
def test_a_response_in_parts_is_the_whole_one(lengths, limits) -> None:
    engine, parts, whole = Planned(lengths), responses(2, {0, 1}), responses(2, {0, 1})
    for version, most in enumerate(limits):
        engine.version = version
        sample(engine, {parts: most})
    engine.version = len(limits)
    sample(engine, {parts: None})
    sample(engine, {whole: None})
    assert not parts.begun
    for one, other in zip(parts.groups(), whole.groups(), strict=True):
        for mine, theirs in zip(one.samples, other.samples, strict=True):
            assert mine.rollout.tokens == theirs.rollout.tokens
            versions = zip(mine.rollout.tokens, mine.rollout.weight_versions, strict=True)
            assert mine.rollout.logprobs == tuple(logprob(token, version) for token, version in versions)
            assert (mine.rollout.text, mine.rollout.finish_reason) == (theirs.rollout.text, theirs.rollout.finish_reason)
            assert mine.score == theirs.score == Score(reward=1.0 + len(mine.rollout.tokens))


@given(LENGTHS, st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_no_weights_sample_more_of_a_response_than_the_limit(lengths, limits) -> None:
    engine, parts = Planned(lengths), responses(2, {0, 1})
    for version, most in enumerate(limits):
        engine.version = version
        sample(engine, {parts: most})
    engine.version = len(limits)
    sample(engine, {parts: None})
    for group in parts.groups():
        for each in group.samples:
            left, versions = len(each.rollout.tokens), []
            for version, most in enumerate([*limits, MOST]):
                versions += [version] * min(left, most)
                left -= min(left, most)
            assert each.rollout.weight_versions == tuple(versions)


@given(LENGTHS)
def test_batches_that_are_sampled_together_do_not_mix(lengths) -> None:
    engine, old, new = Planned(lengths), responses(2, {1}), responses(2, {0})
    sample(engine, {old: 2})
    sample(engine, {old: None, new: 2})
    assert not old.begun
    assert {place: len(rollout.tokens) for place, rollout in new.begun.items()} == {
        place: 2 for place, length in lengths.items() if length > 2
    }
    assert [group.prompt.slot for group in old.groups()] == [1] and [group.prompt.slot for group in new.groups()] == [0]
    assert [len(each.rollout.tokens) for each in old.groups()[0].samples] == [lengths[1, number] for number in range(GROUP)]
    assert len(new.groups()[0].samples) == sum(lengths[0, number] <= 2 for number in range(GROUP))


def test_a_part_has_a_seed_of_its_own() -> None:
    engine, parts = Planned(dict.fromkeys([(0, number) for number in range(GROUP)], 9)), responses(1, {0})
    sample(engine, {parts: 4})
    first = {request.seed for request in engine.asked}
    sample(engine, {parts: None})
    assert len(first | {request.seed for request in engine.asked}) == 2 * GROUP


def test_with_more_requests_than_slots_the_longest_begin_first() -> None:
    lengths = dict.fromkeys([(slot, number) for slot in range(2) for number in range(GROUP)], 9)
    engine, old, new = Planned(lengths, slots=4), responses(2, {0}), responses(1, {0})
    sample(engine, {old: 7})
    sample(engine, {old: None, new: None})
    assert [request.max_new_tokens for request in engine.asked] == [12] * GROUP + [5] * 2 * GROUP


@pytest.mark.parametrize("cap", [2.0, 8.0])
def test_each_token_s_weight_in_the_loss_is_that_of_the_weights_that_sampled_it(cap) -> None:
    engine, parts = Planned(dict.fromkeys([(0, number) for number in range(GROUP)], 5)), responses(1, {0})
    sample(engine, {parts: 3})
    engine.version = 1
    sample(engine, {parts: None})
    (group,) = parts.groups()
    rollout = group.samples[0].rollout
    assert rollout.weight_versions == (0, 0, 0, 1, 1)
    trained = torch.tensor([logprob(token, 2) for token in rollout.tokens], dtype=torch.float64, requires_grad=True)
    loss, _ = policy_loss(
        trained,
        trained.detach(),
        torch.tensor(rollout.logprobs, dtype=torch.float64),
        torch.tensor([0.5]),
        torch.zeros(5, dtype=torch.int64),
        num_scored=1,
        gate=sapo([1.0], [1.05]),
        tis_cap=cap,
    )
    loss.backward()
    # Where the policy is the old one, the gate's slope is 1, so a token's gradient is its weight times the advantage.
    weights = -trained.grad * 5 / 0.5
    by_hand = [math.exp(-2), math.exp(2), math.exp(-2), math.exp(1), math.exp(-1)]
    assert weights.tolist() == pytest.approx([min(weight, cap) for weight in by_hand], abs=1e-6)
