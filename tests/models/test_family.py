"""A second family, a few lines away from the first: it loads, packs, trains a step and exports as its own facts say."""

from dataclasses import replace

import pytest
import torch
from safetensors import safe_open

import vlrl.models.cuda_wheels  # noqa: F401 (before transformers)

# isort: split
from transformers import AutoConfig, AutoModelForImageTextToText, Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

from tests.conftest import SMALL_IMAGES, TEXTS
from tests.models.helpers import message, parts_of
from vlrl import config as cfg
from vlrl.models import config_json
from vlrl.models.checkpoint_io import check_model, load_encoder
from vlrl.models.config_json import family_of
from vlrl.models.families.qwen3_vl_moe import QWEN3_VL_MOE
from vlrl.models.flops import Cost
from vlrl.models.packing import pack_groups
from vlrl.models.tiny import build_tiny
from vlrl.trainer.policy import Policy

EXPERTS = "model.language_model.layers.1.mlp.experts.gate_up_proj"


class ToyConfig(Qwen3VLMoeConfig):
    model_type = "toy_vl"


class ToyModel(Qwen3VLMoeForConditionalGeneration):
    config_class = ToyConfig
    _can_set_experts_implementation = classmethod(lambda cls: True)  # transformers reads it off a class's own source file


TOY = replace(
    QWEN3_VL_MOE,
    model_type="toy_vl",
    image_token="<|vision_pad|>",
    chat_template=QWEN3_VL_MOE.chat_template.replace("<|image_pad|>", "<|vision_pad|>"),
    config_class=lambda: ToyConfig,
    released_layout=lambda name, tensor: tensor,  # experts as transformers holds them
)


@pytest.fixture
def toy(monkeypatch, tmp_path) -> str:
    """A checkpoint of the toy family, which transformers and vlrl know during the test."""
    AutoConfig.register("toy_vl", ToyConfig, exist_ok=True)
    AutoModelForImageTextToText.register(ToyConfig, ToyModel, exist_ok=True)
    monkeypatch.setitem(config_json.FAMILIES, "toy_vl", TOY)
    build_tiny(tmp_path / "toy", TEXTS, family=TOY)
    return str(tmp_path / "toy")


def test_a_model_of_no_family_is_refused_with_the_types_there_are(tmp_path):
    with pytest.raises(ValueError, match="model 'it' is a 'toy_vl'; vlrl trains qwen.* and .*; docs/own-family.md"):
        family_of("toy_vl", model="it")


def test_another_placeholder_reaches_the_tokens_and_the_model(toy, pictures):
    encoder, packed = parts_of(toy)
    prompt = encoder.encode(message("Which digit is this?", pictures[0]))
    (offset, length), placeholder = prompt.image_spans[0], encoder.tokenizer.convert_tokens_to_ids("<|vision_pad|>")
    assert set(prompt.tokens[offset : offset + length].tolist()) == {placeholder} == {packed.qwen.config.image_token_id}
    assert placeholder in encoder.banned_tokens(check_model(toy)["text_config"]["vocab_size"])
    assert encoder.encode(message("<|vision_pad|>", pictures[0])).tokens.tolist().count(placeholder) == length


def test_packed_logprobs_equal_those_of_a_plain_sequence(toy, pictures):
    encoder, packed = parts_of(toy)
    prompt = encoder.encode(message("Which digit is this?", pictures[0]))
    response = [30, 31, 32, 40]
    packed_logprobs, _ = packed(pack_groups([(prompt, [response, response[:2]])], encoder.filler()))
    plain = AutoModelForImageTextToText.from_pretrained(toy, dtype=torch.float32).train()
    tokens = torch.cat([prompt.tokens, torch.tensor(response)])[None]
    kinds = (tokens == plain.config.image_token_id).int()
    logits = plain(
        input_ids=tokens,
        attention_mask=torch.ones_like(tokens),
        mm_token_type_ids=kinds,
        pixel_values=prompt.pixels,
        image_grid_thw=prompt.grid,
    ).logits[0, len(prompt.tokens) - 1 : -1]
    logprobs = logits.masked_fill(packed.banned, -torch.inf).log_softmax(1)[range(4), response]
    torch.testing.assert_close(packed_logprobs[:4], logprobs, rtol=0, atol=1e-5)
    torch.testing.assert_close(packed_logprobs[4:], logprobs[:2], rtol=0, atol=1e-5)


def test_a_trained_model_is_exported_in_its_family_s_layout_and_loads_again(toy, ranks, tmp_path):
    encoder = load_encoder(toy, SMALL_IMAGES)
    settings = cfg.PolicyConfig(dtype="float32", zero_stage=0, lr=1e-2)
    policy = Policy(settings, toy, ranks=ranks, updates=1, temperature=1.0, banned=[])
    pack = pack_groups([(encoder.encode(message("What is 12 + 34?")), [[30, 31, 32]])], encoder.filler())
    changes = policy.changes()
    scores = policy.forward(pack)
    policy.backward(scores.zero - scores.logprobs.mean())
    policy.step()
    assert changes.since()["router"] > 0 and policy.routing.load() is not None
    policy.export(tmp_path / "exported", toy, encoder)
    weights = dict(policy.named_weights())
    with safe_open(tmp_path / "exported" / "model-00001.safetensors", "pt") as file:
        assert set(file.keys()) == policy.parameter_names
        assert file.get_slice(EXPERTS).get_shape() == [8, 192, 128]  # another family's would be [8, 128, 192]
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "exported", dtype=torch.float32)
    assert all(torch.equal(parameter, weights[name]) for name, parameter in again.named_parameters())


def test_a_group_s_cost_is_the_family_s_to_tell(toy, monkeypatch):
    cheap = replace(TOY, flops=lambda config: QWEN3_VL_MOE.flops(config) | {"target": 0.0})
    monkeypatch.setitem(config_json.FAMILIES, "toy_vl", cheap)
    assert Cost.of(check_model(toy)).target == 0.0 < Cost.of(check_model(toy) | {"model_type": "qwen3_vl_moe"}).target
