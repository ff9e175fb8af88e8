"""A tracker in any state of health leaves the run alone."""

import threading

import pytest

from tests.conftest import PATIENCE_S
from vlrl.trackers.background import Background


class Toy:
    """A tracker that notes its calls, raises in one of them, or waits in every call until it is let go."""

    def __init__(self, broken: str = "", wait: threading.Event | None = None) -> None:
        self.broken, self.wait, self.calls = broken, wait, []
        self._called("start")

    def step(self, step, metrics):
        self._called(f"step {step}")

    def rollouts(self, step, lines):
        self._called(f"rollouts {step}: {len(lines)}")

    def summary(self, values):
        self._called("summary")

    def close(self):
        self._called("close")

    def _called(self, name):
        if self.wait and name != "start":
            assert self.wait.wait(PATIENCE_S)
        if name == self.broken:
            raise RuntimeError(f"no {name} today")
        self.calls.append(name)


@pytest.fixture
def opened():
    """Opens toys in the background, and keeps them by the order in which they were opened."""
    toys = []

    def open_toy(*, patience_s: float = PATIENCE_S, **health) -> Background:
        def start():
            toys.append(Toy(**health))
            return toys[-1]

        return Background("toy", start, tables_every=2, patience_s=patience_s)

    return open_toy, toys


def rollout(task: str, slot: int, advantage: float) -> dict:
    return {"task": task, "slot": slot, "round": 0, "advantage": advantage}


def test_calls_reach_it_in_order_and_a_table_of_one_group_a_task_every_so_many_steps(opened):
    open_toy, toys = opened
    tracker = open_toy()
    lines = [rollout("a", 0, 0.0), rollout("a", 1, 0.5), rollout("a", 1, -0.5), rollout("b", 2, 0.0)]
    for step in (1, 2):
        tracker.rollouts(step, lines)
        tracker.step(step, {"x": 1.0})
    tracker.summary({})
    tracker.close()
    assert toys[0].calls == ["start", "step 1", "rollouts 2: 3", "step 2", "summary", "close"]


@pytest.mark.parametrize("broken", ["start", "step 2", "summary", "close"])
def test_one_that_raises_is_off_after_one_warning(opened, caplog, broken):
    open_toy, toys = opened
    tracker = open_toy(broken=broken)
    for step in (1, 2, 3):
        tracker.step(step, {})
    tracker.summary({})
    tracker.close()
    assert caplog.messages == [f"toy failed and is off for the rest of the run (RuntimeError: no {broken} today)"]


def test_one_that_hangs_holds_up_neither_a_step_nor_the_end(opened, caplog):
    open_toy, _ = opened
    never = threading.Event()
    tracker = open_toy(wait=never, patience_s=0.2)
    tracker.step(1, {})
    tracker.close()
    never.set()
    assert caplog.messages == ["toy failed and is off for the rest of the run (it did not finish within 0.2 s)"]


def test_one_that_falls_far_behind_is_off_and_keeps_no_memory(opened, caplog):
    open_toy, toys = opened
    never = threading.Event()
    tracker = open_toy(wait=never)
    for step in range(100):
        tracker.step(step, {})
    never.set()
    tracker.close()
    assert caplog.messages == ["toy failed and is off for the rest of the run (it is 64 calls behind)"]


def test_a_restart_ends_one_copy_and_begins_another_even_after_a_failure(opened):
    open_toy, toys = opened
    tracker = open_toy(broken="step 2")
    for step in (1, 2):
        tracker.step(step, {})
    tracker.restart()
    tracker.step(1, {})
    tracker.close()
    assert [toy.calls for toy in toys] == [["start", "step 1"], ["start", "step 1", "close"]]
