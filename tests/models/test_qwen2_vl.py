"""What is Qwen2-VL's alone: a vision tower without windows, the names in its vision_config, and its released config.json."""

import json
from pathlib import Path

import pytest
import torch

from tests.conftest import TEXTS
from tests.models.helpers import enlarge
from tests.models.test_attention import stand_in_backward, stand_in_forward, with_gradients
from tests.models.test_qwen2_5_vl import flatten
from vlrl.models import flash_attention as flash
from vlrl.models.attention import image_plan
from vlrl.models.checkpoint_io import check_model, load_model
from vlrl.models.config_json import read_local_config, text_config_of
from vlrl.models.families.qwen2_vl import QWEN2_VL
from vlrl.models.flops import Cost
from vlrl.models.tiny import build_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    build_tiny(folder, TEXTS, family=QWEN2_VL)
    return Path(enlarge(str(folder)))


def load(folder):
    return load_model(str(folder), dtype=torch.float32, freeze_vision=False, gradient_checkpointing=True)


@pytest.mark.parametrize("varlen", [False, True], ids=["by image", "varlen"])
def test_every_block_sees_the_whole_image_as_in_transformers(varlen, tiny, monkeypatch):
    monkeypatch.setattr(flash, "_gpu_forward", stand_in_forward)
    monkeypatch.setattr(flash, "_gpu_backward", stand_in_backward)
    qwen, plain = load(tiny), load(tiny)
    assert {block.attn.config._attn_implementation for block in qwen.model.visual.blocks} == {"vlrl_images"}
    for block in plain.model.visual.blocks:
        block.attn.config._attn_implementation = "sdpa"
    grid = torch.tensor([[1, 10, 14], [1, 2, 2], [1, 8, 4]])
    sizes = grid.prod(-1).tolist()
    pixels = torch.randn(sum(sizes), 3 * 2 * 14 * 14, generator=torch.Generator().manual_seed(0))

    def features_and_gradients(model, **more):
        out = torch.cat(model.model.get_image_features(pixels, grid, return_dict=True, **more).pooler_output)
        return with_gradients(out, list(model.model.visual.parameters()))

    images = image_plan(sizes, device=pixels.device, varlen=varlen)
    for one, other in zip(features_and_gradients(qwen, **images), features_and_gradients(plain), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_operations_of_a_patch_are_counted_by_embed_dim_and_not_by_hidden_size(tiny):
    """In its vision_config hidden_size is the language model's, which the tower's blocks do not have."""
    cost = Cost.of(check_model(str(tiny)))
    side, blocks, text = 96, 3, 128
    assert cost.patch_pair == 4 * blocks * side and cost.window_pair == 0
    weights = 3 * 2 * 14**2 * side + blocks * (4 * side**2 + 2 * side * 2 * side) + side * (4 * side + text)
    assert cost.patch == 2 * weights


def test_a_config_as_released_is_read(tiny):
    """The language model's settings at the top, and names in vision_config that transformers does not read."""
    before = dict(load(tiny).named_parameters())
    config = flatten(json.loads((tiny / "config.json").read_text()))
    config["vision_config"] |= {"in_chans": 3, "spatial_patch_size": 14}
    (tiny / "config.json").write_text(json.dumps(config))
    assert "text_config" not in text_config_of(read_local_config(str(tiny)))
    assert all(weight.equal(before[name]) for name, weight in load(tiny).named_parameters())
    assert check_model(str(tiny))["text_config"]["rope_parameters"]["mrope_section"] == [4, 5, 7]


def test_places_are_in_thousandths_unlike_qwen2_5_vl_s():
    assert QWEN2_VL.coordinates == "relative_1000"
