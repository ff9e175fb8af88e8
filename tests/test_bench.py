"""The benches run, on little, and what they hold to one another agrees."""

import json

import pytest

from tests.loop import PATIENCE_S, finished, python

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * PATIENCE_S)]


def ran(name: str, *arguments: str) -> str:
    return finished(python("-m", f"bench.{name}", *arguments))


def test_an_update_has_trl_s_loss_and_gradient_by_either_path(tiny_dense, tmp_path):
    pytest.importorskip("trl")
    arguments = ["--model", tiny_dense, "--cases", "vision-ragged", "--groups", "2", "--repeats", "2", "--trl-batch", "4"]
    printed = ran("update", *arguments, "--json", str(tmp_path / "out.json"))
    assert "| vision-ragged | group |" in printed
    found = json.loads((tmp_path / "out.json").read_text())["cases"]["vision-ragged"]
    assert all(loss < 1e-5 and gradient < 1e-5 for loss, gradient in found["agreement"].values())
    assert found["peak_mb"]["group"] < found["peak_mb"]["trl"]


def test_the_loss_heads_agree_with_double_precision(tmp_path):
    pytest.importorskip("trl")
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


def test_the_cost_of_the_diagnostics_is_told(tiny_dense):
    printed = ran("diagnostics", "--model", tiny_dense, "--prompts", "2", "--group", "2", "--tokens", "8", "--repeats", "3")
    assert "ms without" in printed
