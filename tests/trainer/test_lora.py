"""A policy of adapters: its base never moves, ZeRO stages agree, checkpoints and exports are whole, the reference is its base."""

from itertools import product

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import slow_but
from tests.models.helpers import message
from tests.rollout.opening import open_encoder
from tests.trainer.replay import MIX, SGD, UNCLIPPED, fixed_minibatches, loss_of, losses_of, open_policy, weights_of
from vlrl import config as cfg
from vlrl.config import LoraConfig
from vlrl.models.lora import is_adapter
from vlrl.models.packed_model import PackedModel
from vlrl.models.packing import pack_groups
from vlrl.trainer.reference import FrozenModel, WithoutAdapters
from vlrl.trainer.update import TaskGates

LORA = LoraConfig(rank=4)
EVERYWHERE = {
    "tiny_dense": LoraConfig(rank=4, targets=("attention", "mlp", "merger", "vision")),
    "tiny_moe": LoraConfig(rank=4, targets=("attention", "experts")),
}
WIDE = {"zero_stage": 3, "deepspeed": {"zero_optimization": {"stage3_param_persistence_threshold": 0}}}


def frozen_of(policy) -> dict[str, torch.Tensor]:
    with policy._gathered(list(policy._parameters())):
        return {name: each.detach().clone() for name, each in policy._parameters() if not is_adapter(name)}


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(each, other[name]) for name, each in one.items())


@pytest.mark.parametrize(
    ("kind", "dtype", "stage"), slow_but([("tiny_dense", "bfloat16", 1), ("tiny_moe", "float32", 3)], ["tiny_dense"])
)
def test_the_base_has_the_same_bits_after_twenty_updates(request, pictures, ranks, kind, dtype, stage):
    model = request.getfixturevalue(kind)
    policy = open_policy(model, ranks, lora=EVERYWHERE[kind], dtype=dtype, zero_stage=stage, gradient_checkpointing=True)
    encoder, _ = open_encoder(model)
    prompt = encoder.encode(message("Which digit is this?", pictures[0]))
    base, before = frozen_of(policy), policy.adapters()
    for _ in range(20):
        scores = policy.forward(pack_groups([(prompt, [[30, 31, 32]])], encoder.filler()))
        policy.backward(scores.zero - scores.logprobs.mean())
        policy.step()
    after = policy.adapters()
    assert same(frozen_of(policy), base)
    assert before and all(not factor.equal(before[name]) for name, factor in after.items())


@pytest.mark.parametrize("kind", slow_but(["tiny_dense", "tiny_moe"], ["tiny_dense"]))
def test_every_zero_stage_makes_the_same_update(request, pictures, ranks, kind):
    """Two of plain SGD: the first moves B alone, since B is 0."""
    model, results = request.getfixturevalue(kind), []
    for stage in (0, 1, 2, 3):
        settings = {
            "zero_stage": stage,
            "gradient_clipping": UNCLIPPED,
            "deepspeed": SGD | (WIDE["deepspeed"] if stage == 3 else {}),
        }
        policy = open_policy(model, ranks, lora=EVERYWHERE[kind], **settings)
        before = policy.adapters()
        losses = losses_of(policy, fixed_minibatches(model, pictures, ranks), 2)
        results.append((losses, {name: factor - before[name] for name, factor in policy.adapters().items()}))
    losses, moved = results[0]
    assert max(float(each.abs().max()) for each in moved.values()) > 1e-5
    for others, also_moved in results[1:]:
        assert others == pytest.approx(losses, abs=1e-6)
        for name, change in moved.items():
            torch.testing.assert_close(also_moved[name], change, rtol=1e-3, atol=2e-7)


QUICK = [("tiny_dense", "bfloat16", 1)]
MORE = [
    ("tiny_dense", "float32", 0),
    *product(["tiny_moe"], ["bfloat16"], [1, 3]),
    *product(["tiny_dense"], ["float32", "bfloat16"], [2, 3]),
]
RESUMED = [*QUICK, *(pytest.param(*each, marks=pytest.mark.slow) for each in MORE)]


@pytest.mark.parametrize(("kind", "dtype", "stage"), RESUMED)
def test_a_policy_that_goes_back_repeats_its_updates_to_the_last_bit(request, pictures, ranks, tmp_path, kind, dtype, stage):
    model = request.getfixturevalue(kind)
    policy = open_policy(model, ranks, lora=EVERYWHERE[kind], dtype=dtype, zero_stage=stage, warmup_steps=3)
    minibatches = fixed_minibatches(model, pictures, ranks)
    policy.save(tmp_path / "start")
    first = losses_of(policy, minibatches, 2)
    policy.save(tmp_path / "middle")
    rest, weights = losses_of(policy, minibatches, 2), policy.adapters()
    for folder, losses in (("middle", rest), ("start", first + rest)):
        policy.load(tmp_path / folder)
        assert losses_of(policy, minibatches, len(losses)) == losses
        assert same(policy.adapters(), weights)


def test_a_checkpoint_holds_adapters_and_moments_alone(tiny_dense, pictures, ranks, tmp_path):
    policy = open_policy(tiny_dense, ranks, lora=LORA, zero_stage=1)
    losses_of(policy, fixed_minibatches(tiny_dense, pictures, ranks), 1)
    policy.save(tmp_path)
    saved = torch.load(tmp_path / "policy/rank-00000.pt", weights_only=True)
    assert all(is_adapter(name) for name in saved["sizes"])
    trained = sum(factor.numel() for factor in policy.adapters().values())
    assert sum(saved["sizes"].values()) == trained
    assert sum(each.numel() for tensors, _, _ in saved["flats"] for each in tensors.values()) < 3 * (trained + 100)


def test_a_checkpoint_of_another_base_rank_or_way_to_train_is_refused(tiny_dense, tiny_moe, ranks, tmp_path):
    opened = {
        "rank 4": open_policy(tiny_dense, ranks, lora=LORA, zero_stage=1),
        "rank 2": open_policy(tiny_dense, ranks, lora=LoraConfig(rank=2), zero_stage=1),
        "whole": open_policy(tiny_dense, ranks, zero_stage=1),
    }
    for name, policy in opened.items():
        policy.save(tmp_path / name)
    for name, policy in opened.items():
        for other in opened.keys() - {name}:
            with pytest.raises(ValueError, match="is of another model: .* elements in it"):
                policy.load(tmp_path / other)
    opened["rank 4"]._fingerprint = "another"
    with pytest.raises(ValueError, match="its adapters were trained on a model with other contents than .*/qwen3_vl' has now"):
        opened["rank 4"].load(tmp_path / "rank 4")


@pytest.mark.parametrize(("kind", "stage"), slow_but([("tiny_dense", 1), ("tiny_moe", 1), ("tiny_moe", 3)], [("tiny_moe", 1)]))
def test_the_reference_is_the_base_whatever_the_adapters_are(request, pictures, ranks, kind, stage):
    """Also between a forward and its backward, and while an MoE model's routes are replayed."""
    model = request.getfixturevalue(kind)
    policy = open_policy(model, ranks, lora=EVERYWHERE[kind], zero_stage=stage)
    reference, frozen = (
        WithoutAdapters(policy),
        FrozenModel(cfg.PolicyConfig(dtype="float32"), model, ranks=ranks, temperature=1.0, banned=[]),
    )
    minibatches = fixed_minibatches(model, pictures, ranks, keep_zero=True)
    losses_of(policy, minibatches, 4)
    pack = minibatches[0].micro_batches[0].pack
    expected = frozen.logprobs(pack).logprobs
    before = policy.logprobs(pack)
    assert (before.logprobs - expected).abs().max() > 1e-3
    other = {name: (chosen + 1) % 8 for name, chosen in before.routes.items()}
    with policy.routing.replay(other or None):
        scores = policy.forward(pack)
        assert reference.logprobs(pack).logprobs.equal(expected) or stage == 3
        torch.testing.assert_close(reference.logprobs(pack).logprobs, expected, rtol=0, atol=1e-6)
        assert all(policy.routing.choices[name].equal(scores.routes[name]) for name in scores.routes)
        policy.backward(scores.logprobs.mean() + scores.zero)
    assert policy.logprobs(pack).logprobs.equal(before.logprobs)


def test_a_kl_term_to_the_base_is_nothing_at_the_start_and_something_after_a_step(tiny_dense, pictures, ranks):
    minibatch = fixed_minibatches(tiny_dense, pictures, ranks, keep_zero=True)[0]
    results = []
    for coefficient in (0.0, 0.5):
        policy = open_policy(tiny_dense, ranks, lora=LORA, zero_stage=1, lr=1e-2)
        gates = TaskGates(cfg.AlgorithmConfig(kl_coefficient=coefficient), MIX)
        options = {"gates": gates, "reference": WithoutAdapters(policy) if coefficient else None}
        results.append([loss_of(policy, minibatch, **options) for _ in range(2)])
    assert results[1][0] == results[0][0] and results[1][1] > results[0][1] + 1e-5


@pytest.mark.parametrize("kind", slow_but(["tiny_dense", "tiny_moe"], ["tiny_dense"]))
def test_the_exports_are_the_merged_model_and_an_adapter_that_peft_adds_to_the_base(request, pictures, ranks, tmp_path, kind):
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    from vlrl.models.checkpoint_io import load_model

    model = request.getfixturevalue(kind)
    policy = open_policy(model, ranks, lora=EVERYWHERE[kind], zero_stage=3)
    losses_of(policy, fixed_minibatches(model, pictures, ranks), 4)
    encoder, _ = open_encoder(model)
    policy.export(tmp_path / "model", model, encoder)
    policy.export_adapter(tmp_path / "adapter")
    loaded, info = AutoModelForImageTextToText.from_pretrained(tmp_path / "model", dtype=torch.float32, output_loading_info=True)
    assert not any(info.values())
    pack = pack_groups([(encoder.encode(message("Which digit is this?", pictures[0])), [[30, 31], [40]])], encoder.filler())
    expected = policy.logprobs(pack).logprobs
    options = {"dtype": torch.float32, "freeze_vision": False, "gradient_checkpointing": False}
    base = load_model(model, **options)
    adapted = PeftModel.from_pretrained(base, tmp_path / "adapter").base_model.model
    for each in (load_model(str(tmp_path / "model"), **options), adapted):
        with torch.no_grad():
            logprobs, _ = PackedModel(each, temperature=1.0, banned=[])(pack)
        torch.testing.assert_close(logprobs[: len(expected)], expected, rtol=0, atol=1e-6)
    assert all(name.startswith("base_model.model.model.") for name in load_file(tmp_path / "adapter/adapter_model.safetensors"))
    assert loaded.num_parameters() == sum(weight.numel() for weight in weights_of(policy).values())
