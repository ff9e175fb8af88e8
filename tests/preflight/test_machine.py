"""What a run refuses about the machine: a GPU build that finds no GPU, and an allocator that vLLM's sleep does not stand."""

from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch

from vlrl.cli.doctor import doctor
from vlrl.preflight import machine
from vlrl.preflight.machine import machine_faults, missing_gpu
from vlrl.run_file import load_config

CONFIG = Path(__file__).parents[2] / "configs/cpu.yaml"
VERSION = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  535.129.03  Release Build\nGCC version:  gcc version 12.3.0\n"


@pytest.fixture
def gpu_build(monkeypatch, tmp_path):
    """vLLM's build for GPUs is installed; the driver's file is at the returned path."""
    monkeypatch.setattr(machine, "version", {"vllm": "0.32.0"}.__getitem__)
    monkeypatch.setattr(machine, "_DRIVER", tmp_path / "driver")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return tmp_path / "driver"


def test_a_gpu_build_of_vllm_without_a_gpu_is_refused_with_the_driver_s_version(gpu_build):
    assert "NVIDIA's driver is not loaded" in missing_gpu()
    gpu_build.write_text(VERSION)
    (fault,) = machine_faults(load_config(CONFIG))
    assert "driver has version 535.129.03; update the driver" in fault and "\n" not in fault
    (device,) = (line for line in doctor() if line.startswith("device: "))
    assert device == f"device: CPU only; {fault}"


def test_a_gpu_build_with_a_gpu_is_fine(gpu_build, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert missing_gpu() == ""


@pytest.mark.parametrize(("cuda", "refused"), [("'13.0'", True), ("None", False)])
def test_torch_s_build_is_read_from_its_own_file(cuda, refused, tmp_path, monkeypatch):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/version.py").write_text(f"debug = False\ncuda: Optional[str] = {cuda}\ngit_version = 'cf30'\n")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine, "version", missing)
    monkeypatch.setattr(machine, "distribution", lambda name: Installed(tmp_path))
    assert bool(missing_gpu()) == refused


def missing(name):
    raise PackageNotFoundError(name)


class Installed:
    """A distribution in a folder."""

    def __init__(self, folder: Path) -> None:
        self.locate_file = folder.joinpath


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_expandable_segments_are_refused_with_tensor_parallel_and_sleep(name, monkeypatch):
    monkeypatch.setenv(name, "max_split_size_mb:512, expandable_segments:True")
    parallel, alone, awake = (
        list(machine_faults(load_config(CONFIG, (f"engine.tensor_parallel={size}", f"engine.sleep={sleep}"))))
        for size, sleep in ((4, "true"), (1, "true"), (4, "false"))
    )
    assert alone == awake == []
    assert parallel == [
        f"{name} has expandable_segments:True, with which vLLM can crash under engine.tensor_parallel 4 and engine.sleep; unset "
        f"{name}, or set engine.sleep to false"
    ]
