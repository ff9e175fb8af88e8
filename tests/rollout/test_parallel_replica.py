"""A replica of two processes, each with a part of the model, samples what one with the whole model does."""

import os
import signal
from collections.abc import Iterator, Sequence

import psutil
import pytest
import torch

from tests.rollout.test_replicas import (
    SECRET,
    changed,
    in_order,
    listening,
    pid_of,
    push,
    replicas,
    requests_of,
    sampled_while,
)
from vlrl.rollout.protocol import TOKEN
from vlrl.rollout.replicas import Replicas
from vlrl.types import Rollout

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tiny_dense) -> str:
    return tiny_dense


@pytest.fixture(scope="module")
def whole(model, pictures) -> list[Rollout]:
    """What one process samples with pushed weights."""
    with replicas(model) as engine:
        push(engine, model, 1.01, 2)
        return in_order(engine.generate(requests_of(model, pictures)))


@pytest.fixture(scope="module")
def parallel(model) -> Iterator[Replicas]:
    with replicas(model, tensor_parallel=2) as engine:
        yield engine


def assert_same(found: Sequence[Rollout], whole: Sequence[Rollout]) -> None:
    """The same responses, but for last bits of their log-probs, which may once tip a token."""
    same = [(mine, other) for mine, other in zip(found, whole, strict=True) if mine.tokens == other.tokens]
    assert len(same) >= len(whole) - 2
    for mine, other in same:
        torch.testing.assert_close(torch.tensor(mine.logprobs), torch.tensor(other.logprobs), rtol=0, atol=1e-5)


def follower_of(engine: Replicas) -> int:
    (follower,) = [child for child in psutil.Process(pid_of(engine)).children() if "replica" in child.cmdline()]
    return follower.pid


def test_two_processes_sample_what_one_does(parallel, whole, model, pictures) -> None:
    push(parallel, model, 1.01, 2)
    assert_same(in_order(parallel.generate(requests_of(model, pictures))), whole)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_member_that_is_lost_while_it_samples_changes_no_bit(parallel, model, pictures, number, caplog) -> None:
    push(parallel, model, 1.01, 2)
    requests, lost = requests_of(model, pictures), pid_of(parallel)
    straight = in_order(parallel.generate(requests))
    follower = follower_of(parallel)
    assert sampled_while(parallel, requests, lambda: os.kill(follower, number)) == straight
    assert pid_of(parallel) != lost and f"(process {lost}) is lost" in caplog.text
    assert not psutil.pid_exists(follower) or psutil.Process(follower).status() == psutil.STATUS_ZOMBIE


def test_the_members_end_with_their_replica(model) -> None:
    with replicas(model, tensor_parallel=2) as engine:
        follower = psutil.Process(follower_of(engine))
    follower.wait(timeout=60)


def test_an_attached_replica_of_two_processes_outlives_its_trainers(model, whole, pictures, monkeypatch) -> None:
    monkeypatch.setenv(TOKEN, SECRET)

    def torn() -> Iterator[tuple[str, torch.Tensor]]:
        yield changed(model, 2.0)[0]
        raise KeyboardInterrupt

    with listening() as address:
        with replicas(model, [address], tensor_parallel=2) as engine:
            next(engine.generate(requests_of(model, pictures)))
        with replicas(model, [address], tensor_parallel=2) as engine, pytest.raises(KeyboardInterrupt):
            engine.load_weights(torn())
        with replicas(model, [address], tensor_parallel=2) as engine:
            assert engine.version == -1
            push(engine, model, 1.01, 2)
            assert_same(in_order(engine.generate(requests_of(model, pictures))), whole)
