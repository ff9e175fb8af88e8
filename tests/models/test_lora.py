"""LoRA's adapters in a model of any family: where they go, that they change nothing at first, and what they add up to."""

import pytest
import torch

from tests.conftest import OF_EACH_FAMILY, TEXTS
from tests.models.helpers import message
from tests.rollout.opening import open_encoder
from vlrl.config import LoraConfig
from vlrl.models.checkpoint_io import load_model
from vlrl.models.config_json import FAMILIES
from vlrl.models.lora import (
    adapter_parameters,
    adapters_of,
    add_adapters,
    is_adapter,
    lora_faults,
    merged,
    plain_name,
    set_adapters_aside,
    targeted_weights,
)
from vlrl.models.packed_model import PackedModel
from vlrl.models.packing import pack_groups
from vlrl.models.tensor_check import empty_model
from vlrl.models.tiny import build_tiny

ALL = ("attention", "mlp", "gdn", "experts", "merger", "vision")


@pytest.fixture(scope="module", params=OF_EACH_FAMILY)
def tiny(request, tmp_path_factory) -> str:
    """A tiny model of each family."""
    folder = tmp_path_factory.mktemp("models") / request.param
    build_tiny(folder, TEXTS, family=FAMILIES[request.param])
    return str(folder)


def settings_of(model: str, rank: int = 4) -> LoraConfig:
    """Every target that the model has."""
    targeted = targeted_weights(empty_model(model), LoraConfig(rank=rank, targets=ALL))
    return LoraConfig(rank=rank, targets=tuple(target for target, weights in targeted.items() if weights))


def opened(model: str, settings: LoraConfig | None, dtype: torch.dtype = torch.float32):
    loaded = load_model(model, dtype=dtype, freeze_vision=False, gradient_checkpointing=False)
    if settings:
        add_adapters(loaded, settings)
    return loaded


def randomise(model) -> None:
    """Gives each B values, so that the adapters count."""
    numbers = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=numbers) * 0.05)


def logprobs(model, folder: str, pictures) -> torch.Tensor:
    encoder, banned = open_encoder(folder)
    prompt = encoder.encode(message("Which digit is this?", pictures[0]))
    packed = PackedModel(model, temperature=1.0, banned=banned)
    with torch.no_grad():
        return packed(pack_groups([(prompt, [[30, 31, 32], [40, 41]])], encoder.filler()))[0]


def test_every_target_of_a_family_has_adapters_and_nothing_else_is_trained(tiny):
    settings = settings_of(tiny)
    model = opened(tiny, settings)
    targeted = targeted_weights(empty_model(tiny), settings)
    assert adapters_of(model).keys() == {name for weights in targeted.values() for name in weights}
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained and all(is_adapter(name) for name in trained)
    assert sum(each.numel() for each in trained.values()) == adapter_parameters(empty_model(tiny), settings)


def test_by_default_all_linear_layers_of_the_language_model_but_fused_experts_have_adapters(tiny):
    model = empty_model(tiny)
    linear = {
        f"{name}.weight"
        for name, module in model.model.language_model.named_modules(prefix="model.language_model")
        if isinstance(module, torch.nn.Linear) and module.out_features > 1  # a gate of one number has no low rank
    }
    targeted = targeted_weights(model, LoraConfig(rank=4))
    assert {name for weights in targeted.values() for name in weights} == linear


def test_every_linear_layer_of_the_vision_tower_is_a_part_that_adapters_can_go_to(tiny):
    model = empty_model(tiny)
    modules = model.model.visual.named_modules(prefix="model.visual")
    linear = {f"{name}.weight" for name, module in modules if isinstance(module, torch.nn.Linear)}
    targeted = targeted_weights(model, LoraConfig(rank=4, targets=("merger", "vision")))
    assert {name for weights in targeted.values() for name in weights} == linear


def test_new_adapters_are_the_same_ones_each_time_and_change_no_bit(tiny, pictures):
    settings = settings_of(tiny)
    torch.manual_seed(3)
    first = opened(tiny, settings)
    torch.manual_seed(4)
    state, second = torch.get_rng_state(), opened(tiny, settings)
    assert torch.get_rng_state().equal(state)
    others = dict(second.named_parameters())
    assert all(parameter.equal(others[name]) for name, parameter in first.named_parameters())
    assert logprobs(first, tiny, pictures).equal(logprobs(opened(tiny, None), tiny, pictures))


def test_weights_with_their_adapters_added_compute_what_both_do(tiny, pictures):
    model, plain = opened(tiny, settings_of(tiny)), opened(tiny, None)
    before = logprobs(model, tiny, pictures)
    randomise(model)
    expected = logprobs(model, tiny, pictures)
    assert (expected - before).abs().max() > 1e-2
    whole = dict(merged(((name, each.detach()) for name, each in _without_head(model)), adapters_of(model)))
    with torch.no_grad():
        own = dict(plain.named_parameters())
        assert whole.keys() == own.keys()
        for name, weight in whole.items():
            own[name].copy_(weight)
    torch.testing.assert_close(logprobs(plain, tiny, pictures), expected, rtol=0, atol=2e-6)


def test_a_sum_is_peft_s_and_is_rounded_once(tiny):
    settings = settings_of(tiny)
    exact, rounded = opened(tiny, settings), opened(tiny, settings, torch.bfloat16)
    randomise(rounded)
    with torch.no_grad():
        for one, other in zip(exact.parameters(), rounded.parameters(), strict=True):
            one.copy_(other)
    modules = dict(exact.named_modules())
    sums = dict(merged(rounded.named_parameters(), adapters_of(rounded)))
    own = {plain_name(name): each for name, each in exact.named_parameters() if not is_adapter(name)}
    for name, adapter in adapters_of(exact).items():
        change = modules[adapter.a.removesuffix(".lora_A.default.weight")].get_delta_weight("default")
        assert change.abs().max() > 0
        torch.testing.assert_close(sums[name], (own[name] + change).bfloat16(), rtol=2**-7, atol=1e-6)


def test_adapters_set_aside_leave_the_base_model_to_the_bit_and_come_back(tiny, pictures):
    model = opened(tiny, settings_of(tiny))
    base = logprobs(model, tiny, pictures)
    randomise(model)
    changed = logprobs(model, tiny, pictures)
    set_adapters_aside(model, aside=True)
    assert logprobs(model, tiny, pictures).equal(base)
    set_adapters_aside(model, aside=False)
    assert logprobs(model, tiny, pictures).equal(changed) and not changed.equal(base)


def test_a_target_that_the_model_lacks_and_a_rank_above_a_layer_are_named(tiny_dense, tiny_moe):
    dense, moe = empty_model(tiny_dense), empty_model(tiny_moe)
    assert not list(lora_faults(dense, LoraConfig(rank=8))) and not list(lora_faults(moe, LoraConfig(rank=8)))
    assert list(lora_faults(dense, LoraConfig(rank=8, targets=("experts", "attention")))) == [
        "lora.targets: 'experts' is not a part of this 'qwen3_vl'; it has attention, mlp, merger, vision"
    ]
    assert list(lora_faults(moe, LoraConfig(rank=8, targets=("mlp",)))) == [
        "lora.targets: 'mlp' is not a part of this 'qwen3_vl_moe'; it has attention, experts, merger, vision"
    ]
    assert list(lora_faults(dense, LoraConfig(rank=100))) == [
        "lora.rank: 100 is above 64, the smaller side of model.language_model.layers.0.self_attn.k_proj.weight; use 64 or less"
    ]


@pytest.mark.parametrize(("size", "parameters"), [("8B", 43_646_976), ("30B-A3B", 13_369_344)])
def test_the_adapters_of_a_released_size_are_less_than_a_hundredth_of_it(size, parameters):
    from transformers import AutoModelForImageTextToText

    from bench.sizes import SIZES

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(SIZES[size].config())
    assert adapter_parameters(model, LoraConfig(rank=16)) == parameters < 0.01 * model.num_parameters()


def _without_head(model):
    return [(name, each) for name, each in model.named_parameters() if not name.startswith("lm_head")]
