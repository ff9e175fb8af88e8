"""Engines in processes of their own sample what the engine in the training process does, whatever happens to them meanwhile."""

import gc
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from tests.conftest import PATIENCE_S
from tests.loop import ROOT
from tests.models.helpers import message
from tests.rollout.opening import KV_CACHE_GB, open_encoder, open_engine, requests_for
from vlrl import config as cfg
from vlrl.distributed.status import own_news
from vlrl.rollout.engine import Engine, Request
from vlrl.rollout.protocol import TOKEN
from vlrl.rollout.replicas import Replicas
from vlrl.types import Rollout

pytestmark = pytest.mark.slow

SECRET = "of the tests"
SILENT_S = 6.0


def opened(model: str, tensor_parallel: int = 1) -> dict:
    """What tests.rollout.opening starts an engine with, as a replica is told it."""
    encoder, banned = open_encoder(model)
    engine = cfg.EngineConfig(max_model_len=512, kv_cache_gb=KV_CACHE_GB, tensor_parallel=tensor_parallel)
    return {
        "engine": engine.model_dump(mode="json"),
        "model": model,
        "dtype": "float32",
        "seed": 0,
        "end_tokens": list(encoder.end_tokens),
        "banned": banned,
        "merge_size": encoder.merge_size,
        "model_type": encoder.family.model_type,
        "tells_routes": False,
        "lora": None,
        "threads": torch.get_num_threads(),
    }


@contextmanager
def replicas(
    model: str, places: Sequence[str] = ("",), *, tensor_parallel: int = 1, shrinks: bool = False, direct: bool = False
) -> Iterator[Replicas]:
    settings = {"silent_s": SILENT_S, "shrinks": shrinks, "direct": direct, "devices": [()] * len(places)}
    with closing(Replicas(places, opened(model, tensor_parallel), **settings)) as engine:
        yield engine


def requests_of(model: str, pictures: list[str]) -> list[Request]:
    encoder, _ = open_encoder(model)
    prompts = [encoder.encode(message("What is 1 + 2?")), encoder.encode(message("Look.", *pictures[:2]))]
    prompts += [encoder.encode(message(f"Count to {number}.")) for number in range(4)]
    requests = requests_for(prompts, 4)
    return [replace(request, max_new_tokens=4 + 32 * request.slot) for request in requests]  # some are at work when others end


def in_order(rollouts: Iterator[Rollout]) -> list[Rollout]:
    return sorted(rollouts, key=lambda rollout: (rollout.slot, rollout.sample))


def changed(model: str, factor: float) -> list[tuple[str, torch.Tensor]]:
    """The model's tensors as released, each times a factor."""
    files = sorted(Path(model).glob("*.safetensors"))
    return [(name, tensor * factor) for file in files for name, tensor in load_file(file).items()]


def push(engine: Engine, model: str, factor: float, version: int) -> None:
    engine.load_weights(changed(model, factor))
    engine.reset_caches()
    engine.version = version


@pytest.fixture(scope="module")
def model(tiny_dense) -> str:
    return tiny_dense


@pytest.fixture(scope="module")
def here(model, ranks, pictures) -> dict[int, list[Rollout]]:
    """What the engine in this process samples, with the model's weights (0) and with pushed ones (2)."""
    encoder, banned = open_encoder(model)
    engine = open_engine(model, encoder, banned, ranks)
    found = {0: in_order(engine.generate(requests_of(model, pictures)))}
    push(engine, model, 1.01, 2)
    return found | {2: in_order(engine.generate(requests_of(model, pictures)))}


@pytest.fixture(scope="module")
def one(model) -> Iterator[Replicas]:
    with replicas(model) as engine:
        yield engine


def pid_of(engine: Replicas, number: int = 0) -> int:
    return engine._pool[number].process.pid


def sampled_while(engine: Replicas, requests: Sequence[Request], act: Callable[[], None]) -> list[Rollout]:
    """The rollouts, during whose sampling something happens after the third of them."""
    rollouts = []
    for rollout in engine.generate(requests):
        rollouts.append(rollout)
        if len(rollouts) == 3:
            act()
    return in_order(iter(rollouts))


def test_a_replica_samples_the_bits_of_the_engine_in_this_process(one, here, model, pictures) -> None:
    assert in_order(one.generate(requests_of(model, pictures))) == here[0]
    push(one, model, 1.01, 2)
    assert in_order(one.generate(requests_of(model, pictures))) == here[2]


def test_an_engine_that_nobody_holds_leaves_the_trainer_its_process_group(here, model, ranks) -> None:
    open_engine(model, *open_encoder(model), ranks)  # not the first: that one is held by a traceback that vLLM's imports keep
    gc.collect()
    assert dist.is_initialized()


def test_the_status_says_how_many_responses_a_replica_has_sampled(one, model, pictures) -> None:
    seen: list[str] = []
    requests = requests_of(model, pictures)
    sampled_while(one, requests, lambda: seen.extend(own_news(0, "a")["others"]))
    name = f"engine replica 0 (process {pid_of(one)})"
    assert seen == [f"{name}: sampled 3 of {len(requests)} responses; last heard from 0 s ago"]
    assert own_news(0, "a")["others"] == [f"{name}: waiting for work"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_replica_that_is_lost_while_it_samples_changes_no_bit(one, here, model, pictures, number, caplog) -> None:
    push(one, model, 1.01, 2)
    lost = pid_of(one)
    assert sampled_while(one, requests_of(model, pictures), lambda: os.kill(lost, number)) == here[2]
    assert pid_of(one) != lost
    assert f"engine replica 0 (process {lost}) is lost: it has" in caplog.text


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_replica_that_is_lost_while_it_is_idle_changes_no_bit(one, here, model, pictures, number) -> None:
    push(one, model, 1.01, 2)
    os.kill(pid_of(one), number)
    assert in_order(one.generate(requests_of(model, pictures))) == here[2]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_replica_that_is_lost_while_it_takes_weights_changes_no_bit(one, here, model, pictures, number, monkeypatch) -> None:
    monkeypatch.setattr("vlrl.rollout.replicas._BUCKET", 1)

    def torn() -> Iterator[tuple[str, torch.Tensor]]:
        for place, named in enumerate(changed(model, 1.01)):
            if place == 5:
                os.kill(pid_of(one), number)
            yield named

    one.load_weights(torn())
    one.reset_caches()
    one.version = 2
    assert in_order(one.generate(requests_of(model, pictures))) == here[2]


def test_a_replica_with_an_old_version_is_refused(one, model, pictures) -> None:
    push(one, model, 1.01, 2)
    one._version = 4
    with pytest.raises(RuntimeError, match="holds weights of version 2, and was asked to sample with 4"):
        list(one.generate(requests_of(model, pictures)))


def test_two_replicas_share_the_prompts_and_each_request_is_answered_once(model, here, pictures) -> None:
    requests = requests_of(model, pictures)
    with replicas(model, ["", ""]) as engine:
        found = in_order(engine.generate(requests))
        assert [(each.slot, each.sample) for each in found] == [(each.slot, each.sample) for each in here[0]]
        assert sampled_while(engine, requests, lambda: os.kill(pid_of(engine, 1), signal.SIGKILL)) == found


@contextmanager
def listening() -> Iterator[str]:
    """The address of a replica of the command, on this machine."""
    env = os.environ | {TOKEN: SECRET, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "vlrl.cli", "replica", "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        yield process.stdout.readline().split()[-1]
    finally:
        process.kill()
        process.wait()


def test_an_attached_replica_keeps_its_engine_for_the_next_trainer(model, here, pictures, monkeypatch) -> None:
    monkeypatch.setenv(TOKEN, SECRET)
    with listening() as address:
        with replicas(model, [address]) as engine:
            assert engine.version == 0
            assert in_order(engine.generate(requests_of(model, pictures))) == here[0]
            push(engine, model, 1.01, 2)
        with replicas(model, [address]) as engine:
            assert engine.version == -1, "another trainer's weights must be replaced"
            push(engine, model, 1.01, 2)
            assert in_order(engine.generate(requests_of(model, pictures))) == here[2]


def test_an_attached_replica_whose_trainer_vanishes_in_the_middle_serves_the_next_one(model, here, pictures, monkeypatch) -> None:
    monkeypatch.setenv(TOKEN, SECRET)
    with listening() as address:
        with replicas(model, [address]) as engine:
            next(engine.generate(requests_of(model, pictures)))
        with replicas(model, [address]) as engine:
            assert in_order(engine.generate(requests_of(model, pictures))) == here[0]


def test_a_stranger_is_refused_and_does_not_keep_the_trainer_waiting(model, monkeypatch) -> None:
    monkeypatch.setenv(TOKEN, SECRET)
    with listening() as address:
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n" + b"x" * 100)
            with replicas(model, [address]) as engine:
                assert engine.version == 0
        monkeypatch.setenv(TOKEN, "a guess")
        with pytest.raises(ValueError, match=f"has another {TOKEN}"), replicas(model, [address]):
            pass


def test_an_address_where_nobody_listens_is_named(model, monkeypatch) -> None:
    monkeypatch.setenv(TOKEN, SECRET)
    monkeypatch.setattr("vlrl.rollout.connection._CALL_S", 1.5)
    sentence = r"engine replica 0 \(at 127.0.0.1:9\) can't be used: no answer in 1.5 s"
    with pytest.raises(OSError, match=sentence), replicas(model, ["127.0.0.1:9"]):
        pass


def test_another_model_than_the_replica_s_is_refused(model, monkeypatch) -> None:
    monkeypatch.setenv(TOKEN, SECRET)
    with listening() as address:
        with replicas(model, [address]):
            pass
        with pytest.raises(RuntimeError, match=r"it runs with other settings \(seed\)"):
            Replicas([address], opened(model) | {"seed": 1}, silent_s=SILENT_S, shrinks=False, devices=[()])


def test_without_a_replica_that_cannot_be_reached_again_the_others_sample_its_share(model, pictures, monkeypatch, caplog) -> None:
    monkeypatch.setenv(TOKEN, SECRET)
    monkeypatch.setattr("vlrl.rollout.connection._CALL_S", 2.0)
    requests = requests_of(model, pictures)
    with listening() as stays, replicas(model, ["", stays], shrinks=True) as engine:
        whole = [(each.slot, each.sample) for each in in_order(engine.generate(requests))]
        engine._pool[0].place = "127.0.0.1:9"  # nobody listens there
        found = sampled_while(engine, requests, lambda: os.kill(pid_of(engine), signal.SIGKILL))
        assert [(each.slot, each.sample) for each in found] == whole
    assert "is left out" in caplog.text
