"""A run on two hosts: it computes what one host with two ranks computes, and whichever way a host is lost, the other says so."""

import re
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import PATIENCE_S
from tests.distributed.two_hosts import ADDRESS, TwoHosts, refusal
from tests.loop import EVEN_LENGTH, TORCHRUN, Loop, same_weights
from vlrl.data.shards import NewRow, write_dataset

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(refusal()), reason=f"needs ip netns: {refusal()}"),
]
STEPS = 16
LAUNCHER, WORKER = "torchrun --nnodes", "-u -m vlrl.cli train"


@pytest.fixture(scope="module")
def small(tmp_path_factory, tiny_dense) -> Loop:
    root = tmp_path_factory.mktemp("hosts")
    (root / "tasks").mkdir()
    (root / "tasks" / "even_length.py").write_text(EVEN_LENGTH)
    rows = [NewRow(question=f"Row {n}?", answer="1", response="ab") for n in range(24)]
    write_dataset(root / "rows", rows, source="made up", licence="none", recipe="test", recipe_version=1)
    settings = {"runs": root / "runs", "model": tiny_dense, "task_folders": [root / "tasks"], "steps": STEPS}
    settings |= {"mixture": {"even_length": {"weight": 1, "rows": root / "rows"}}, "prompts_per_step": 4}
    settings |= {"sampling.group_size": 4, "policy.max_tokens_per_micro_batch": 512, "policy.zero_stage": 2}
    settings |= {"coldstart.steps": 0, "checkpoints.every": 1, "wandb.mode": "disabled", "heartbeat_s": 15}
    return Loop(overrides=settings)


@pytest.fixture(scope="module")
def one_host(small) -> Loop:
    loop = small.with_(name="one_host", launcher=TORCHRUN)
    loop.run()
    return loop


@pytest.fixture(scope="module")
def hosts():
    with TwoHosts() as two:
        yield two


@pytest.fixture(scope="module")
def lossy(small) -> Loop:
    """The run that loses a host again and again."""
    return small.with_(name="lossy")


def waited_for(ready) -> None:
    until = time.monotonic() + PATIENCE_S
    while not ready():
        assert time.monotonic() < until
        time.sleep(0.05)


FAULTS = {
    "the cable": r"rank 1 \(hostb, last seen in: .*\) is gone or hangs: silent for \d+ s",
    "the worker": r"rank 1 \(hostb, last seen in: .*\) is gone or hangs: silent for \d+ s",
    "the worker, which hangs": r"rank 1 \(hostb, last seen in: .*\) is gone or hangs: silent for \d+ s",
    "the launcher": r"rank 1 \(hostb\) failed: its launcher, process \d+, has ended",
}


def break_it(hosts: TwoHosts, what: str) -> None:
    """Breaks something of the second host."""
    if what == "the cable":
        hosts.unplug(1)
    elif what == "the launcher":
        hosts.send(1, signal.SIGKILL, LAUNCHER)
    else:
        hosts.send(1, signal.SIGSTOP if "hangs" in what else signal.SIGKILL, WORKER)


@pytest.mark.parametrize("lost", FAULTS)
def test_a_lost_host_ends_the_run_on_the_other_with_its_name(hosts, lossy, lost, tmp_path):
    done = max(lossy.checkpoints(), default=0)
    launchers = [hosts.start(host, tmp_path / str(host), *lossy.command[1:]) for host in (0, 1)]
    try:
        waited_for(lambda: max(lossy.checkpoints(), default=0) > done or any(each.poll() is not None for each in launchers))
        break_it(hosts, lost)
        waited_for(lambda: launchers[0].poll() is not None)
        waited_for(lambda: not hosts.processes(0))
    finally:
        printed = (tmp_path / "0").read_text()
        print(printed, (tmp_path / "1").read_text())
        hosts.plug(1)
        for host in (0, 1):
            hosts.send(host, signal.SIGKILL)
        for each in launchers:
            each.wait(PATIENCE_S)
    (said,) = re.findall(r"^vlrl: .*", printed, re.MULTILINE)
    match = re.fullmatch(
        f"vlrl: {FAULTS[lost]}. Start it again on every host, it continues from the checkpoint of step (\\d+): .*", said
    )
    assert match and done < int(match[1]) <= lossy.checkpoints()[-1]
    assert "<launcher> -m vlrl.cli train configs/cpu.yaml" in said


def test_a_run_that_lost_hosts_continues_on_one_and_equals_the_uninterrupted_one(lossy, one_host):
    assert 1 <= len(lossy.metrics) < STEPS, "no test on two hosts came before"
    lossy.with_(launcher=TORCHRUN).run()
    assert len(lossy.metrics) == STEPS
    for line, other in zip(lossy.steady_metrics, one_host.steady_metrics, strict=True):
        assert line == pytest.approx(other, abs=1e-5, nan_ok=True)


@pytest.mark.parametrize(
    ("interface", "expected"),
    [
        ({}, "hosts: agree, and reach one another"),
        ({"GLOO_SOCKET_IFNAME": "lo"}, "network: hosta uses the interface lo, but its route"),
    ],
    ids=["well", "wrong interface"],
)
def test_the_doctor_finds_whether_the_hosts_reach_one_another(hosts, lossy, interface, expected, tmp_path):
    arguments = lossy.command[1:]
    launchers = [
        hosts.start(host, tmp_path / str(host), *arguments, COMMAND="doctor", **({} if host else interface)) for host in (0, 1)
    ]
    assert [each.wait(PATIENCE_S) for each in launchers] == [int(bool(interface))] * 2
    assert expected in (tmp_path / "0").read_text()


@pytest.fixture(scope="module")
def engine_here(small) -> Loop:
    loop = small.with_(name="engine_here", steps=8)
    loop.run()
    return loop


@pytest.mark.parametrize("transfer", ["memory", "direct"])
def test_a_replica_on_the_other_host_samples_the_bits_of_an_engine_in_the_trainer_and_outlives_its_cable(
    hosts, small, engine_here, transfer
) -> None:
    here = engine_here
    address = f"{ADDRESS.format(2)}:5601"
    there = small.with_(name=f"engine_there_{transfer}", steps=8, rollout__place="separate", rollout__hosts=[address])
    there = there.with_(rollout__transfer=transfer)
    vlrl = (sys.executable, "-u", "-m", "vlrl.cli")
    printed = [Path(there.overrides["runs"]) / f"engine_there_{transfer}.{name}.txt" for name in ("trainer", "replica")]
    replica = hosts.run(1, printed[1], *vlrl, "replica", "--listen", address, VLRL_TOKEN="of the test")
    trainer = hosts.run(0, printed[0], *vlrl, *there.command, VLRL_TOKEN="of the test")
    waited_for(lambda: len(there.metrics) > 2 or trainer.poll() is not None)
    hosts.unplug(1)
    waited_for(lambda: f"(at {address}) is lost" in printed[0].read_text() or trainer.poll() is not None)
    hosts.plug(1)
    assert trainer.wait(PATIENCE_S) == 0, printed[0].read_text()
    replica.kill()
    assert "go through the hosts' memory" not in printed[0].read_text()
    assert (there.steady_metrics, there.rollouts) == (here.steady_metrics, here.rollouts)
    assert same_weights(there.weights(), here.weights())
