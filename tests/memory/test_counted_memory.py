"""What is counted on fake tensors is what the same computation takes on real ones, byte by byte."""

from dataclasses import replace

import pytest
import torch

from tests.conftest import slow_but
from vlrl.config import LoraConfig
from vlrl.memory import activations
from vlrl.memory.activations import Activations
from vlrl.memory.live_bytes import LiveBytes
from vlrl.memory.shortened import Shortened, shortened
from vlrl.models.checkpoint_io import load_model
from vlrl.models.config_json import FAMILIES
from vlrl.models.lora import add_adapters
from vlrl.models.packed_model import PackedModel, token_scores
from vlrl.models.sizes import ModelSizes
from vlrl.models.tensor_check import empty_model
from vlrl.models.tiny import build_tiny

GROUPS, PATCHES = [(12, (7, 5)), (20, (9,))], 16


@pytest.fixture(scope="module", params=slow_but(FAMILIES, ("qwen3_vl_moe",)))
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    build_tiny(folder, ["0123456789"], family=FAMILIES[request.param])
    return str(folder)


def costs_of(model: str, **changed) -> Activations:
    settings = {"dtype": torch.float32, "checkpointing": False, "freeze_vision": False, "device": "cpu"} | changed
    return Activations(sizes=ModelSizes.of(empty_model(model)), **settings)


def real_peak(model: str, costs: Activations) -> int:
    """Bytes of the real tensors of a second forward and backward, when gradients are there."""
    settings = {"freeze_vision": costs.freeze_vision, "gradient_checkpointing": costs.checkpointing}
    loaded = load_model(model, dtype=costs.dtype, **settings)
    if costs.lora:
        add_adapters(loaded, costs.lora)
    packed = PackedModel(loaded, temperature=1.0, banned=[])
    pack = activations._pack(costs.sizes.config, GROUPS, PATCHES)
    width = packed.qwen.get_submodule(FAMILIES[costs.sizes.config.model_type].patch_embedding).weight[0].numel()
    pack = replace(pack, pixels=torch.zeros(len(pack.pixels), width))
    token_scores(pack, packed(pack), {}).zero.backward()
    live = LiveBytes("cpu")
    with live:
        token_scores(pack, packed(pack), {}).zero.backward()
    return live.peak


CHANGED = [{"checkpointing": True}, {}, {"freeze_vision": True}, {"dtype": torch.bfloat16}, {"lora": LoraConfig(rank=4)}]


@pytest.mark.parametrize("changed", slow_but(CHANGED, CHANGED[:1]), ids=str)
def test_fake_tensors_take_what_real_ones_take(model, changed):
    costs = costs_of(model, **changed)
    assert costs.peak(GROUPS, PATCHES) == pytest.approx(real_peak(model, costs), rel=0.005)


@pytest.mark.parametrize(("device", "checkpointing"), slow_but([("cpu", False), ("cuda", True)], ["cuda"]))
def test_layers_that_are_not_computed_take_what_they_would(model, device, checkpointing, monkeypatch):
    costs = costs_of(model, checkpointing=checkpointing, device=device, dtype=torch.bfloat16)
    text, vision = costs.sizes.config.text_config, costs.sizes.config.vision_config
    kinds = getattr(text, "layer_types", None) or ()
    text.num_hidden_layers, vision.depth = 14 if len(set(kinds)) > 1 else 8, 8
    if kinds:
        text.layer_types = (kinds * 14)[:14]
    for special in ("deepstack_visual_indexes", "fullatt_block_indexes"):
        if hasattr(vision, special):
            setattr(vision, special, [3, 5])
    of_few = costs.peak(GROUPS, PATCHES)
    whole = Shortened(config=costs.sizes.config, period=1, periods=0, blocks=0)
    assert shortened(whole.config).periods and shortened(whole.config).blocks
    monkeypatch.setattr(activations, "shortened", lambda config: whole)
    activations._counted.cache_clear()
    assert of_few == pytest.approx(costs.peak(GROUPS, PATCHES), rel=0.005)


def test_freed_tensors_and_views_are_not_counted():
    with LiveBytes("cpu") as live:
        kept = torch.empty(1000)
        kept.view(10, 100).t().add_(1)
        torch.empty(500)
    assert (live.now, live.peak) == (4000, 6000)
    del kept
    assert live.now == 0
