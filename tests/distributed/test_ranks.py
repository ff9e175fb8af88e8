"""The time limit of collectives holds in every group, and a run that loses a process continues by itself."""

import os
import re
import signal
import socket
import time

import psutil
import pytest

from tests.conftest import PATIENCE_S
from tests.loop import EVEN_LENGTH, TORCHRUN, Loop, finished, on_two_ranks
from vlrl.data.shards import NewRow, write_dataset
from vlrl.distributed.ranks import choose_interface, route_to

LIMIT_S = 45


def test_every_group_of_processes_has_the_time_limit_of_the_run(tiny_dense):
    for printed in on_two_ranks("tests.distributed.group_limits_on_ranks", str(LIMIT_S), tiny_dense):
        limits = re.search(r"limits \[(.*)\]", printed)[1].split(", ")
        assert len(limits) >= 3, "DeepSpeed made no group of its own"
        assert set(limits) == {f"{LIMIT_S:.1f}"}


def test_the_interface_of_a_route_is_one_of_this_machine_s():
    assert route_to("127.0.0.1") == ("127.0.0.1", "lo")
    assert route_to("no host of this name") == ("", "")


@pytest.mark.parametrize("name", ["LOCAL_WORLD_SIZE", "LOCAL_SIZE"])
def test_on_one_host_no_interface_is_chosen(monkeypatch, name):
    monkeypatch.setattr(socket, "socket", None)  # nor is one looked for
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setenv(name, "2")
    before = dict(os.environ)
    choose_interface()
    assert before == dict(os.environ)


@pytest.fixture
def loop(tmp_path, tiny_dense) -> Loop:
    """A run on two ranks of this host, without a heartbeat."""
    (tmp_path / "even_length.py").write_text(EVEN_LENGTH)
    rows = [NewRow(question=f"Row {n}?", answer="1", response="ab") for n in range(24)]
    write_dataset(tmp_path / "rows", rows, source="made up", licence="none", recipe="test", recipe_version=1)
    settings = {"name": "run", "runs": tmp_path / "runs", "model": tiny_dense, "task_folders": [tmp_path], "steps": 12}
    settings |= {"mixture": {"even_length": {"weight": 1, "rows": tmp_path / "rows"}}, "prompts_per_step": 4}
    settings |= {"sampling.group_size": 4, "policy.max_tokens_per_micro_batch": 512, "policy.zero_stage": 2}
    settings |= {"coldstart.steps": 0, "checkpoints.every": 1, "wandb.mode": "disabled", "heartbeat_s": 0}
    return Loop(overrides=settings, launcher=TORCHRUN)


def rank_of(launcher: psutil.Process, rank: int) -> psutil.Process:
    return next(child for child in launcher.children() if child.environ().get("RANK") == str(rank))


def waited_for_checkpoint(loop: Loop, process) -> None:
    until = time.monotonic() + PATIENCE_S
    while not loop.checkpoints() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)


@pytest.mark.slow
def test_a_stopped_rank_is_noticed_within_the_time_limit_also_without_a_heartbeat(loop):
    loop = loop.with_(launcher=TORCHRUN, collective_timeout_s=LIMIT_S, steps=1000)
    process = loop.start()
    waited_for_checkpoint(loop, process)
    rank_of(psutil.Process(process.pid), 1).send_signal(signal.SIGSTOP)
    printed = finished(process, exit_code=1)
    assert re.search(rf"vlrl: .*(?i:timed out).*{LIMIT_S}000 ?ms", printed), printed


@pytest.mark.slow
def test_a_run_whose_process_is_killed_starts_again_by_itself_and_equals_the_uninterrupted_one(loop, tmp_path):
    settings = {"launcher": (*TORCHRUN[:-1], "--max-restarts", "1", "-m"), "heartbeat_s": 60}
    killed = loop.with_(**settings)
    process = killed.start()
    waited_for_checkpoint(killed, process)
    rank_of(psutil.Process(process.pid), 1).kill()
    printed = finished(process)
    assert re.search(r"continues after step \d", printed), printed
    whole = loop.with_(name="whole", launcher=TORCHRUN)
    whole.run()
    assert killed.steady_metrics == whole.steady_metrics
    assert killed.rollouts == whole.rollouts
