"""The loss head is the plain formula, whatever its tiles; its gradients are exact, and unbiased in bfloat16."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vlrl.models import logprob_head as head
from vlrl.models.logprob_head import LogProbHead


def made_up(tokens=13, size=8, vocabulary=29, dtype=torch.float64, seed=0):
    """Hidden states, a weight, targets and temperatures, and two banned ids."""
    numbers = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, size, generator=numbers, dtype=torch.float64).to(dtype)
    weight = torch.randn(vocabulary, size, generator=numbers, dtype=torch.float64).to(dtype)
    banned = torch.zeros(vocabulary, dtype=torch.bool)
    banned[[3, vocabulary - 1]] = True
    targets = torch.randint(4, vocabulary - 1, (tokens,), generator=numbers)
    temperature = 0.5 + torch.rand(tokens, generator=numbers)
    return hidden, weight, targets, temperature, banned


def plain(hidden, weight, targets, temperature, banned):
    logits = (hidden @ weight.T / temperature[:, None]).masked_fill(banned, -torch.inf)
    logprobs = logits.log_softmax(dim=1)
    return logprobs.gather(1, targets[:, None])[:, 0], torch.special.entr(logprobs.exp()).sum(dim=1)


def gradients(function, hidden, weight, *rest):
    leaves = [hidden.clone().requires_grad_(), torch.nn.Parameter(weight.clone())]
    logprobs, _ = function(*leaves, *rest)
    (logprobs * torch.linspace(-1, 2, len(logprobs))).sum().backward()
    return [leaf.grad for leaf in leaves]


def fused(hidden, weight, *rest):
    return LogProbHead(weight)(hidden, *rest)


@given(tokens=st.integers(1, 20), vocabulary=st.integers(1, 40), seed=st.integers(0, 5))
def test_any_tiles_give_the_plain_log_probs_entropies_and_gradients(tokens, vocabulary, seed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head, "_MOST_TOKENS", tokens)
        patch.setattr(head, "_tile_of", lambda *_: vocabulary)
        inputs = [x.float() if x.is_floating_point() else x for x in made_up(seed=seed)]
        ours = fused(inputs[0], torch.nn.Parameter(inputs[1]), *inputs[2:])
        for mine, theirs in zip(ours, plain(*made_up(seed=seed)), strict=True):
            torch.testing.assert_close(mine.double(), theirs, rtol=0, atol=1e-5)
        for mine, theirs in zip(gradients(fused, *inputs), gradients(plain, *made_up(seed=seed)), strict=True):
            torch.testing.assert_close(mine.double(), theirs, rtol=0, atol=2e-5)


def test_a_token_of_huge_logits_has_no_nan():
    hidden, weight, targets, temperature, banned = (x.float() if x.is_floating_point() else x for x in made_up())
    logprobs, entropies = fused(1e4 * hidden, torch.nn.Parameter(weight), targets, temperature, banned)
    assert logprobs.isfinite().all() and (entropies >= -1e-2).all() and entropies.isfinite().all()


def test_a_weight_that_is_not_trained_gets_no_gradient():
    hidden, weight, *rest = (x.float() if x.is_floating_point() else x for x in made_up())
    frozen = torch.nn.Parameter(weight, requires_grad=False)
    logprobs, entropies = fused(hidden.requires_grad_(), frozen, *rest)
    logprobs.sum().backward()
    assert frozen.grad is None and hidden.grad is not None and not entropies.requires_grad


def test_the_gradient_in_bfloat16_is_no_more_biased_over_a_hundred_batches_than_its_inputs(monkeypatch):
    monkeypatch.setattr(head, "_MOST_TOKENS", 64)
    monkeypatch.setattr(head, "_tile_of", lambda *_: 64)
    off, length = 0.0, 0.0
    for seed in range(100):
        inputs = made_up(tokens=256, size=16, vocabulary=512, dtype=torch.bfloat16, seed=seed)
        exact = gradients(plain, *(x.double() if x.is_floating_point() else x for x in inputs))[1]
        ours = gradients(fused, *inputs)[1].double()
        assert (ours - exact).norm() < 5e-3 * exact.norm()
        off, length = off + ((ours - exact) * exact).sum(), length + exact.square().sum()
    assert abs(off / length) < 2e-4
