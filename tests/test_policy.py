"""The policy's weights by name: in buckets, whole blocks together, right also after their bucket is given up."""

import pytest
import torch
from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.replay import open_policy
from vlrl.policy import block_of, in_buckets

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
