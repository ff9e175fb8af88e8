"""Diagnostics: the worked sequence, the gates' weights, and totals that add up."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrl.algorithm.diagnostics import add_histograms, diagnose, gate_weight, histograms, ratio_quantiles
from vlrl.algorithm.gates import grpo, gspo, sapo
from vlrl.algorithm.loss import LossTokens
from vlrl.telemetry.metrics import Key, Totals, combine, name_of, to_metrics

WORKED = [1.02, 1.01, 0.99, 2.5]


def tokens(ratios, *, advantages=(1.0,), sequence=None, engine_ratios=None) -> LossTokens:
    return LossTokens(
        log_ratio=torch.tensor(ratios).log(),
        engine_log_ratio=torch.tensor(engine_ratios or [1.0] * len(ratios)).log(),
        advantages=torch.tensor(advantages),
        sequence=torch.tensor(sequence or [0] * len(ratios), dtype=torch.long),
    )


def means(totals: Totals) -> dict[str, float]:
    return {name_of(key): value for key, value in to_metrics(totals).items()}


def metrics(these: LossTokens, gate=sapo(), tau=None) -> dict[str, float]:
    return means(diagnose(these, torch.zeros(len(these.sequence)), gate, ["sums"] * len(these.advantages), tau))


def log_gate(z: list[float], tau: float) -> torch.Tensor:
    """sech(tau z / 2)**2, which is SAPO's weight at r = 1 + z."""
    return gate_weight(tokens([1 + each for each in z]), sapo(tau, tau))


def test_the_worked_sequence_has_its_mean_variance_and_log_gates():
    z = torch.tensor(WORKED).log().tolist()
    found = metrics(tokens(WORKED))
    assert found["policy/abs_log_s"] == pytest.approx(0.2339983, abs=1e-6)
    assert math.exp(found["policy/abs_log_s"]) == pytest.approx(1.2636424, abs=1e-6)
    assert found["policy/log_ratio_var"] == pytest.approx(0.1552900, abs=1e-6)
    assert log_gate(z, 1.0).mean().item() == pytest.approx(0.9540446, abs=1e-6)
    assert log_gate([0.2339983], 1.0).item() == pytest.approx(0.9864352, abs=1e-6)


@given(st.lists(st.floats(-0.9, 2), min_size=1, max_size=8), st.sampled_from([0.5, 1.0, 2.0]))
@settings(max_examples=30)
def test_the_mean_log_gate_is_within_tau_squared_variance_quarters_of_the_sequence_gate(z, tau):
    mean = sum(z) / len(z)
    variance = metrics(tokens([math.exp(each) for each in z]))["policy/log_ratio_var"]
    assert abs(log_gate(z, tau).mean() - log_gate([mean], tau)).item() <= tau**2 / 4 * variance + 1e-5


def test_sapos_weight_is_four_p_times_one_minus_p_by_the_taus_of_each_sign():
    these = tokens([0.5, 3.0, 3.0], advantages=(1.0, -1.0), sequence=[0, 0, 1])
    assert gate_weight(these, sapo()).tolist() == pytest.approx([0.940015, 0.419974, 0.388779], abs=1e-5)
    found = metrics(these)
    assert found["policy/gate_weight_pos"] == pytest.approx((0.940015 + 0.419974) / 2, abs=1e-5)
    assert found["policy/gate_weight_neg"] == pytest.approx(0.388779, abs=1e-5)
    assert found["policy/gate_weight_below_half"] == pytest.approx(2 / 3)


def test_grpo_weighs_clipped_tokens_zero_and_gspo_clipped_sequences():
    these = tokens([1.5, 0.5, 1.0, 1.1], advantages=(1.0, 2.0), sequence=[0, 0, 1, 1])
    assert gate_weight(these, grpo(0.2, 0.27)).tolist() == pytest.approx([0, 1, 1, 1])
    s = math.sqrt(0.75)  # of the first sequence; the second's, 1.049, is clipped
    assert gate_weight(these, gspo(3e-4, 4e-4)).tolist() == pytest.approx([s / 1.5, s / 0.5, 0, 0])


def test_on_policy_nothing_is_gated_and_every_token_counts():
    found = metrics(tokens([1.0] * 4, advantages=(1.0, -1.0), sequence=[0, 0, 1, 1]))
    assert found["policy/gate_weight_pos"] == found["policy/gate_weight_neg"] == 1
    assert found["policy/ess"] == found["policy/ratio_max"] == found["engine/ess"] == 1
    assert found["policy/kl"] == found["policy/log_ratio_var"] == found["policy/gate_weight_below_half"] == 0


def test_the_engines_distance_is_told_apart_from_the_policys():
    found = metrics(tokens([1.0, 1.0], engine_ratios=[2.0, 1.0]))
    assert found["engine/ratio_max"] == pytest.approx(2) and found["policy/ratio_max"] == 1
    assert found["engine/kl"] == pytest.approx((1 - math.log(2)) / 2)
    assert found["engine/abs_log_ratio"] == pytest.approx(math.log(2) / 2)
    assert found["engine/ess"] == pytest.approx(1.5**2 / 2.5)


def test_a_sign_that_no_token_has_is_left_out_and_zero_advantages_have_no_sign():
    found = metrics(tokens([1.0, 2.0], advantages=(0.0, -1.0), sequence=[0, 1]))
    assert "policy/gate_weight_pos" not in found
    assert found["policy/gate_weight_neg"] == pytest.approx(0.768110, abs=1e-5)


def test_entropy_is_the_mean_over_tokens():
    totals = diagnose(tokens(WORKED), torch.tensor([1.0, 2.0, 3.0, 4.0]), sapo(), ["sums"])
    assert means(totals)["policy/entropy"] == 2.5


def test_totals_of_packs_combine_to_the_totals_of_all_with_or_without_an_empty_pack():
    first = tokens([0.7, 3.0], advantages=(1.0,))
    second = tokens([1.2], advantages=(-1.0,), engine_ratios=[1.5])
    empty = tokens([], advantages=())
    both = tokens([0.7, 3.0, 1.2], advantages=(1.0, -1.0), sequence=[0, 0, 1], engine_ratios=[1.0, 1.0, 1.5])
    parts = [
        diagnose(part, torch.ones(len(part.sequence)), sapo(), tasks, torch.ones(len(tasks)))
        for part, tasks in ((empty, []), (first, ["sums"]), (second, ["code"]))
    ]
    whole = diagnose(both, torch.ones(3), sapo(), ["sums", "code"], torch.ones(2))
    assert means(combine(parts)) == pytest.approx(means(whole))
    assert means(combine(reversed(parts))) == pytest.approx(means(whole))
    assert means(parts[0]) == {}


def test_each_task_has_its_own_metrics_beside_those_of_all():
    these = tokens([0.5, 3.0, 3.0], advantages=(1.0, -1.0), sequence=[0, 0, 1])
    found = means(diagnose(these, torch.tensor([1.0, 2.0, 6.0]), sapo(), ["sums", "code"]))
    assert (found["policy/entropy"], found["policy/entropy/sums"], found["policy/entropy/code"]) == (3.0, 1.5, 6.0)
    assert found["policy/gate_weight_neg/code"] == pytest.approx(0.388779, abs=1e-5)
    assert "policy/gate_weight_neg/sums" not in found
    assert found["policy/ratio_max/sums"] == found["policy/ratio_max"] == pytest.approx(3.0)
    assert found["policy/ess/sums"] == pytest.approx(3.5**2 / 2 / (0.25 + 9))


def test_a_task_s_name_says_nothing_of_how_its_metrics_are_reduced():
    packs = [diagnose(tokens([ratio]), torch.tensor([ratio]), sapo(), ["grid_max"]) for ratio in (1.0, 3.0)]
    found = means(combine(packs))
    assert (found["policy/entropy/grid_max"], found["policy/ratio_max/grid_max"]) == (2.0, pytest.approx(3.0))
    assert found["policy/ess/grid_max"] == pytest.approx(2.0**2 / 5.0)


def test_the_gap_between_token_gates_and_the_sequence_gate_is_told_beside_its_bound():
    found = metrics(tokens(WORKED), tau=torch.ones(1))
    assert found["policy/gate_gap"] == pytest.approx(0.9864352 - 0.9540446, abs=1e-6)
    assert found["policy/gate_bound"] == pytest.approx(0.1552900 / 4, abs=1e-6)
    assert found["policy/assumptions_hold"] == 0
    assert metrics(tokens([1.02, 0.97]), tau=torch.ones(1))["policy/assumptions_hold"] == 1


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=8), st.sampled_from([0.5, 1.0, 2.0]))
@settings(max_examples=50)
def test_the_gap_never_exceeds_its_bound(z, tau):
    found = metrics(tokens([math.exp(each) for each in z]), tau=torch.tensor([tau]))
    assert found["policy/gate_gap"] <= found["policy/gate_bound"] + 1e-5


@given(st.lists(st.floats(-2.5, 2.5), min_size=1, max_size=20))
@settings(max_examples=50)
def test_every_token_and_sequence_is_in_one_bin(z):
    half = len(z) // 2
    these = tokens([math.exp(each) for each in z], advantages=(1.0, -1.0), sequence=[0] * half + [1] * (len(z) - half))
    counts = histograms(these)
    assert sum(counts[Key("log_ratio/pos")]) == half and sum(counts[Key("log_ratio/neg")]) == len(z) - half
    assert sum(counts[Key("log_ratio_var/pos")]) == sum(counts[Key("log_ratio_var/neg")]) == 1
    assert add_histograms([counts, counts])[Key("log_ratio/neg")] == [2 * count for count in counts[Key("log_ratio/neg")]]


def test_quantiles_are_those_of_the_values_to_within_a_bin():
    ratios = torch.linspace(0.9, 1.1, 1001).tolist()
    found = ratio_quantiles({key._replace(minibatch=2): bins for key, bins in histograms(tokens(ratios)).items()})
    assert found[Key("policy/ratio_p01", minibatch=2)] == pytest.approx(0.902, rel=0.02)
    assert found[Key("policy/ratio_p50", minibatch=2)] == pytest.approx(1.0, abs=1e-3)
    assert found[Key("policy/ratio_p99", minibatch=2)] == pytest.approx(1.098, rel=0.02)
    assert ratio_quantiles({Key("log_ratio/pos", minibatch=1): [0, 0], Key("log_ratio_var/pos", minibatch=1): [1]}) == {}
