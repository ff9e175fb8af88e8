"""Replicas that a run starts get the GPUs of its host that follow those of the trainers."""

import pytest
import torch

from vlrl.distributed.ranks import Ranks
from vlrl.rollout.start import _devices


@pytest.fixture
def host(monkeypatch):
    """A host with eight GPUs, some of which a scheduler gave to the run."""

    def of(trainers: int, visible: str | None = None) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(trainers))
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible) if visible else monkeypatch.delenv("CUDA_VISIBLE_DEVICES", False)

    return of


def test_no_gpu_is_used_twice(host):
    host(2)
    of_replicas = [_devices(Ranks(rank, 2, rank), 1, 0, 3) for rank in range(2)]
    assert of_replicas == [["2", "3", "4"], ["5", "6", "7"]]


def test_gpus_are_those_that_the_run_may_see(host):
    host(1, "GPU-a,5,GPU-c")
    assert [_devices(Ranks(0, 1, 0), 2, number, 1) for number in range(2)] == [["5"], ["GPU-c"]]


def test_too_few_gpus_are_one_sentence(host):
    host(4, "0,1,2,3")
    with pytest.raises(
        ValueError, match="4 trainers and 4 replicas of 1 GPUs need 8 GPUs on this host, and it has 4; start fewer"
    ):
        _devices(Ranks(0, 4, 0), 1, 0, 1)
