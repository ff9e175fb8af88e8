"""The chunked delta rule equals transformers' own, token by token, for sequences of any lengths from any states."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.recurrent import delta_rule_one_by_one, stand_in_fla
from vlrl.models.delta_rule import Chunked, Varlen, delta_rule, kernel_fault

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


def test_a_cpu_has_the_rule_and_a_gpu_needs_flash_linear_attention(monkeypatch):
    assert isinstance(delta_rule([3], torch.device("cpu")), Chunked) and not kernel_fault(torch.device("cpu"))
    assert "pip install flash-linear-attention==0.5.2" in kernel_fault(torch.device("cuda"))
    monkeypatch.setattr("vlrl.models.delta_rule.find_spec", lambda name: name == "fla" or None)
    assert not kernel_fault(torch.device("cuda"))
