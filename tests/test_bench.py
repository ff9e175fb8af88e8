"""The benches run, on little, and what they hold to one another agrees."""

import json

import pytest
import torch

from bench.plot import main as plot
from bench.sizes import SIZES
from tests.loop import finished, python

pytestmark = pytest.mark.slow


def ran(name: str, *arguments: str) -> str:
    return finished(python("-m", f"bench.{name}", *arguments))


def test_an_update_has_trl_s_loss_and_gradient_by_either_path(tiny_dense, tmp_path):
    arguments = ["--model", tiny_dense, "--cases", "vision-ragged", "--groups", "2", "--repeats", "2", "--trl-batch", "4"]
    printed = ran("update", *arguments, "--json", str(tmp_path / "out.json"))
    assert "| vision-ragged | group |" in printed
    found = json.loads((tmp_path / "out.json").read_text())["cases"]["vision-ragged"]
    assert all(loss < 1e-5 and gradient < 1e-5 for loss, gradient in found["agreement"].values())
    assert found["peak_mb"]["group"] < found["peak_mb"]["trl"]
    assert found["computed"]["group"][0] < found["computed"]["separate"][0] < found["computed"]["trl"][0]
    (tmp_path / "out.json").rename(tmp_path / "update.json")
    plot(tmp_path)
    assert "vision-ragged, group" in (tmp_path / "update-speed.svg").read_text()


def test_the_sizes_have_the_parameters_of_the_released_models():
    from transformers import AutoModelForImageTextToText

    released = {"2-2B": 2.21, "2-7B": 8.29, "2.5-3B": 3.75, "2.5-7B": 8.29}
    released |= {"2B": 2.13, "4B": 4.44, "8B": 8.77, "30B-A3B": 31.07, "235B-A22B": 235.67}
    released |= {"3.5-9B": 9.41, "3.5-35B-A3B": 35.11}  # without the layer that predicts a second token
    assert released.keys() == SIZES.keys()
    for name, size in SIZES.items():
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(size.config())
        assert sum(parameter.numel() for parameter in model.parameters()) / 1e9 == pytest.approx(released[name], abs=0.01)


def test_sampling_by_groups_and_growth_by_size_are_told(tiny_dense):
    few = ["--model", tiny_dense, "--repeats", "2"]
    printed = ran("rollout", *few, "--groups", "1", "--group-size", "2", "--tokens", "4")
    assert "shared: " in printed and "sync: " in printed
    assert "| group | G = 32 |" in ran("scaling", *few, "--axes", "group")
    assert "ranks: 1, a thread each" in ran("scaling", *few, "--axes", "ranks")


def test_what_a_step_s_log_costs_is_told(tiny_dense):
    printed = ran("logging", "--model", tiny_dense, "--prompts", "2", "--group-size", "2", "--tokens", "20")
    assert "rank 0: " in printed and "12 of 12 rollouts kept" in printed


def test_where_a_step_s_time_goes_is_told(tiny_dense, tmp_path):
    sizes = ("--train", "24", "--eval", "4")
    finished(python("-m", "vlrl.cli", "data", "build", "data_recipes/chain_sum.py", "--out", tmp_path, *sizes))
    mixture = {
        "chain_sum": {"weight": 1, "rows": str(tmp_path / "train"), "eval_rows": str(tmp_path / "eval"), "max_new_tokens": 24}
    }
    few = {"mixture": json.dumps(mixture), "model": tiny_dense, "coldstart.steps": 0, "prompts_per_step": 4}
    printed = ran("step", "--steps", "3", "--skip", "1", *(f"{name}={value}" for name, value in few.items()))
    assert "| generate |" in printed and "other than generate" in printed


def test_the_loss_heads_agree_with_double_precision(tmp_path):
    printed = ran(
        "loss_head",
        "--tokens",
        "64",
        "--size",
        "16",
        "--vocabulary",
        "3000",
        "--repeats",
        "2",
        "--json",
        str(tmp_path / "out.json"),
    )
    assert printed.count("\n| ") >= 4
    heads = json.loads((tmp_path / "out.json").read_text())["heads"]
    assert all(loss < 1e-5 and gradient < 1e-5 for loss, gradient in (head["off_by"] for head in heads.values()))
