"""Passes as large as the memory holds: never larger, not much smaller, and the policy is what it was."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import SMALL_IMAGES
from tests.models.helpers import message
from tests.trainer.replay import fixed_minibatches, losses_of, open_policy, weights_of
from vlrl.models.checkpoint_io import load_encoder
from vlrl.models.packing import pack_groups, prompt_cost, split_to_budget
from vlrl.trainer import token_budget
from vlrl.trainer.token_budget import PlannedGroup, TokenBudget, choose_token_budget, pack_of, tokens_that_fit


@pytest.fixture(scope="module")
def encoder(tiny_dense):
    return load_encoder(tiny_dense, SMALL_IMAGES)


@pytest.fixture(scope="module")
def samples(encoder, pictures):
    chats = [message("What is 1 + 1?"), message("Which digit is this?", pictures[0])]
    return [PlannedGroup(prompt=encoder.encode(chat), group_size=4, max_new_tokens=20) for chat in chats]


def run_of(ranks, encoder):
    return SimpleNamespace(ranks=ranks, filler=encoder.filler())


def used_by(pack, fixed: int, a_token: int, a_patch: int) -> int:
    return fixed + a_token * len(pack.tokens) + a_patch * len(pack.pixels)


MEMORY = {
    "fixed": st.integers(0, 25_000),
    "a_token": st.integers(1, 1000),
    "a_patch": st.integers(0, 1000),
    "room": st.integers(3 * 10**5, 10**7),
}


def budget_for(fixed, a_token, a_patch, room, *, run, samples) -> TokenBudget:
    """The budget found on a machine where a pack needs what `used_by` says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_budget, "peak_bytes", lambda work: used_by(work.args[1], fixed, a_token, a_patch))
        patch.setattr(token_budget, "free_bytes", lambda: room / 0.8)
        return tokens_that_fit(run, SimpleNamespace(bytes_to_come=0), samples, groups=10)


@settings(max_examples=40)
@given(**MEMORY)
def test_the_budget_found_fits_and_thrice_as_much_would_not(fixed, a_token, a_patch, room, ranks, encoder, samples):
    run = run_of(ranks, encoder)
    found = budget_for(fixed, a_token, a_patch, room, run=run, samples=samples)
    probes = (samples[0], replace(samples[1], group_size=1, max_new_tokens=1))

    def uses(size: int) -> int:
        packs = [pack_of(sample, size, run.filler, found.tokens_per_patch) for sample in probes]
        return max(used_by(pack, fixed, a_token, a_patch) for pack in packs)

    smallest = max(sample.smallest(found.tokens_per_patch) for sample in samples)
    most = 10 * max(sample.largest(found.tokens_per_patch) for sample in samples)
    assert smallest <= found.tokens <= most and uses(found.tokens) <= room
    assert 3 * found.tokens > max(size for size in range(smallest, most + 1, 50) if uses(size) <= room)


@settings(max_examples=40)
@given(**MEMORY, drawn=st.lists(st.tuples(st.booleans(), st.lists(st.integers(1, 20), min_size=1, max_size=4)), max_size=20))
def test_a_micro_batch_of_any_mix_of_text_and_pictures_costs_no_more_than_the_budget_and_fits(
    fixed, a_token, a_patch, room, drawn, ranks, encoder, samples
):
    run = run_of(ranks, encoder)
    found = budget_for(fixed, a_token, a_patch, room, run=run, samples=samples)
    groups = [(samples[has_picture].prompt, lengths) for has_picture, lengths in drawn]
    sizes = [(prompt_cost(prompt, found.tokens_per_patch), lengths) for prompt, lengths in groups]
    for piece in split_to_budget(sizes, found.tokens):
        assert sum(sizes[number][0] + sum(sizes[number][1][part]) for number, part in piece) <= found.tokens
        pack = pack_groups([(groups[n][0], [[0] * length for length in groups[n][1][part]]) for n, part in piece], run.filler)
        assert used_by(pack, fixed, a_token, a_patch) <= room + used_by(pack_groups([], run.filler), 0, a_token, a_patch)


def test_pictures_that_need_more_than_their_tokens_make_a_budget_that_counts_them(ranks, encoder, samples):
    run = run_of(ranks, encoder)
    free = budget_for(0, 1000, 0, 10**6, run=run, samples=samples)
    dear = budget_for(0, 1000, 1000, 10**6, run=run, samples=samples)
    assert free.tokens_per_patch == 0.0
    assert 0.8 < dear.tokens_per_patch < 1.2


def test_where_not_even_one_response_fits_it_says_what_to_set(tiny_dense, ranks, encoder, samples, monkeypatch):
    monkeypatch.setattr(token_budget, "free_bytes", lambda: 0)
    with pytest.raises(RuntimeError, match="of one response and its prompt, 47 tokens, in 0.0 GiB; set gradient_checkpointing"):
        tokens_that_fit(run_of(ranks, encoder), open_policy(tiny_dense, ranks), samples, groups=2)


def test_a_pass_has_the_tokens_that_are_asked_for_or_little_less(samples, encoder):
    for sample in samples:
        for size in (sample.smallest(0.0), sample.largest(0.0), 3 * sample.largest(0.0) + 50):
            pack = pack_of(sample, size, encoder.filler())
            assert 0 <= size - (len(pack.tokens) - 2 * pack.filler) <= sample.smallest(0.0)  # the filler has two tokens


def test_without_a_prompt_a_number_is_asked_for(ranks, encoder):
    with pytest.raises(RuntimeError, match="set a number"):
        tokens_that_fit(run_of(ranks, encoder), SimpleNamespace(bytes_to_come=0), [], groups=2)


def test_with_memory_in_plenty_whole_mini_batches_fit_and_the_policy_stays_what_it_was(
    tiny_dense, pictures, ranks, encoder, samples
):
    policy, other = open_policy(tiny_dense, ranks, zero_stage=1), open_policy(tiny_dense, ranks, zero_stage=1)
    before = weights_of(policy)
    found = tokens_that_fit(run_of(ranks, encoder), policy, samples, groups=2)
    assert found.tokens >= 2 * max(sample.largest(found.tokens_per_patch) for sample in samples) / 1.1
    assert all(torch.equal(weight, before[name]) for name, weight in weights_of(policy).items())
    minibatches = fixed_minibatches(tiny_dense, pictures, ranks)
    assert losses_of(policy, minibatches, 4) == losses_of(other, minibatches, 4)


def test_the_passes_found_are_told_with_what_they_are_for(monkeypatch, capsys):
    monkeypatch.setattr("vlrl.trainer.token_budget.tokens_that_fit", lambda *_, **__: TokenBudget(8576, 0.31))
    run = SimpleNamespace(
        config=SimpleNamespace(policy=SimpleNamespace(max_tokens_per_micro_batch="auto")), ranks=SimpleNamespace(is_first=True)
    )
    policy = SimpleNamespace(max_tokens_per_micro_batch=0)
    choose_token_budget(run, policy, list, groups=2, phase="cold start")
    assert (policy.max_tokens_per_micro_batch, policy.tokens_per_patch) == (8576, 0.31)
    sentence = "Largest micro-batch for the cold start that fits in memory: 8576 tokens; a patch of an image counts as 0.31\n"
    assert sentence in capsys.readouterr().out
