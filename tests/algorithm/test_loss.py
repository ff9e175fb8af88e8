"""The policy loss of packs: gradients by formula, normalisation, and what must not change it."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vlrl.algorithm.gates import Gate, grpo, gspo, gspo_token, pg, sapo
from vlrl.algorithm.loss import policy_loss

GATES = {"sapo": sapo(), "grpo": grpo(), "gspo": gspo(0.1, 0.1), "gspo_token": gspo_token(0.1, 0.1), "pg": pg()}
LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=6)
SEEDS = st.integers(0, 2**31)


@dataclass
class Minibatch:
    logp: Tensor
    old_logp: Tensor
    engine_logp: Tensor
    reference_logp: Tensor
    advantages: Tensor
    sequence: Tensor


def minibatch(lengths: list[int], seed: int = 0, *, on_policy: bool = False) -> Minibatch:
    generator = torch.Generator().manual_seed(seed)
    num_tokens = sum(lengths)
    old = -torch.rand(num_tokens, generator=generator) * 3
    near = [old + 0.4 * torch.randn(num_tokens, generator=generator) for _ in range(3)]
    return Minibatch(
        logp=(old.clone() if on_policy else near[0]).requires_grad_(),
        old_logp=old,
        engine_logp=old.clone() if on_policy else near[1],
        reference_logp=near[2],
        advantages=torch.randn(len(lengths), generator=generator),
        sequence=torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths, dtype=torch.long)),
    )


def loss_of(batch: Minibatch, keep: list[int] | None = None, *, gate: Gate = GATES["sapo"], num_scored: int = 0, kl=0.0):
    """The loss of the sequences `keep`, in that order, as one pack; by default of all, over their number."""
    keep = list(range(len(batch.advantages))) if keep is None else keep
    spots = [torch.nonzero(batch.sequence == index).flatten() for index in keep]
    tokens = torch.cat([*spots, torch.zeros(0, dtype=torch.long)])
    return policy_loss(
        batch.logp[tokens],
        batch.old_logp[tokens],
        batch.engine_logp[tokens],
        batch.advantages[keep],
        torch.repeat_interleave(torch.arange(len(keep)), torch.tensor([len(spot) for spot in spots], dtype=torch.long)),
        num_scored=num_scored or len(batch.advantages),
        gate=gate,
        tis_cap=1.5,
        reference_logp=batch.reference_logp[tokens] if kl else None,
        kl_coefficient=kl,
    )[0]


def gradient(loss: Tensor, batch: Minibatch) -> Tensor:
    return torch.autograd.grad(loss, batch.logp)[0]


def per_token(batch: Minibatch) -> tuple[Tensor, Tensor, Tensor]:
    """Each token's advantage, its sequence's length, and the engine's capped weight."""
    lengths = torch.bincount(batch.sequence)[batch.sequence]
    return batch.advantages[batch.sequence], lengths, (batch.old_logp - batch.engine_logp).exp().clamp(max=1.5)


@given(LENGTHS, SEEDS)
@settings(max_examples=30)
def test_a_tokens_gradient_is_minus_advantage_times_weight_times_ratio_over_group_and_length(lengths, seed):
    batch = minibatch(lengths, seed)
    advantage, length, engine_weight = per_token(batch)
    ratio = (batch.logp - batch.old_logp).exp().detach()
    p = torch.sigmoid(torch.where(advantage > 0, 1.0, 1.05) * (ratio - 1))
    expected = -engine_weight * advantage * 4 * p * (1 - p) * ratio / (len(lengths) * length)
    assert torch.allclose(gradient(loss_of(batch), batch), expected, atol=1e-6)


def test_a_tokens_logit_gradient_sums_to_zero_over_the_vocabulary():
    torch.manual_seed(0)
    logits, chosen = torch.randn(5, 7, requires_grad=True), torch.tensor([0, 6, 3, 2, 2])
    logp = logits.log_softmax(-1).gather(1, chosen[:, None]).squeeze(1)
    old = logp.detach() + 0.3 * torch.randn(5)
    advantages, sequence = torch.tensor([0.8, -1.2]), torch.tensor([0, 0, 1, 1, 1])
    loss, _ = policy_loss(logp, old, old, advantages, sequence, num_scored=2, gate=sapo(), tis_cap=2.0)
    (by_logit,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (by_logp,) = torch.autograd.grad(loss, logp)
    expected = by_logp[:, None] * (torch.nn.functional.one_hot(chosen, 7) - logits.softmax(-1))
    assert torch.allclose(by_logit, expected, atol=1e-6)
    assert torch.allclose(by_logit.sum(-1), torch.zeros(5), atol=1e-6) and (by_logp != 0).all()


@pytest.mark.parametrize("gate", [sapo(0.3, 3.0), *GATES.values()])
def test_on_policy_every_gate_gives_the_plain_policy_gradient(gate):
    batch = minibatch([3, 1, 5], on_policy=True)
    advantage, length, _ = per_token(batch)
    assert torch.allclose(gradient(loss_of(batch, gate=gate), batch), -advantage / (3 * length), atol=1e-6)


def test_the_on_policy_loss_value_is_set_by_the_taus_alone():
    batch = minibatch([3, 1, 5, 2], on_policy=True)
    batch.advantages = torch.tensor([1.0, 1.0, -1.0, -1.0])
    assert loss_of(batch).item() == pytest.approx(-0.0476190, abs=1e-6)


def test_without_advantage_there_is_no_loss_and_no_gradient_but_a_place_in_the_denominator():
    batch = minibatch([3, 4])
    batch.advantages[1] = 0.0
    loss = loss_of(batch)
    assert (gradient(loss, batch)[batch.sequence == 1] == 0).all()
    assert loss.item() == pytest.approx(loss_of(batch, [0], num_scored=1).item() / 2)
    assert loss.item() == pytest.approx(loss_of(batch, [0], num_scored=2).item())


@given(LENGTHS, SEEDS, st.floats(0.1, 10))
@settings(max_examples=20)
def test_the_loss_is_proportional_to_the_advantages(lengths, seed, scale):
    batch = minibatch(lengths, seed)
    once = loss_of(batch).item()
    batch.advantages *= scale
    assert loss_of(batch).item() == pytest.approx(scale * once, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", GATES)
@given(lengths=LENGTHS, seed=SEEDS, data=st.data())
@settings(max_examples=20)
def test_however_a_minibatch_is_split_into_packs_and_ordered_loss_and_gradient_are_the_same(name, lengths, seed, data):
    batch = minibatch(lengths, seed)
    order = data.draw(st.permutations(range(len(lengths))))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(lengths)), max_size=3)))
    bounds = [0, *cuts, len(lengths)]
    packs = [list(order[start:stop]) for start, stop in zip(bounds, bounds[1:], strict=False)]  # some may be empty
    whole = loss_of(batch, gate=GATES[name], kl=0.1)
    parts = sum(loss_of(batch, pack, gate=GATES[name], kl=0.1) for pack in packs)
    assert torch.allclose(whole, parts, atol=1e-5)
    assert torch.allclose(gradient(whole, batch), gradient(parts, batch), atol=1e-6)


def test_tokens_of_a_pack_may_lie_in_any_order():
    batch = minibatch([3, 1, 5])
    shuffled = torch.randperm(9, generator=torch.Generator().manual_seed(3))
    fields = [values[shuffled] for values in (batch.logp, batch.old_logp, batch.engine_logp)]
    for gate in GATES.values():
        loss, _ = policy_loss(*fields, batch.advantages, batch.sequence[shuffled], num_scored=3, gate=gate, tis_cap=1.5)
        assert torch.allclose(loss, loss_of(batch, gate=gate), atol=1e-6)


def test_two_equal_minibatches_average_to_the_loss_of_both_together():
    batch = minibatch([3, 1, 5, 2])
    halves = (loss_of(batch, [0, 3], num_scored=2) + loss_of(batch, [1, 2], num_scored=2)) / 2
    assert torch.allclose(halves, loss_of(batch), atol=1e-6)


def test_sequences_of_unequal_length_weigh_the_same_unlike_in_a_mean_over_tokens():
    batch = minibatch([1, 9], on_policy=True)
    batch.advantages = torch.tensor([1.0, 1.0])
    by_sequence = torch.zeros(2).index_add(0, batch.sequence, gradient(loss_of(batch), batch))
    assert by_sequence.tolist() == pytest.approx([-0.5, -0.5])  # a mean over tokens would give -0.1 and -0.9


def test_a_rollout_left_out_as_unscored_gets_no_gradient_and_is_in_no_mean():
    batch = minibatch([3, 2, 4])
    loss = loss_of(batch, [0, 2], num_scored=2)
    assert (gradient(loss, batch) == 0).tolist() == (batch.sequence == 1).tolist()
    with torch.no_grad():
        batch.logp[batch.sequence == 1] += 5.0
    assert torch.equal(loss_of(batch, [0, 2], num_scored=2), loss)


def test_a_pack_without_tokens_is_a_zero_that_can_be_differentiated():
    for gate in GATES.values():
        batch = minibatch([2])
        loss = loss_of(batch, [], gate=gate, kl=0.1)
        assert loss.item() == 0 and gradient(loss, batch).tolist() == [0, 0]


@pytest.mark.parametrize("gap", [89.0, -89.0, 20.0])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_extreme_ratios_have_finite_losses_and_gradients(gap, advantage):
    for gate in GATES.values():
        logp, old = torch.tensor([gap - 100.0], requires_grad=True), torch.tensor([-100.0])
        loss, _ = policy_loss(
            logp,
            old,
            old - gap,
            torch.tensor([advantage]),
            torch.tensor([0]),
            num_scored=1,
            gate=gate,
            tis_cap=2.0,
            reference_logp=old,
            kl_coefficient=0.1,
        )
        assert loss.isfinite() and torch.autograd.grad(loss, logp)[0].isfinite().all()


def test_sapo_passes_no_gradient_from_ratio_nineteen_on():
    logp = torch.tensor([19.0, 40.0]).log().requires_grad_()
    for advantage in (1.0, -1.0):
        args = (torch.zeros(2), torch.zeros(2), torch.full((2,), advantage), torch.arange(2))
        loss, _ = policy_loss(logp, *args, num_scored=2, gate=sapo(), tis_cap=2.0)
        assert torch.autograd.grad(loss, logp)[0].tolist() == [0, 0]


def test_the_engines_weight_is_capped_constant_and_outside_the_gate():
    logp = torch.tensor([-1.0, -1.0], requires_grad=True)
    old = torch.tensor([-1.0, -1.0], requires_grad=True)
    engine = torch.tensor([-1.2, -9.0], requires_grad=True)
    loss, _ = policy_loss(logp, old, engine, torch.ones(2), torch.arange(2), num_scored=2, gate=sapo(), tis_cap=2.0)
    expected = -torch.tensor([0.2, 0.0]).exp() / 2
    expected[1] = -2.0 / 2
    grads = torch.autograd.grad(loss, (logp, old, engine), allow_unused=True)
    assert torch.allclose(grads[0], expected) and grads[1] is None and grads[2] is None


def test_masked_engine_weights_drop_the_tokens_outside_both_bounds():
    logp = torch.zeros(4, requires_grad=True)
    engine = -torch.tensor([0.4, 0.6, 1.9, 2.1]).log()  # old / engine, as pi_old is 1
    options = {"num_scored": 4, "gate": sapo(), "tis_cap": 2.0, "tis_floor": 0.5, "drop_outside": True}
    loss, _ = policy_loss(logp, torch.zeros(4), engine, torch.ones(4), torch.arange(4), **options)
    assert torch.allclose(torch.autograd.grad(loss, logp)[0], -torch.tensor([0.0, 0.6, 1.9, 0.0]) / 4)


def test_a_denominator_makes_every_token_weigh_the_same():
    batch = minibatch([1, 5])
    args = (batch.logp, batch.logp.detach(), batch.logp.detach(), torch.ones(2), batch.sequence)
    loss, _ = policy_loss(*args, num_scored=2, gate=sapo(), tis_cap=2.0, denominator=6)
    assert torch.allclose(torch.autograd.grad(loss, batch.logp)[0], torch.full((6,), -1 / 6))


def test_the_kl_term_has_the_policy_terms_normalisation_and_pulls_towards_the_reference():
    batch = minibatch([1, 4])
    batch.advantages = torch.zeros(2)
    lengths = torch.bincount(batch.sequence)[batch.sequence]
    gap = (batch.reference_logp - batch.logp).detach()
    loss = loss_of(batch, kl=0.3)
    assert loss.item() == pytest.approx((0.3 * (gap.exp() - gap - 1) / lengths).sum().item() / 2, rel=1e-5)
    assert torch.allclose(gradient(loss, batch), 0.3 * (1 - gap.exp()) / lengths / 2, atol=1e-6)


def test_a_minibatch_without_scored_rollouts_and_a_kl_term_without_reference_are_refused():
    batch = minibatch([2])
    args = (batch.logp, batch.old_logp, batch.engine_logp, batch.advantages, batch.sequence)
    with pytest.raises(AssertionError, match="without a scored rollout"):
        policy_loss(*args, num_scored=0, gate=sapo(), tis_cap=2.0)
    with pytest.raises(AssertionError, match="reference"):
        policy_loss(*args, num_scored=1, gate=sapo(), tis_cap=2.0, kl_coefficient=0.1)
