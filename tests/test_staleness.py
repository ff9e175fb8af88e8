"""Runs with separate engines, and runs that sample ahead of the training: exact where they must be, and no further behind."""

import os
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from contextlib import suppress
from typing import Any

import psutil
import pytest

from tests.conftest import PATIENCE_S
from tests.loop import ROOT, SMALL_STEPS, TORCHRUN, Loop, same_weights

pytestmark = pytest.mark.slow

STEPS = SMALL_STEPS
UPDATES = 2  # of a step: its mini-batches
QUOTAS = {"chain_sum": 2, "digits": 2, "even_length": 4}  # prompts of a step


@pytest.fixture(scope="session")
def together(small) -> Loop:
    """The engine in the training process, each batch sampled when it is needed."""
    loop = small.with_(name="together")
    loop.run()
    return loop


@pytest.fixture(scope="session")
def ahead_by_1(small) -> tuple[int, Loop]:
    """A run whose batches are sampled a step ahead of the training, in a process of their own."""
    return 1, ahead_by(1, small)


@pytest.fixture(scope="session")
def ahead_by_2(small) -> tuple[int, Loop]:
    return 2, ahead_by(2, small)


def ahead_by(steps: int, small: Loop) -> Loop:
    loop = small.with_(name=f"ahead{steps}", rollout__place="separate", rollout__staleness=steps)
    loop.run()
    return loop


@pytest.fixture(params=["ahead_by_1", "ahead_by_2"])
def ahead(request) -> tuple[int, Loop]:
    return request.getfixturevalue(request.param)


def same(one: Loop, other: Loop) -> bool:
    """Whether both runs have the same metrics, rollouts and weights, bit for bit."""
    return (
        one.steady_metrics == other.steady_metrics
        and one.rollouts == other.rollouts
        and same_weights(one.weights(), other.weights())
    )


def test_a_separate_engine_changes_no_bit(small, together) -> None:
    separate = small.with_(name="separate", rollout__place="separate")
    separate.run()
    assert same(separate, together)


def test_a_separate_engine_changes_no_bit_of_a_moe_model_that_replays_its_routes(small, tiny_moe) -> None:
    moe = small.with_(name="moe_together", model=tiny_moe, algorithm__routing_replay="r2", steps=2)
    moe.run()
    separate = moe.with_(name="moe_separate", rollout__place="separate")
    separate.run()
    assert same(separate, moe)


def test_adapters_reach_a_separate_engine(small) -> None:
    lora = small.with_(name="lora_together", lora={"rank": 4, "sync": "adapter"}, policy__lr=1e-3, steps=2)
    lora.run()
    separate = lora.with_(name="lora_separate", rollout__place="separate")
    separate.run()
    assert same(separate, lora)


def test_each_batch_is_sampled_with_the_weights_that_its_step_foresees(ahead) -> None:
    staleness, loop = ahead
    versions = defaultdict(set)
    for line in loop.rollouts:
        versions[line["step"]] |= {version for version, _ in line["weight_versions"]}
    assert versions == {step: {UPDATES * max(0, step - 1 - staleness)} for step in range(1, STEPS + 1)}
    for line in loop.metrics:
        behind = UPDATES * min(line["step"] - 1, staleness)
        assert {value for name, value in line.items() if name.startswith("rollout/updates_since/")} == {behind}


def test_a_run_ahead_draws_the_rows_and_holds_the_ratios_of_one_that_is_not(ahead, together) -> None:
    def drawn(loop: Loop) -> list[tuple]:
        return [(each["step"], each["slot"], each["task"], each["row"]) for each in loop.rollouts if each["round"] == 0]

    assert drawn(ahead[1]) == drawn(together)
    slots = Counter((line["step"], line["task"]) for line in ahead[1].rollouts if line["round"] == 0 and line["sample"] == 0)
    assert slots == {(step, task): count for step in range(1, STEPS + 1) for task, count in QUOTAS.items()}


def test_the_place_of_the_engine_changes_no_bit_of_a_run_ahead(ahead, small) -> None:
    staleness, loop = ahead
    here = small.with_(name=f"ahead_here{staleness}", rollout__staleness=staleness)
    here.run()
    assert same(here, loop)


@pytest.mark.parametrize(
    ("straight", "number", "moment", "which"),
    [
        ("ahead_by_2", signal.SIGKILL, "optimizer step", 6),
        ("ahead_by_1", signal.SIGTERM, "optimizer step", 5),
    ],
)
def test_a_run_ahead_that_is_stopped_ends_like_one_that_is_not(request, straight, number, moment, which) -> None:
    _, straight = request.getfixturevalue(straight)
    loop = straight.with_(name=f"{straight.overrides['name']}-{number.name}")
    loop.interrupted(number, moment, which, exit_code=-number if number == signal.SIGKILL else 128 + number)
    loop.run()
    assert same(loop, straight)


def test_a_replica_that_dies_in_the_middle_of_a_run_changes_no_bit(ahead_by_1) -> None:
    loop = ahead_by_1[1].with_(name="replica")
    command = [sys.executable, "-m", "vlrl.cli", *loop.command]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    killed: list[int] = []
    while process.poll() is None and len(killed) < 2:
        if len(loop.metrics) > 2 * len(killed) and (found := replicas_of(process.pid)) and found[0] not in killed:
            os.kill(found[0], signal.SIGKILL)
            killed.append(found[0])
    printed, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, printed
    assert printed.count("is lost") == len(killed) == 2, printed
    assert same(loop, ahead_by_1[1])


PART = 6  # tokens of a response under one version of the weights; the last takes what is left of at most 24
AHEAD = 3


@pytest.fixture(scope="session")
def in_parts(small) -> Loop:
    """A run whose longer responses go on under the next weights."""
    loop = small.with_(name="in_parts", rollout__place="separate", rollout__staleness=AHEAD, rollout__partial_tokens=PART)
    loop.run()
    return loop


def parts_of(line: dict[str, Any]) -> list[list[int]]:
    """[version, tokens] of each part that the response should have."""
    batch, left = line["step"] - 1, line["num_tokens"]
    if batch < AHEAD:
        return [[0, left]]  # the first batches are sampled before the training begins
    versions = [UPDATES * (batch - ahead) for ahead in range(AHEAD, 0, -1)]
    if line["round"]:
        return [[versions[-1], left]]
    tokens = [min(PART, left), min(PART, max(0, left - PART)), max(0, left - 2 * PART)]
    return [[version, each] for version, each in zip(versions, tokens, strict=True) if each]


def test_the_parts_of_a_response_are_sampled_with_the_weights_that_its_step_foresees(in_parts) -> None:
    assert [line["weight_versions"] for line in in_parts.rollouts] == list(map(parts_of, in_parts.rollouts))
    assert Counter(len(line["weight_versions"]) for line in in_parts.rollouts)[AHEAD] > 10
    for step in range(1, STEPS + 1):
        tokens: Counter[str] = Counter()
        behind: Counter[str] = Counter()
        for line in in_parts.rollouts:
            if line["step"] == step and trained(line, in_parts):
                tokens[line["task"]] += line["num_tokens"]
                behind[line["task"]] += sum(
                    (UPDATES * (step - 1) - version) * count for version, count in line["weight_versions"]
                )
        for task in QUOTAS:
            logged = in_parts.metrics[step - 1][f"rollout/updates_since/{task}"]
            assert logged == pytest.approx(behind[task] / tokens[task], abs=1e-9)


def trained(line: dict[str, Any], loop: Loop) -> bool:
    """Whether the line's group was not replaced in a later round."""
    place = line["step"], line["slot"]
    return line["round"] == max(each["round"] for each in loop.rollouts if (each["step"], each["slot"]) == place)


def test_parts_of_responses_are_the_same_bits_wherever_they_are_sampled(in_parts, small) -> None:
    here = small.with_(name="in_parts_here", rollout__staleness=AHEAD, rollout__partial_tokens=PART)
    here.run()
    assert same(here, in_parts)


def test_a_run_with_begun_responses_that_is_killed_ends_like_one_that_is_not(in_parts) -> None:
    loop = in_parts.with_(name="in_parts-killed")
    loop.interrupted(signal.SIGKILL, "optimizer step", 6, exit_code=-signal.SIGKILL)
    loop.run()
    assert same(loop, in_parts)


def replicas_of(run: int) -> list[int]:
    """The processes of the run's replicas."""
    with suppress(psutil.Error):
        return [child.pid for child in psutil.Process(run).children() if "replica" in child.cmdline()]
    return []


def test_two_ranks_in_the_middle_of_responses_continue_on_one(small) -> None:
    settings = {"rollout__staleness": AHEAD, "rollout__partial_tokens": PART, "checkpoints__every": 1}
    loop = small.with_(name="in_parts_on_two", launcher=TORCHRUN, **settings)
    loop.interrupted(signal.SIGTERM, "step logged", 2, exit_code=None)
    assert 2 <= loop.checkpoints()[-1] < STEPS
    loop = small.with_(name="in_parts_on_two", **settings)
    loop.run()
    assert [line["weight_versions"] for line in loop.rollouts] == list(map(parts_of, loop.rollouts))


def test_two_ranks_run_ahead_with_a_replica_each_and_one_rank_continues_with_the_batches_that_wait(small) -> None:
    settings = {"rollout__place": "separate", "rollout__staleness": 1, "checkpoints__every": 1}
    loop = small.with_(name="ahead_on_two", launcher=TORCHRUN, **settings)
    loop.interrupted(signal.SIGTERM, "step logged", 2, exit_code=None)
    assert 2 <= loop.checkpoints()[-1] < STEPS
    loop = small.with_(name="ahead_on_two", **settings)
    loop.run()
    assert {(line["step"], version) for line in loop.rollouts for version, _ in line["weight_versions"]} == {
        (step, UPDATES * max(0, step - 2)) for step in range(1, STEPS + 1)
    }
