"""Updates on fixed rollouts: the same for any ranks, ZeRO stage and split; and what must leave the weights as they are."""

import math
import re
from dataclasses import replace

import pytest
import torch

from tests.conftest import SMALL_IMAGES, slow_but
from tests.loop import on_two_ranks
from tests.trainer.replay import (
    GATES,
    MIX,
    SGD,
    UNCLIPPED,
    fixed_groups,
    fixed_minibatches,
    loss_of,
    losses_of,
    open_policy,
    run,
    weights_of,
)
from vlrl import config as cfg
from vlrl.models.checkpoint_io import load_encoder
from vlrl.telemetry.metrics import Key, Maximum
from vlrl.trainer.micro_batch import make_minibatch, with_old_scores
from vlrl.trainer.reference import FrozenModel
from vlrl.trainer.update import TaskGates, UpdateStats, update

WHOLE, SPLIT = 4096, 40  # tokens a pass: one pass a mini-batch, or a pass a response or two
REFERENCE = {"adamw": f"adamw-0-{WHOLE}", "sgd": f"sgd-0-{WHOLE}"}
DTYPES = ("bfloat16", "float32")


def jobs_of(kind, stages=range(4)):
    return [f"{kind}-{stage}-{SPLIT}" for stage in stages]


DENSE = {
    1: [*REFERENCE.values(), *jobs_of("adamw", [2]), *jobs_of("sgd", [3])],
    2: [*jobs_of("adamw", [3]), *jobs_of("sgd", [1]), f"sgd-2-{WHOLE}"],
}
EVERY_STAGE = {
    1: [*REFERENCE.values(), *jobs_of("adamw"), *jobs_of("sgd")],
    2: [*jobs_of("adamw"), *jobs_of("sgd"), f"adamw-3-{WHOLE}"],
}
MOE = {1: list(REFERENCE.values()), 2: [*jobs_of("adamw", (1, 3)), *jobs_of("sgd", (1, 3))]}


def replays(model, pictures, folder, ranks, jobs):
    """(number of ranks, job) -> its result: one rank is this process, two are processes of their own."""
    on_two_ranks("tests.trainer.replay", model, folder, ",".join(pictures), *jobs[2])
    results = {(2, job): torch.load(folder / f"{job}.pt") for job in jobs[2]}
    return results | {(1, job): run(job, model, pictures, ranks) for job in jobs[1]}


PARTS = {"vision": r"visual\.(patch|pos|blocks)", "merger": r"visual\..*merger"}


def cases(jobs, kind):
    """What is compared with the reference: (number of ranks, job)."""
    return [(size, job) for size in jobs for job in jobs[size] if job.startswith(kind) and job != REFERENCE[kind]]


@pytest.fixture(scope="module")
def dense(tiny_dense, pictures, ranks, tmp_path_factory):
    return replays(tiny_dense, pictures, tmp_path_factory.mktemp("replays"), ranks, DENSE)


@pytest.fixture(scope="module")
def every_stage(tiny_dense, pictures, ranks, tmp_path_factory):
    return replays(tiny_dense, pictures, tmp_path_factory.mktemp("replays"), ranks, EVERY_STAGE)


@pytest.fixture(scope="module")
def moe(tiny_moe, pictures, ranks, tmp_path_factory):
    return replays(tiny_moe, pictures, tmp_path_factory.mktemp("replays"), ranks, MOE)


def check_losses(results, case):
    expected = results[1, REFERENCE["adamw"]]["losses"]
    assert len(set(expected)) == len(expected) == 5
    assert results[case]["losses"] == pytest.approx(expected, rel=1e-5)


def check_step(results, case):
    """The weights after one step of plain SGD, against the length of the step."""
    reference, other = results[1, REFERENCE["sgd"]], results[case]
    before, expected, after = (flat(weights) for weights in (reference["before"], reference["after"], other["after"]))
    assert (expected - before).norm() > 1e-3 * before.norm()
    assert (after - expected).norm() <= 1e-5 * (expected - before).norm()


def check_told(results, case, parts):
    """What the step says of each part's change, against the weights before and after it."""
    result = results[case]
    for part, pattern in parts.items():
        names = [name for name in result["before"] if re.search(pattern, name)]
        had, moved = (flat({name: weights[name] for name in names}) for weights in (result["before"], result["after"]))
        assert result["told"][f"policy/change/{part}"] == pytest.approx(float((moved - had).norm() / had.norm()), rel=1e-4), part


def flat(weights):
    return torch.cat([weights[name].double().flatten() for name in sorted(weights)])


def equal(weights, others):
    return weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.mark.parametrize("case", cases(DENSE, "adamw"), ids=str)
def test_five_updates_have_the_same_losses_on_any_ranks_stage_and_split(dense, case):
    check_losses(dense, case)


@pytest.mark.parametrize("case", cases(DENSE, "sgd"), ids=str)
def test_a_step_of_plain_sgd_is_the_same_on_any_ranks_stage_and_split(dense, case):
    check_step(dense, case)


@pytest.mark.parametrize("case", cases(DENSE, "sgd"), ids=str)
def test_a_step_tells_how_far_it_moved_each_part_on_any_ranks_and_stage(dense, case):
    check_told(dense, case, PARTS)


@pytest.mark.slow
@pytest.mark.parametrize("case", cases(EVERY_STAGE, "adamw"), ids=str)
def test_five_updates_have_the_same_losses_on_every_stage(every_stage, case):
    check_losses(every_stage, case)


@pytest.mark.slow
@pytest.mark.parametrize("case", cases(EVERY_STAGE, "sgd"), ids=str)
def test_a_step_of_plain_sgd_is_the_same_on_every_stage(every_stage, case):
    check_step(every_stage, case)
    check_told(every_stage, case, PARTS)


@pytest.mark.slow
@pytest.mark.parametrize("case", cases(MOE, "adamw"), ids=str)
def test_five_updates_of_a_moe_have_the_same_losses_on_two_ranks(moe, case):
    check_losses(moe, case)


@pytest.mark.slow
@pytest.mark.parametrize("case", cases(MOE, "sgd"), ids=str)
def test_a_step_of_plain_sgd_on_a_moe_is_the_same_on_two_ranks(moe, case):
    check_step(moe, case)
    check_told(moe, case, PARTS | {"router": r"layers\.\d+\.mlp\.gate\.weight"})


def test_a_minibatch_without_a_scored_rollout_steps_nothing(tiny_dense, pictures, ranks):
    policy = open_policy(tiny_dense, ranks)
    before = weights_of(policy)
    minibatch = replace(fixed_minibatches(tiny_dense, pictures, ranks)[0], num_scored=0)
    assert update(policy, minibatch, gates=GATES) == UpdateStats()
    assert policy.version == 0 and equal(weights_of(policy), before)


def test_groups_without_advantage_stay_in_the_denominator_and_are_not_computed(tiny_dense, pictures, ranks):
    results = []
    for keep_zero in (False, True):
        minibatch = fixed_minibatches(tiny_dense, pictures, ranks, keep_zero=keep_zero)[0]
        policy = open_policy(tiny_dense, ranks, gradient_clipping=UNCLIPPED, deepspeed=SGD)
        before = flat(weights_of(policy))
        loss = loss_of(policy, minibatch)
        results.append(
            (minibatch.num_scored, sum(each.pack.num_sequences for each in minibatch.micro_batches), loss, before, policy)
        )
    (scored, computed, loss, before, policy), (all_scored, all_computed, all_loss, _, other) = results
    assert (scored, computed) == (11, 8) and (all_scored, all_computed) == (11, 11)
    assert loss == pytest.approx(all_loss, rel=1e-5)
    after, expected = flat(weights_of(policy)), flat(weights_of(other))
    assert (after - expected).norm() <= 1e-5 * (expected - before).norm()


@pytest.mark.parametrize("average", ["sequence", "token", "constant"])
def test_an_average_over_tokens_is_the_same_however_the_passes_are_cut(tiny_dense, pictures, ranks, average):
    gates = TaskGates(cfg.AlgorithmConfig(loss_aggregation=average), MIX)
    steps = []
    for budget in (WHOLE, SPLIT):
        policy = open_policy(tiny_dense, ranks, gradient_clipping=UNCLIPPED, deepspeed=SGD)
        before = flat(weights_of(policy))
        update(policy, fixed_minibatches(tiny_dense, pictures, ranks, budget=budget)[0], gates=gates, longest=16)
        steps.append(flat(weights_of(policy)) - before)
    assert (steps[0] - steps[1]).norm() <= 1e-5 * steps[0].norm()


def test_truncated_responses_stay_in_the_baseline_and_leave_the_loss(tiny_dense, pictures, ranks):
    encoder = load_encoder(tiny_dense, SMALL_IMAGES)
    groups = fixed_groups(encoder, pictures)
    truncated = [replace(each, rollout=replace(each.rollout, finish_reason="length")) for each in groups[0].samples]
    cut = [replace(groups[0], samples=tuple(truncated)), *groups[1:]]
    counts = [
        make_minibatch(each, filler=encoder.filler(), budget=WHOLE, keep_zero=True, mask_truncated=True, ranks=ranks).num_scored
        for each in (groups, cut)
    ]
    assert counts[0] - counts[1] == len(groups[0].samples)


def test_each_task_has_its_own_taus():
    mixture = {"a": cfg.TaskConfig(weight=1, rows="none"), "b": cfg.TaskConfig(weight=1, rows="none", tau_pos=2.0, tau_neg=3.0)}
    gates = TaskGates(cfg.AlgorithmConfig(), mixture)
    assert gates.tau(("a", "b", "b"), torch.tensor([1.0, 1.0, -1.0])).tolist() == pytest.approx([1.0, 2.0, 3.0])
    ratio, sequence = torch.tensor([1.5, 1.5, 1.5]).log(), torch.arange(3)
    f = gates.gate(("a", "b", "b"))(ratio, torch.tensor([1.0, 1.0, -1.0]), sequence, 3)
    assert f.tolist() == pytest.approx([4 / tau / (1 + math.exp(-tau * 0.5)) for tau in (1.0, 2.0, 3.0)])


@pytest.mark.parametrize("stage", slow_but([1, 3], [1]))
def test_the_first_minibatch_has_ratio_exactly_1_and_the_second_has_not(tiny_moe, pictures, ranks, stage):
    policy = open_policy(tiny_moe, ranks, zero_stage=stage)
    minibatches = fixed_minibatches(tiny_moe, pictures, ranks, budget=SPLIT)
    minibatches = [with_old_scores(policy, minibatch) for minibatch in minibatches]
    gates = TaskGates(cfg.AlgorithmConfig(gate="pg"), MIX)
    first = update(policy, minibatches[0], gates=gates).totals
    second = update(policy, minibatches[1], gates=gates).totals
    assert first[Key("policy/ratio_max")] == Maximum(1.0) and first[Key("policy/abs_log_ratio")].value == 0
    assert second[Key("policy/abs_log_ratio")].value > 0


def test_the_engine_as_old_policy_moves_the_weight_against_it_into_the_ratio(tiny_dense, pictures, ranks):
    minibatch = fixed_minibatches(tiny_dense, pictures, ranks)[0]
    found = {}
    for old in ("trainer", "engine"):
        policy = open_policy(tiny_dense, ranks, gradient_clipping=UNCLIPPED, deepspeed=SGD)
        before = flat(weights_of(policy))
        gates = TaskGates(cfg.AlgorithmConfig(gate="pg", old_policy=old, tis_cap=1e9), MIX)
        totals = update(policy, minibatch, gates=gates).totals
        distances = [totals[Key(f"{name}/abs_log_ratio")].value for name in ("policy", "engine")]
        found[old] = distances, flat(weights_of(policy)) - before
    (trainer, step), (engine, other) = found["trainer"], found["engine"]
    assert trainer[0] == engine[1] == 0 and trainer[1] == pytest.approx(engine[0], rel=1e-5) and engine[0] > 0.1
    assert (step - other).norm() <= 1e-5 * step.norm()


@pytest.mark.parametrize("stage", slow_but([1, 3], [1]))
def test_a_fresh_policy_goes_on_from_a_saved_one_with_a_frozen_vision_tower(tiny_dense, pictures, ranks, stage, tmp_path):
    settings = {"zero_stage": stage, "freeze_vision": True}
    minibatches = fixed_minibatches(tiny_dense, pictures, ranks)
    saved = open_policy(tiny_dense, ranks, **settings)
    start = weights_of(saved)
    losses_of(saved, minibatches, 2)
    saved.save(tmp_path)
    at_save = weights_of(saved)
    fresh = open_policy(tiny_dense, ranks, **settings)
    fresh.load(tmp_path)
    assert fresh.version == 2 and equal(weights_of(fresh), at_save)
    moved = {name for name in start if not torch.equal(start[name], at_save[name])}
    assert moved == {name for name in start if not name.startswith("model.visual.")}
    assert losses_of(fresh, minibatches, 2) == losses_of(saved, minibatches, 2)


def test_bfloat16_runs_at_zero_1_near_the_losses_of_float32(tiny_dense, pictures, ranks):
    minibatches = fixed_minibatches(tiny_dense, pictures, ranks)
    losses = [losses_of(open_policy(tiny_dense, ranks, zero_stage=1, dtype=dtype), minibatches, 2) for dtype in DTYPES]
    assert losses[0] == pytest.approx(losses[1], abs=2e-2)


def test_gradient_checkpointing_gives_the_same_losses(tiny_moe, pictures, ranks):
    minibatches = fixed_minibatches(tiny_moe, pictures, ranks)
    plain, checkpointed = (
        losses_of(open_policy(tiny_moe, ranks, zero_stage=1, gradient_checkpointing=on), minibatches, 4) for on in (False, True)
    )
    assert checkpointed == pytest.approx(plain, rel=1e-5)


def test_a_loss_that_is_not_finite_is_refused_before_the_weights_move(tiny_dense, pictures, ranks):
    policy = open_policy(tiny_dense, ranks, zero_stage=1)
    before = weights_of(policy)
    minibatch = fixed_minibatches(tiny_dense, pictures, ranks, budget=SPLIT)[0]
    *good, last = minibatch.micro_batches
    bad = replace(minibatch, micro_batches=(*good, replace(last, advantages=last.advantages * torch.inf)))
    assert good
    with pytest.raises(ArithmeticError, match="the loss of this micro-batch is"):
        loss_of(policy, bad)
    assert policy.version == 0 and equal(weights_of(policy), before)


@pytest.mark.parametrize("stage", slow_but([1, 3], [1]))
def test_a_gradient_that_is_not_finite_stops_the_run_before_the_weights_move(tiny_dense, pictures, ranks, monkeypatch, stage):
    policy = open_policy(tiny_dense, ranks, zero_stage=stage)
    before, backward = weights_of(policy), policy.backward

    def spoilt(loss):
        loss.register_hook(lambda gradient: gradient * torch.nan)
        backward(loss)

    monkeypatch.setattr(policy, "backward", spoilt)
    with pytest.raises(ArithmeticError, match="the gradient's norm is inf"):
        loss_of(policy, fixed_minibatches(tiny_dense, pictures, ranks)[0])
    assert equal(weights_of(policy), before)


@pytest.mark.parametrize("stage", slow_but([1, 3], [1]))
def test_a_kl_term_is_nothing_at_the_start_and_something_after_a_step(tiny_dense, pictures, ranks, stage):
    minibatch = fixed_minibatches(tiny_dense, pictures, ranks, keep_zero=True)[0]
    results = []
    for coefficient in (0.0, 0.5):
        policy = open_policy(tiny_dense, ranks, zero_stage=stage)
        reference = FrozenModel(policy.settings, tiny_dense, ranks=ranks, temperature=1.0, banned=[]) if coefficient else None
        options = {"gates": TaskGates(cfg.AlgorithmConfig(kl_coefficient=coefficient), MIX), "reference": reference}
        first = loss_of(policy, minibatch, **options)
        after_one = weights_of(policy)
        results.append((first, after_one, loss_of(policy, minibatch, **options)))
    (plain, plain_weights, plain_second), (held, held_weights, held_second) = results
    assert held == plain and equal(held_weights, plain_weights)
    assert held_second > plain_second + 1e-4
