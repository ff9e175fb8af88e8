"""The policy's weights by name: in buckets, whole blocks together, right also after their bucket is given up."""

import weakref
from itertools import product

import pytest
import torch
from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus
from deepspeed.utils import safe_get_full_fp32_param
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.conftest import SMALL_IMAGES, slow_but
from tests.models.helpers import message
from tests.trainer.replay import SGD, UNCLIPPED, fixed_minibatches, losses_of, open_policy, weights_of
from vlrl.config import PolicyConfig
from vlrl.models.checkpoint_io import load_encoder
from vlrl.models.packing import pack_groups
from vlrl.models.sizes import block_of
from vlrl.trainer.policy import deepspeed_config, in_buckets

SPLIT = 60  # tokens of a micro-batch: several to an update
PASSES = 16
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


@pytest.mark.parametrize("most_bytes", slow_but([0, 1 << 18], [1 << 18]))
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


RESUMED = [("tiny_dense", *each) for each in (("float32", 0), *product(("float32", "bfloat16"), (1, 2, 3)))]


@pytest.mark.parametrize(
    ("kind", "dtype", "stage"),
    slow_but(
        [*RESUMED, ("tiny_moe", "bfloat16", 1), ("tiny_moe", "bfloat16", 3)],
        [("tiny_dense", "float32", 1)],
    ),
)
def test_a_policy_that_goes_back_repeats_its_updates_to_the_last_bit(request, pictures, ranks, tmp_path, kind, dtype, stage):
    """To a checkpoint in the middle, and to one from before the first update, when the optimizer has no moments yet."""
    model = request.getfixturevalue(kind)
    policy = open_policy(model, ranks, dtype=dtype, zero_stage=stage, warmup_steps=3)
    minibatches = fixed_minibatches(model, pictures, ranks, budget=SPLIT)
    policy.save(tmp_path / "start")
    first = losses_of(policy, minibatches, 2)
    policy.save(tmp_path / "middle")
    rest, weights = losses_of(policy, minibatches, 2), weights_of(policy)
    for folder, losses in (("middle", rest), ("start", first + rest)):
        policy.load(tmp_path / folder)
        assert losses_of(policy, minibatches, len(losses)) == losses
        assert all(torch.equal(weight, weights[name]) for name, weight in policy.named_weights())


@pytest.mark.parametrize(("kind", "stage"), slow_but(product(("tiny_dense", "tiny_moe"), (1, 2, 3)), [("tiny_dense", 1)]))
def test_bfloat16_gradients_of_many_passes_are_summed_in_float32(request, ranks, stage, kind):
    """Sixteen passes move the fp32 weights as one of sixteen times the loss: in bfloat16 no sum but the first few is exact."""
    model = request.getfixturevalue(kind)
    encoder = load_encoder(model, SMALL_IMAGES)
    pack = pack_groups([(encoder.encode(message("What is 12 + 34?")), [[30, 31, 32]])], encoder.filler())
    moved = []
    for passes in (PASSES, 1):
        policy = open_policy(model, ranks, dtype="bfloat16", zero_stage=stage, gradient_clipping=UNCLIPPED, deepspeed=SGD)
        named = dict(policy.engine.module.qwen.named_parameters())
        before = {name: safe_get_full_fp32_param(weight).clone() for name, weight in named.items()}
        for _ in range(passes):
            scores = policy.forward(pack)
            policy.backward((scores.zero - scores.logprobs.mean()) * (PASSES / passes))
        policy.step()
        moved.append({name: safe_get_full_fp32_param(weight) - before[name] for name, weight in named.items()})
    assert any(change.any() for change in moved[1].values())
    assert all(change.equal(moved[1][name]) for name, change in moved[0].items())


@pytest.mark.parametrize(
    ("dtype", "stage"), slow_but([("float32", 1), ("bfloat16", 1), ("bfloat16", 2), ("bfloat16", 3)], [("bfloat16", 2)])
)
def test_an_optimizer_on_the_host_makes_the_same_steps(tiny_dense, pictures, ranks, dtype, stage):
    minibatches = fixed_minibatches(tiny_dense, pictures, ranks, budget=SPLIT)
    results = []
    # The two sum the gradients' norm in different orders. Clipping would pass that on to bfloat16 weights.
    settings = {"dtype": dtype, "zero_stage": stage, "gradient_clipping": 1.0 if dtype == "float32" else UNCLIPPED}
    for offload in (False, True):
        policy = open_policy(tiny_dense, ranks, **settings, offload_optimizer=offload)
        assert bool(policy.engine.zero_cpu_offload()) is offload
        changes = policy.changes()
        results.append((losses_of(policy, minibatches, 3), changes.since(), weights_of(policy)))
    (losses, moved, weights), (offloaded, also_moved, others) = results
    assert offloaded == pytest.approx(losses, rel=1e-5) and also_moved == pytest.approx(moved, rel=1e-4)
    atol = 1e-5 if dtype == "float32" else 1e-3
    assert all(torch.allclose(weight, others[name], rtol=8e-3, atol=atol) for name, weight in weights.items())


def test_zero_3_gathers_a_whole_sparse_block_ahead():
    zero = deepspeed_config(PolicyConfig(zero_stage=3), block_size=604_241_920)["zero_optimization"]
    assert zero["stage3_prefetch_bucket_size"] == 604_241_920 and zero["stage3_max_live_parameters"] > 2 * 604_241_920


@pytest.mark.parametrize(
    ("dtype", "stage", "come"),
    slow_but([("float32", 0, 8), ("bfloat16", 1, 8), ("bfloat16", 2, 8), ("bfloat16", 3, 0)], [("bfloat16", 3, 0)]),
)
def test_the_moments_that_the_first_step_will_make_are_foreseen(tiny_dense, pictures, ranks, dtype, stage, come):
    policy = open_policy(tiny_dense, ranks, dtype=dtype, zero_stage=stage)
    trained = sum(getattr(each, "ds_numel", each.numel()) for each in policy.engine.module.parameters())
    assert come * trained <= policy.bytes_to_come <= come * (trained + 1000)  # DeepSpeed pads its flat copies
    losses_of(policy, fixed_minibatches(tiny_dense, pictures, ranks), 1)
    assert policy.bytes_to_come == 0


@pytest.mark.parametrize("stage", slow_but([0, 1, 2, 3], [3]))
def test_a_closed_policy_leaves_no_weight_gradient_or_moment_behind(tiny_moe, pictures, ranks, stage):
    dtype = "bfloat16" if stage else "float32"
    policy = open_policy(tiny_moe, ranks, dtype=dtype, zero_stage=stage, gradient_checkpointing=True)
    losses_of(policy, fixed_minibatches(tiny_moe, pictures, ranks), 1)
    optimizer = policy.engine.basic_optimizer
    states = [each for state in optimizer.state.values() for each in state.values()]
    trained = [each for group in optimizer.param_groups for each in group["params"]]
    assert states
    weights = [getattr(each, "ds_tensor", each) for each in policy.engine.module.parameters()]
    held = [weakref.ref(each) for each in (*weights, *trained, *states)]
    del optimizer, states, trained, weights
    policy.close()
    assert [each().shape for each in held if each() is not None] == []


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
