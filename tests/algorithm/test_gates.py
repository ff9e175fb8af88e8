"""The gates as functions of the ratio alone, in float64: values, slopes, bounds and the tables worked out by hand."""

import math
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vlrl.algorithm.gates import Gate, grpo, gspo, gspo_token, make_gate, pg, sapo
from vlrl.algorithm.ratios import LOG_RATIO_BOUND, k3, log_ratio, sequence_mean
from vlrl.config import AlgorithmConfig

TAUS = st.floats(0.25, 4)
RATIOS = st.floats(0.01, 6)


def curve(gate: Gate, ratios: list[float], advantage: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """f, f' and f'' at each ratio; each token is its own sequence."""
    ratio = torch.tensor(ratios, dtype=torch.float64, requires_grad=True)
    f = gate(ratio.log(), torch.full_like(ratio, advantage), torch.arange(len(ratio)), len(ratio))
    (slope,) = torch.autograd.grad(f.sum(), ratio, create_graph=True)
    bend = torch.autograd.grad(slope.sum(), ratio)[0] if slope.requires_grad else torch.zeros_like(slope)
    return f.detach(), slope.detach(), bend


def close(value: Tensor, expected: object, tolerance: float = 1e-9) -> bool:
    return torch.allclose(value, torch.as_tensor(expected, dtype=torch.float64), rtol=0, atol=tolerance)


@given(TAUS)
@settings(max_examples=30)
def test_sapo_on_policy_is_two_over_tau_with_slope_one_and_no_bend(tau):
    f, slope, bend = curve(sapo(tau, tau), [1.0])
    assert close(f, [2 / tau]) and close(slope, [1.0]) and close(bend, [0.0])


@given(TAUS, RATIOS)
@settings(max_examples=30)
def test_sapo_is_a_tanh_with_slope_sech_squared(tau, ratio):
    f, slope, _ = curve(sapo(tau, tau), [ratio])
    tanh = math.tanh(tau * (ratio - 1) / 2)
    assert close(f, [2 / tau * (1 + tanh)]) and close(slope, [1 - tanh**2])


@given(TAUS, RATIOS)
@settings(max_examples=30)
def test_sapo_solves_its_logistic_equation(tau, ratio):
    f, slope, _ = curve(sapo(tau, tau), [ratio])
    assert close(slope, tau * f * (1 - tau * f / 4))


@given(TAUS, st.floats(0, 0.99))
@settings(max_examples=30)
def test_sapo_is_symmetric_about_the_on_policy_ratio(tau, d):
    f, slope, _ = curve(sapo(tau, tau), [1 + d, 1 - d])
    assert close(f.sum(), 4 / tau) and close(slope[0], slope[1])


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_half_of_sapos_weight_lies_above_the_on_policy_ratio_and_integrates_to_two_over_tau(tau):
    ratios = torch.linspace(1, 1 + 40 / tau, 4001, dtype=torch.float64)
    _, weight, _ = curve(sapo(tau, tau), ratios.tolist())
    assert torch.trapezoid(weight, ratios).item() == pytest.approx(2 / tau, rel=1e-6)


@given(TAUS, st.floats(-0.5, 0.5))
@settings(max_examples=30)
def test_sapo_follows_its_taylor_series_to_the_seventh_order(tau, d):
    f, _, _ = curve(sapo(tau, tau), [1 + d])
    series = 2 / tau + d - tau**2 * d**3 / 12 + tau**4 * d**5 / 120
    assert abs(f.item() - series) <= 17 * tau**6 * abs(d) ** 7 / 20160 + 1e-9


@pytest.mark.parametrize(("tau", "low", "high"), [(1.0, 1.0757657, 4.0), (1.05, 0.9875242, 3.8095238)])
def test_sapo_is_bounded_from_both_sides(tau, low, high):
    f, _, _ = curve(sapo(tau, tau), [1e-9, 30.0])
    assert close(f, [low, high], 1e-6)
    assert low <= curve(sapo(tau, tau), [0.3])[0].item() < high


@pytest.mark.parametrize(
    ("tau", "weights"),
    [
        (1.0, [0.940015, 0.990066, 0.990066, 0.940015, 0.786448, 0.419974, 0.070651, 0.000494]),
        (1.05, [0.934140, 0.989056, 0.989056, 0.934140, 0.768110, 0.388779, 0.058223, 0.000315]),
    ],
)
def test_sapos_weights_match_the_worked_table(tau, weights):
    _, slope, _ = curve(sapo(tau, tau), [0.5, 0.8, 1.2, 1.5, 2, 3, 5, 10])
    assert close(slope, weights, 1e-6)


@pytest.mark.parametrize(
    ("tau", "peak", "at"), [(1.0, 1.5746747, 2.0600903), (1.05, 1.5362556, 1.9916677), (0.95, 1.6175103, 2.1362)]
)
def test_the_gradient_coefficient_of_a_token_peaks_about_ratio_two(tau, peak, at):
    ratios = torch.linspace(1.5, 2.5, 10001, dtype=torch.float64)
    coefficient = ratios * curve(sapo(tau, tau), ratios.tolist())[1]
    assert coefficient.max().item() == pytest.approx(peak, abs=1e-6)
    assert ratios[coefficient.argmax()].item() == pytest.approx(at, abs=2e-4)


@given(RATIOS, st.sampled_from([1.0, -1.0]))
@settings(max_examples=20)
def test_sapo_with_a_vanishing_tau_is_unclipped_importance_sampling(ratio, advantage):
    assert close(curve(sapo(1e-4, 1e-4), [ratio], advantage)[1], [1.0], 1e-6)


def test_sapo_takes_tau_neg_unless_the_advantage_is_above_zero():
    gate = sapo(1.0, 2.0)
    assert [curve(gate, [1.0], advantage)[0].item() for advantage in (0.5, 0.0, -0.5)] == pytest.approx([2.0, 1.0, 1.0])


def test_grpo_closes_only_in_the_direction_of_its_advantage_and_sapo_never():
    _, up, _ = curve(grpo(0.2, 0.27), [1.5, 0.5], 1.0)
    _, down, _ = curve(grpo(0.2, 0.27), [1.5, 0.5], -1.0)
    assert up.tolist() == pytest.approx([0, 1]) and down.tolist() == pytest.approx([1, 0])
    assert all((curve(sapo(), [1.5, 0.5], advantage)[1] > 0.9).all() for advantage in (1.0, -1.0))


def test_grpo_is_the_usual_minimum_of_two_products():
    ratio = torch.linspace(0.1, 3, 50, dtype=torch.float64)
    for advantage in (1.3, -0.7):
        f, _, _ = curve(grpo(0.2, 0.27), ratio.tolist(), advantage)
        assert close(f * advantage, torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.27) * advantage))


def test_on_a_sequence_with_one_outlier_gspo_drops_all_grpo_the_outlier_and_sapo_none():
    log_r = torch.tensor([1.02, 1.01, 0.99, 2.5]).log().requires_grad_()
    kept = {}
    for name, gate in (("gspo", gspo(3e-4, 4e-4)), ("grpo", grpo(0.2, 0.2)), ("sapo", sapo())):
        f = gate(log_r, torch.ones(4), torch.zeros(4, dtype=torch.long), 1)
        kept[name] = (torch.autograd.grad(f.sum(), log_r)[0] != 0).tolist()
    assert kept == {"gspo": [False] * 4, "grpo": [True, True, True, False], "sapo": [True] * 4}


def test_every_token_has_its_sequences_gspo_ratio_and_its_own_gradient():
    log_r = torch.tensor([0.02, -0.5, 0.04, 0.1], requires_grad=True)
    sequence = torch.tensor([0, 1, 0, 1])
    f = gspo_token(10.0, 10.0)(log_r, torch.ones(4), sequence, 2)
    ratios = torch.tensor([0.03, -0.2, 0.03, -0.2]).exp()
    assert torch.allclose(f, ratios)
    assert torch.allclose(torch.autograd.grad(f[1], log_r)[0], torch.tensor([0, ratios[1].item(), 0, 0]))


@pytest.mark.parametrize("tau", [0.0, -1.0, math.nan])
def test_a_tau_that_is_not_positive_is_refused_by_name(tau):
    with pytest.raises(ValueError, match="tau_pos"):
        sapo(tau, 1.0)
    with pytest.raises(ValueError, match="tau_neg"):
        sapo(1.0, tau)


def test_the_run_file_and_make_gate_know_the_same_gates():
    for name in get_args(AlgorithmConfig.model_fields["gate"].annotation):
        assert callable(make_gate(name, tau_pos=1.0, tau_neg=1.0, clip_low=0.1, clip_high=0.1))
    with pytest.raises(ValueError, match="known gates: " + ", ".join(get_args(AlgorithmConfig.model_fields["gate"].annotation))):
        make_gate("none", tau_pos=1.0, tau_neg=1.0, clip_low=0.1, clip_high=0.1)


def test_make_gate_gives_each_gate_the_settings_that_it_names():
    settings_ = {"tau_pos": 0.5, "tau_neg": 2.0, "clip_low": 0.1, "clip_high": 0.3}
    for advantage in (1.0, -1.0):
        for name, gate in (("sapo", sapo(0.5, 2.0)), ("grpo", grpo(0.1, 0.3)), ("gspo", gspo(0.1, 0.3))):
            made = curve(make_gate(name, **settings_), [0.5, 1.0, 2.0], advantage)[0]
            assert torch.equal(made, curve(gate, [0.5, 1.0, 2.0], advantage)[0])
    with pytest.raises(ValueError, match="sapo, grpo, gspo"):
        make_gate("ppo", **settings_)


def test_log_ratios_are_bounded_and_single_precision_whatever_comes_in():
    ratio = log_ratio(torch.tensor([0.0, -200.0, -1.0], dtype=torch.bfloat16), torch.tensor([-89.0, -1.0, -1.5]))
    assert ratio.dtype == torch.float32 and ratio.tolist() == [LOG_RATIO_BOUND, -LOG_RATIO_BOUND, 0.5]


@given(st.floats(-5, 5))
def test_k3_is_never_negative_and_exact_next_to_the_on_policy_ratio(z):
    assert k3(torch.tensor(z, dtype=torch.float64)) >= 0
    assert k3(torch.tensor(z / 5e4, dtype=torch.float64)).item() == pytest.approx((z / 5e4) ** 2 / 2, rel=1e-4, abs=1e-15)


def test_a_sequence_mean_is_over_the_sequences_own_tokens():
    assert sequence_mean(torch.tensor([1.0, 5.0, 3.0]), torch.tensor([0, 2, 0]), 3).tolist() == [2.0, 0.0, 5.0]


def test_without_a_gate_the_ratio_is_what_counts():
    f, weight, _ = curve(pg(), [0.1, 1.0, 7.0])
    assert f.tolist() == pytest.approx([0.1, 1.0, 7.0]) and weight.tolist() == pytest.approx([1.0] * 3)


@given(st.lists(st.floats(-0.02, 0.02), min_size=2, max_size=6), st.sampled_from([1.0, -1.0]))
@settings(max_examples=50)
def test_gspos_two_forms_have_the_same_value_and_the_same_gradient_of_a_sequence_mean(log_ratios, advantage):
    results = []
    for form in (gspo(), gspo_token()):
        log_r = torch.tensor(log_ratios, dtype=torch.float64, requires_grad=True)
        sequence = torch.zeros(len(log_ratios), dtype=torch.long)
        f = form(log_r, torch.full_like(log_r, advantage).detach(), sequence, 1)
        (gradient,) = torch.autograd.grad(f.mean(), log_r)
        results.append((f.detach(), gradient))
    assert all(torch.allclose(one, other, atol=1e-12) for one, other in zip(*results, strict=True))


def test_a_tau_may_be_each_sequence_s_own():
    gate = sapo([1.0, 2.0], [0.5, 3.0])
    log_r, sequence = torch.tensor([0.3, 0.3, 0.3]), torch.tensor([0, 1, 1])
    f = gate(log_r, torch.tensor([1.0, 1.0, -1.0]), sequence, 2)
    single = [sapo(tau, tau)(log_r[:1], torch.ones(1), torch.zeros(1, dtype=torch.long), 1).item() for tau in (1.0, 2.0, 3.0)]
    assert f.tolist() == pytest.approx(single)
