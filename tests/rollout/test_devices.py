"""Replicas that a run starts get the GPUs of its host that follow those of the trainers."""

from pathlib import Path

import pytest
import torch

from vlrl.distributed.ranks import Ranks
from vlrl.rollout.devices import replica_devices
from vlrl.run_file import load_config

RUN_FILE = Path(__file__).parents[2] / "configs/cpu.yaml"


@pytest.fixture
def host(monkeypatch):
    """A host with eight GPUs, some of which a scheduler gave to the run."""

    def of(trainers: int, visible: str | None = None) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(trainers))
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible) if visible else monkeypatch.delenv("CUDA_VISIBLE_DEVICES", False)

    return of


def devices(rank: int, ranks: int, *overrides: str) -> list[list[str]]:
    return replica_devices(load_config(RUN_FILE, ["rollout.place=separate", *overrides]), Ranks(rank, ranks, rank))


def test_no_gpu_is_used_twice(host):
    host(2)
    assert [devices(rank, 2, "engine.tensor_parallel=3") for rank in range(2)] == [[["2", "3", "4"]], [["5", "6", "7"]]]


def test_gpus_are_those_that_the_run_may_see(host):
    host(1, "GPU-a,5,GPU-c")
    assert devices(0, 1, "rollout.replicas=2") == [["5"], ["GPU-c"]]


def test_replicas_on_other_hosts_take_none_of_this_one(host):
    host(1, "0")
    assert devices(0, 1, "rollout.hosts=[a:1, b:1]") == [[], []]


def test_an_engine_in_the_trainer_s_process_takes_no_gpu_of_its_own(host):
    host(1, "0")
    assert devices(0, 1, "rollout.place=colocated") == []


def test_too_few_gpus_are_one_sentence(host):
    host(4, "0,1,2,3")
    with pytest.raises(
        ValueError, match="4 trainers and 4 replicas of 1 GPUs need 8 GPUs on this host, and it has 4; start fewer"
    ):
        devices(0, 4)
