"""The policy's weights by name: in buckets, whole blocks together, right also after their bucket is given up."""

import pytest
import torch
from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.trainer.replay import SGD, UNCLIPPED, fixed_minibatches, losses_of, open_policy, weights_of
from vlrl.trainer.policy import block_of, in_buckets

SHARDED = {"zero_stage": 3, "deepspeed": {"zero_optimization": {"stage3_param_persistence_threshold": 0}}}


@given(
    blocks=st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=4), max_size=12),
    most=st.integers(0, 400),
)
def test_buckets_hold_every_parameter_in_order_and_cut_no_block(blocks, most):
    named = [
        (f"layers.{number}.mlp.{place}.weight", nn.Parameter(torch.zeros(size)))
        for number, sizes in enumerate(blocks)
        for place, size in enumerate(sizes)
    ]
    buckets = list(in_buckets(named, most))
    assert [name for bucket in buckets for name, _ in bucket] == [name for name, _ in named]
    in_bucket = [{block_of(name) for name, _ in bucket} for bucket in buckets]
    assert sum(map(len, in_bucket)) == len(blocks)
    for bucket, held in zip(buckets, in_bucket, strict=True):
        assert sum(4 * weight.numel() for _, weight in bucket) <= most or len(held) == 1


@pytest.mark.parametrize("most_bytes", [0, 1 << 18])
def test_sharded_weights_are_gathered_a_bucket_at_a_time_and_outlive_it(tiny_moe, ranks, most_bytes):
    whole, sharded = open_policy(tiny_moe, ranks), open_policy(tiny_moe, ranks, **SHARDED)
    blocks: dict[str, int] = {}
    for name, weight in whole.named_weights():
        blocks[block_of(name)] = blocks.get(block_of(name), 0) + weight.nbytes
    held, kept = [], []
    for bucket in sharded.weight_buckets(most_bytes):
        parameters = sharded.engine.module.parameters()
        held.append(sum(4 * each.ds_numel for each in parameters if each.ds_status is ZeroParamStatus.AVAILABLE))
        kept += bucket
    assert len(held) > 3 and max(held) <= max(most_bytes, *blocks.values())
    expected = dict(whole.named_weights())
    assert [name for name, _ in kept] == list(expected)
    assert all(torch.equal(weight, expected[name]) for name, weight in kept)


def test_a_patch_embedding_that_is_computed_as_a_linear_map_is_gathered_and_trained_under_zero_3(tiny_dense, pictures, ranks):
    steps = []
    for settings in ({"deepspeed": SGD}, {"zero_stage": 3, "deepspeed": SGD | SHARDED["deepspeed"]}):
        policy = open_policy(tiny_dense, ranks, gradient_clipping=UNCLIPPED, **settings)
        conv = policy.engine.module.qwen.model.visual.patch_embed.proj
        assert conv.weight.numel() == (0 if "zero_stage" in settings else 64 * 3 * 2 * 16 * 16)
        before = weights_of(policy)
        losses_of(policy, fixed_minibatches(tiny_dense, pictures, ranks), 1)
        after = weights_of(policy)
        steps.append({name: after[name] - before[name] for name in after if "patch_embed" in name})
    assert len(steps[0]) == 2 and all(step.abs().max() > 0 for step in steps[0].values())
    for name, step in steps[0].items():
        torch.testing.assert_close(steps[1][name], step, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_a_policy_that_goes_back_repeats_its_updates_to_the_last_bit(tiny_dense, pictures, ranks, tmp_path, zero_stage):
    """To a checkpoint in the middle, and to one from before the first update, when the optimizer has no moments yet."""
    policy = open_policy(tiny_dense, ranks, zero_stage=zero_stage, warmup_steps=3)
    minibatches = fixed_minibatches(tiny_dense, pictures, ranks)
    policy.save(tmp_path / "start")
    first = losses_of(policy, minibatches, 2)
    policy.save(tmp_path / "middle")
    rest, weights = losses_of(policy, minibatches, 3), weights_of(policy)
    for folder, losses in (("middle", rest), ("start", first + rest)):
        policy.load(tmp_path / folder)
        assert losses_of(policy, minibatches, len(losses)) == losses
        assert all(torch.equal(weight, weights[name]) for name, weight in policy.named_weights())


def test_a_scale_of_the_rate_holds_from_the_next_update_on_and_is_not_applied_twice(tiny_dense, pictures, ranks, tmp_path):
    policy = open_policy(tiny_dense, ranks, warmup_steps=3)
    minibatches = fixed_minibatches(tiny_dense, pictures, ranks)
    rates = []
    for scale in (1.0, 0.5, 0.5):
        if rates:
            policy.load(tmp_path, lr_scale=scale)
        rates.append(policy.lr)
        policy.save(tmp_path)
    losses_of(policy, minibatches, 1)
    rates.append(policy.lr)
    assert rates == pytest.approx([0.25e-3, 0.125e-3, 0.125e-3, 0.25e-3])
