"""The chunked delta rule equals transformers' own, token by token, for sequences of any lengths from any states."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.recurrent import delta_rule_one_by_one, stand_in_fla
from vlrl.memory.live_bytes import LiveBytes
from vlrl.models.delta_rule import Chunked, Varlen, delta_rule, kernel_fault, next_token
from vlrl.models.kernels import counted_for

KEY_HEADS, HEADS, KEY, VALUE = 2, 4, 6, 10


def made_up(tokens):
    """query, key, value, g and beta of a row, with decays from slow to fast."""
    numbers = torch.Generator().manual_seed(tokens)
    shapes = [(tokens, KEY_HEADS, KEY), (tokens, KEY_HEADS, KEY), (tokens, HEADS, VALUE), (tokens, HEADS), (tokens, HEADS)]
    q, k, v, g, b = (torch.randn(shape, generator=numbers) for shape in shapes)
    return [x.requires_grad_() for x in (q, k, v, -g.exp() * 0.3, b.sigmoid())]


def with_gradients(found, inputs):
    weights = [torch.randn(x.shape, generator=torch.Generator().manual_seed(1)) for x in found]
    return [*found, *torch.autograd.grad(sum((x * w).sum() for x, w in zip(found, weights, strict=True)), inputs)]


@given(st.lists(st.integers(1, 150), min_size=1, max_size=6))
@settings(max_examples=25)
def test_outputs_states_and_gradients_equal_those_token_by_token(lengths):
    inputs = made_up(sum(lengths))
    states = torch.randn(len(lengths), HEADS, KEY, VALUE, generator=torch.Generator().manual_seed(2)).requires_grad_()
    ours = with_gradients(Chunked.of(lengths, states.device)(*inputs, states=states, last=True), [*inputs, states])
    theirs = with_gradients(delta_rule_one_by_one(lengths, *inputs, states), [*inputs, states])
    for mine, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=2e-5)


@given(st.integers(1, 8))
def test_the_next_token_of_each_sequence_equals_a_sequence_of_one_token(sequences):
    inputs = [x.detach() for x in made_up(sequences)]
    states = torch.randn(sequences, HEADS, KEY, VALUE, generator=torch.Generator().manual_seed(3))
    expected = Chunked.of([1] * sequences, states.device)(*inputs, states=states, last=True)
    torch.testing.assert_close((next_token(*inputs, states), states), expected, rtol=1e-4, atol=2e-5)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8))
def test_without_states_sequences_start_from_zeros_and_without_last_none_are_kept(lengths):
    inputs, rule = made_up(sum(lengths)), Chunked.of(lengths, torch.device("cpu"))
    zeros = torch.zeros(len(lengths), HEADS, KEY, VALUE)
    out, last = rule(*inputs, states=None, last=False)
    assert last is None and torch.equal(out, rule(*inputs, states=zeros, last=True)[0])


def test_a_row_in_half_precision_is_computed_in_fp32_and_returned_in_half():
    inputs = [x.detach().bfloat16() for x in made_up(90)]
    rule = Chunked.of([70, 20], torch.device("cpu"))
    out, last = rule(*inputs, states=None, last=True)
    exact, states = rule(*(x.float() for x in inputs), states=None, last=True)
    assert out.dtype == torch.bfloat16 and torch.equal(out, exact.bfloat16())
    assert last.dtype == torch.float32 and torch.equal(last, states)


def test_flash_linear_attention_is_given_the_sequences_that_it_expects(monkeypatch):
    calls = stand_in_fla(monkeypatch)
    lengths = [70, 1, 20]
    inputs, states = made_up(91), torch.randn(3, HEADS, KEY, VALUE, generator=torch.Generator().manual_seed(2))
    for given_states in (None, states):
        rules = [kind.of(lengths, states.device) for kind in (Chunked, Varlen)]
        ours, theirs = (rule(*inputs, states=given_states, last=True) for rule in rules)
        for mine, expected in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-4, atol=2e-5)
    assert calls == [(3, False), (3, True)]


def test_what_is_counted_for_a_gpu_has_the_rule_s_shapes_and_takes_a_few_times_its_inputs_and_the_states_of_chunks():
    lengths, inputs = [70, 1, 20], [x.detach().requires_grad_() for x in made_up(91)]
    states = torch.zeros(3, HEADS, KEY, VALUE, requires_grad=True)
    ours = with_gradients(Chunked.of(lengths, states.device)(*inputs, states=states, last=True), [*inputs, states])
    with counted_for("cuda"), LiveBytes("cpu") as live:
        rule = delta_rule(lengths, states.device)
        found = rule(*inputs, states=states, last=True)
        kept = live.now - sum(x.nbytes for x in found)
        counted = [*found, *torch.autograd.grad(found, [*inputs, states], [torch.ones_like(x) for x in found])]
    assert [(x.shape, x.dtype) for x in counted] == [(x.shape, x.dtype) for x in ours]
    units, norms, decays, solved = 2 * KEY_HEADS * KEY, 2 * KEY_HEADS, HEADS, 64 * HEADS
    assert kept == pytest.approx(4 * 91 * (units + norms + decays + solved), abs=200)
    chunks = 4  # 70 tokens have two
    assert live.peak > kept + 2 * 4 * chunks * HEADS * KEY * VALUE


def test_a_cpu_has_the_rule_and_a_gpu_needs_flash_linear_attention(monkeypatch):
    assert isinstance(delta_rule([3], torch.device("cpu")), Chunked) and not kernel_fault(torch.device("cpu"))
    assert "pip install flash-linear-attention==0.5.2" in kernel_fault(torch.device("cuda"))
    monkeypatch.setattr("vlrl.models.delta_rule.find_spec", lambda name: name == "fla" or None)
    assert not kernel_fault(torch.device("cuda"))
