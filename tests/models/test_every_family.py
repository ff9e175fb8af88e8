"""What holds for the trainer's model of every family. `pytest -k MODEL_TYPE` runs these and the other tests of one family.

Others that run for every family: packed against separate sequences, positions, an empty pack (test_packing), FLOPs (test_flops),
and what is loaded against what transformers loads (test_checkpoint_io).
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import vlrl.models.cuda_wheels  # noqa: F401 (before transformers)

# isort: split
from transformers import AutoModelForImageTextToText

from tests.conftest import SMALL_IMAGES
from tests.models.helpers import message, parts_of
from tests.trainer.replay import SGD, UNCLIPPED, fixed_minibatches, losses_of, open_policy, weights_of
from vlrl.models.checkpoint_io import check_model, load_encoder
from vlrl.models.config_json import family_of, is_moe
from vlrl.models.packing import pack_groups
from vlrl.trainer.policy import Policy

STAGES = {"checkpointing": {"gradient_checkpointing": True}, **{f"ZeRO-{n}": {"zero_stage": n} for n in (1, 2, 3)}}


def test_editing_one_response_leaves_its_siblings_logprobs_as_they_are(any_model, pictures):
    encoder, packed = parts_of(any_model)
    prompts = [encoder.encode(message("Which digit is this?", *pictures[:2])), encoder.encode(message("What is 12 + 34?"))]
    responses = [[30, 31, 32, 33, 34], [40, 41], [50, 51, 52]]
    edited = [responses[0], [90, 91], responses[2]]
    with torch.no_grad():
        before, after = (
            packed(pack_groups([(prompts[0], each), (prompts[1], responses)], encoder.filler()))[0]
            for each in (responses, edited)
        )
    others = [*range(5), *range(7, 20)]
    assert not before[5:7].equal(after[5:7])
    if is_moe(check_model(any_model)["text_config"]):  # an expert's product of more or fewer tokens rounds otherwise
        torch.testing.assert_close(before[others], after[others], rtol=0, atol=2e-6)
    else:
        assert before[others].equal(after[others])


@pytest.mark.slow
@pytest.mark.parametrize("settings", STAGES.values(), ids=STAGES)
def test_gradient_checkpointing_and_every_zero_stage_make_the_same_steps(any_model, pictures, ranks, settings):
    minibatches = fixed_minibatches(any_model, pictures, ranks, budget=60)
    results = []
    for more in ({}, settings):
        policy = open_policy(any_model, ranks, gradient_clipping=UNCLIPPED, deepspeed=SGD, **more)
        before = weights_of(policy)
        losses = losses_of(policy, minibatches, 2)
        results.append((losses, {name: weight - before[name] for name, weight in weights_of(policy).items()}))
        policy.close()
    (losses, moved), (other_losses, other_moved) = results
    assert other_losses == pytest.approx(losses, rel=1e-5, abs=1e-6)
    off = sum((moved[name] - other_moved[name]).square().sum() for name in moved).sqrt()
    assert off <= 2e-5 * sum(each.square().sum() for each in moved.values()).sqrt()
    assert all(each.any() for each in moved.values())


def trained(model: str, ranks, pictures) -> tuple[Policy, object]:
    policy = open_policy(model, ranks, lr=1e-2)
    before = weights_of(policy)
    losses_of(policy, fixed_minibatches(model, pictures, ranks), 1)
    assert all(not weight.equal(before[name]) for name, weight in policy.named_weights())
    return policy, load_encoder(model, SMALL_IMAGES)


def test_an_export_has_the_released_names_and_loads_in_transformers_with_every_tensor_equal(any_model, pictures, ranks, tmp_path):
    policy, encoder = trained(any_model, ranks, pictures)
    family = family_of(check_model(any_model)["model_type"])
    policy.export(tmp_path / "exported", any_model, encoder)
    files = [next(folder.glob("*.safetensors")) for folder in (Path(any_model), tmp_path / "exported")]
    names = [set(load_file(file)) for file in files]
    assert names[0] == names[1] == {family.released_name(name) for name in policy.parameter_names}
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "exported", dtype=torch.float32)
    weights = dict(policy.engine.module.qwen.named_parameters())
    held = dict(again.named_parameters())
    assert held.keys() == weights.keys() and all(weight.equal(weights[name]) for name, weight in held.items())


def test_a_policy_that_goes_back_repeats_its_updates_to_the_last_bit(any_model, pictures, ranks, tmp_path):
    policy = open_policy(any_model, ranks, zero_stage=1)
    minibatches = fixed_minibatches(any_model, pictures, ranks, budget=60)
    losses_of(policy, minibatches, 1)
    policy.save(tmp_path)
    rest, weights = losses_of(policy, minibatches, 2), weights_of(policy)
    policy.load(tmp_path)
    assert losses_of(policy, minibatches, 2) == rest
    assert all(weight.equal(weights[name]) for name, weight in policy.named_weights())


def test_names_of_parts_weights_and_special_tokens_are_those_of_the_model(any_model):
    """Checks the facts that nothing else would miss: a part without weights, or a token that the tokenizer cuts up."""
    family = family_of(check_model(any_model)["model_type"])
    encoder, packed = parts_of(any_model)
    names = {name for name, _ in packed.qwen.named_parameters()}
    parts = {family.part_of(name) for name in names}
    assert parts == {"vision", "merger", "language"} | ({"router"} if family.experts else set())
    assert family.tied_weights[0] in names and packed.qwen.get_submodule(family.patch_embedding)
    assert all(len(encoder.tokenizer.encode(token)) == 1 for token in (family.image_token, family.video_token, family.end_token))
