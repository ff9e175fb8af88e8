"""What is Qwen2.5-VL's alone: windows of its vision tower, and the names and the config.json of its released checkpoints."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import TEXTS
from tests.models.helpers import enlarge
from tests.models.test_attention import stand_in_backward, stand_in_forward, with_gradients
from vlrl.models import flash_attention as flash
from vlrl.models.attention import image_plan, window_plan
from vlrl.models.checkpoint_io import check_model, load_model
from vlrl.models.config_json import family_of, read_local_config, text_config_of
from vlrl.models.families.qwen2_5_vl import QWEN2_5_VL
from vlrl.models.flops import Cost
from vlrl.models.tiny import build_tiny, write_random
from vlrl.preflight.model_settings import setting_faults
from vlrl.run_file import parse_config

SETTINGS = {
    "name": "it",
    "model": "it",
    "steps": 1,
    "prompts_per_step": 2,
    "sampling": {"max_new_tokens": 8},
    "engine": {"max_model_len": 512},
}
RUN = parse_config(SETTINGS | {"mixture": {"a": {"weight": 1, "rows": "a"}}}, "here")
GRIDS = [[(1, 4, 6)], [(1, 10, 14), (1, 2, 2), (1, 8, 4), (1, 2, 2)]]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    build_tiny(folder, TEXTS, family=QWEN2_5_VL)
    return Path(enlarge(str(folder)))


@pytest.fixture
def copy(tiny, tmp_path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


def load(folder):
    return load_model(str(folder), dtype=torch.float32, freeze_vision=False, gradient_checkpointing=True)


def equal(one, other) -> bool:
    mine, theirs = dict(load(one).named_parameters()), dict(load(other).named_parameters())
    return mine.keys() == theirs.keys() and all(weight.equal(theirs[name]) for name, weight in mine.items())


def flatten(config: dict) -> dict:
    """config.json as the released checkpoints have it: the language model's settings at the top, MRoPE by its older name."""
    text = dict(config["text_config"])
    rope = text.pop("rope_parameters")
    older = {"rope_theta": rope["rope_theta"], "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]}}
    return text | older | {name: value for name, value in config.items() if name != "text_config"}


@pytest.mark.parametrize("varlen", [False, True], ids=["by size", "varlen"])
@pytest.mark.parametrize("grid", GRIDS, ids=len)
def test_windows_together_equal_transformers_window_by_window(grid, varlen, tiny, monkeypatch):
    monkeypatch.setattr(flash, "_gpu_forward", stand_in_forward)
    monkeypatch.setattr(flash, "_gpu_backward", stand_in_backward)
    qwen, plain = load(tiny), load(tiny)
    for block in plain.model.visual.blocks:
        block.attn.config._attn_implementation = "sdpa"
    grid = torch.tensor(grid)
    sizes = grid.prod(-1).tolist()
    pixels = torch.randn(sum(sizes), 3 * 2 * 14 * 14, generator=torch.Generator().manual_seed(0))
    order, ends = QWEN2_5_VL.windows.order(qwen.config.vision_config, grid.tolist())
    images = image_plan(sizes, device=pixels.device, varlen=varlen)
    windows = window_plan(order, ends, device=pixels.device, varlen=varlen)
    assert len(windows["window_plan"].own) == (1 if varlen else len(set(np.diff(ends)))) and len(ends) > len(grid) + 1

    def features_and_gradients(model, **more):
        out = torch.cat(model.model.get_image_features(pixels, grid, return_dict=True, **more).pooler_output)
        return with_gradients(out, list(model.model.visual.parameters()))

    ours, theirs = features_and_gradients(qwen, **images, **windows), features_and_gradients(plain)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_patch_outside_a_window_reaches_it_through_the_whole_blocks_alone(tiny):
    qwen = load(tiny)
    kinds = [block.attn.config._attn_implementation for block in qwen.model.visual.blocks]
    assert kinds == ["vlrl_windows", "vlrl_images", "vlrl_windows"]


def test_flops_of_a_windowed_block_grow_with_the_image_and_those_of_a_whole_one_with_its_square(tiny):
    cost = Cost.of(check_model(str(tiny)))
    small, large = (cost.images(torch.tensor([[1, side, side]])) for side in (8, 16))
    whole, blocks, side = 1, 3, 64
    assert cost.patch_pair == 4 * whole * side and cost.window_pair == 4 * (blocks - whole) * side
    assert large - 4 * small == cost.patch_pair * (256**2 - 4 * 64**2)  # windows of 4 x 4 patches: four times as many


def test_the_files_have_the_released_names_and_either_names_load(tiny, copy):
    (file,) = copy.glob("*.safetensors")
    released = load_file(file)
    assert {name.split(".")[0] for name in released} == {"visual", "model"}
    assert not any(name.startswith(("model.visual.", "model.language_model.")) for name in released)
    save_file({QWEN2_5_VL.own_name(name): weight for name, weight in released.items()}, file, metadata={"format": "pt"})
    assert equal(tiny, copy)


def test_every_name_comes_back_from_the_released_one(tiny):
    for name, _ in load(tiny).named_parameters():
        assert QWEN2_5_VL.own_name(QWEN2_5_VL.released_name(name)) == name == QWEN2_5_VL.own_name(name)
    assert QWEN2_5_VL.released_name("lm_head.weight") == QWEN2_5_VL.own_name("lm_head.weight") == "lm_head.weight"


def test_a_config_with_the_language_model_s_settings_at_its_top_is_read(tiny, copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(flatten(config)))
    text = text_config_of(read_local_config(str(copy)))
    assert "text_config" not in text and text["num_hidden_layers"] == 4 and equal(tiny, copy)
    assert check_model(str(copy))["text_config"]["rope_parameters"]["mrope_section"] == [4, 5, 7]
    assert not list(setting_faults(RUN, text, 1))


def test_a_sliding_window_is_refused_in_one_sentence():
    (fault,) = setting_faults(RUN, {"use_sliding_window": True}, 1)
    assert fault.startswith("model 'it' has use_sliding_window: true") and "set it to false in its config.json" in fault


def test_a_head_that_text_config_alone_calls_tied_is_refused_since_transformers_would_tie_it(tmp_path):
    write_random(tmp_path, TEXTS, QWEN2_5_VL, *QWEN2_5_VL.tiny_configs(), tied=False)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["tie_word_embeddings"] = True
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="lm_head.weight is not its embedding, but config.json has tie_word_embeddings: true"):
        load(tmp_path)


def test_the_tiny_model_is_of_this_family(tiny):
    assert family_of(read_local_config(str(tiny))["model_type"]) is QWEN2_5_VL
