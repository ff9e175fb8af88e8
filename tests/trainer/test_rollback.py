"""Going back from a collapse: the parts that are algebra, and real runs, also killed while they go back."""

import json
import shutil
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.loop import TORCHRUN, Loop, same_weights
from tests.preflight.good_run import RUN_FILE
from vlrl import config
from vlrl.config import Config
from vlrl.data.mixture import Mixture
from vlrl.data.shards import NewRow, write_dataset
from vlrl.distributed import checkpoint
from vlrl.run_file import parse_config
from vlrl.telemetry import collapse_watch as watch
from vlrl.telemetry.collapse_watch import Alarm
from vlrl.telemetry.metrics import Key, step_metrics
from vlrl.telemetry.run_log import RunLog
from vlrl.trainer import rollback
from vlrl.trainer.rollback import Rollback

STEPS, FALL, EVERY = 17, 12, 2
"""A task's reward falls at step 12, whatever the model does; the median of five falls two steps later."""

steps_strategy = st.sets(st.integers(0, 60).map(lambda n: 5 * n), min_size=1)


def rolling(**settings) -> Config:
    """A run file's settings, that roll back as these say."""
    import yaml

    return parse_config(yaml.safe_load(RUN_FILE) | {"on_collapse": "rollback", "rollback": settings}, "here")


def one(number: int, to_step: int, *tasks: str) -> Rollback:
    return Rollback(number=number, called_at=to_step + 9, to_step=to_step, sentences=("reward fell",), tasks=tasks, change="")


def call(signal: str = "reward", of: str = "sums", well_after: int = 20) -> Alarm:
    return Alarm(signal=signal, of=of, sentence=f"{signal} of {of} fell", well_after=well_after)


@settings(deadline=None)
@given(steps_strategy, st.integers(0, 400))
def test_the_target_is_the_newest_checkpoint_that_is_surely_well_else_the_oldest(checkpoints, well_after):
    chosen = rollback.target(checkpoints, well_after)
    well = {step for step in checkpoints if step <= well_after}
    assert chosen in checkpoints
    assert chosen == (max(well) if well else min(checkpoints))


@settings(deadline=None)
@given(st.data(), st.integers(1, 6), st.integers(1, 6))
def test_a_run_always_keeps_a_checkpoint_that_is_well_wherever_it_is_stopped(data, every, keep):
    """The regular checkpoints on the disk are the same for a run that is stopped at any steps, and one of them is well."""
    if every * keep < config.FEWEST_STEPS_KEPT:
        return
    well, straight, stopped = 0, {0}, {0}
    for step in range(1, 60):
        well = max(well, data.draw(st.integers(-3, 0)) + step - watch.RECENT)
        for disk, stops in ((straight, False), (stopped, data.draw(st.booleans()))):
            if step % every == 0 or stops:
                held = rollback.protected(disk, step, every=every, keep=keep, well_after=well)
                disk.add(step)
                disk &= held | set(sorted(disk)[-keep:])  # as checkpoints are pruned
        assert straight == {each for each in stopped if each % every == 0}
        assert rollback.target(straight, well) <= well


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 20)), max_size=5))
def test_a_checkpoint_is_left_behind_where_a_later_rollback_went_before_it(lives):
    """Each life goes from the step that was gone back to up to some later step: its checkpoints up to the next target remain."""
    rollbacks = [one(number, to_step) for number, (to_step, _) in enumerate(lives, start=1)]
    for count in range(len(rollbacks) + 1):
        for step in range(60):
            reachable = all(step <= each.to_step for each in rollbacks[count:])
            assert rollback.is_left_behind(step, count, rollbacks) != reachable
    assert not any(rollback.is_left_behind(step, len(rollbacks), rollbacks) for step in range(60))


@settings(deadline=None)
@given(st.integers(0, 5), st.floats(0.1, 2), st.floats(0.1, 2))
def test_the_rate_and_a_task_s_weight_are_scaled_once_for_each_rollback(count, scale_lr, scale_task_loss):
    settings = rolling(scale_lr=scale_lr, scale_task_loss=scale_task_loss, kl_coefficient=0.25)
    rollbacks = [one(number, 10, "sums") for number in range(1, count + 1)]
    changed = rollback.changed(settings, rollbacks)
    assert rollback.lr_scale(settings, rollbacks) == pytest.approx(scale_lr**count)
    assert changed.mixture["sums"].loss_weight == pytest.approx(scale_task_loss**count)
    assert changed.algorithm.kl_coefficient == (0.25 if count else 0)
    rest = changed.model_copy(update={"mixture": settings.mixture, "algorithm": settings.algorithm})
    assert rest == settings and changed.mixture["shapes"] == settings.mixture["shapes"]


def test_a_rollback_is_decided_for_its_signals_while_there_are_any_left():
    run = rolling(times=2, signals=["reward", "length"])
    asked = [call(well_after=22), call("length", "shapes", 17), call("entropy", "sums", 3)]
    decided = rollback.decide(run, (), asked, [0, 10, 15, 20], 30)
    assert decided is not None
    assert (decided.number, decided.called_at, decided.to_step, decided.tasks) == (1, 30, 15, ("sums", "shapes"))
    assert decided.sentences == ("reward of sums fell", "length of shapes fell")
    assert rollback.decide(run, (), [call("entropy")], [0], 30) is None
    assert rollback.decide(run, [one(1, 5), one(2, 5)], asked, [0], 30) is None
    assert rollback.decide(run, (), asked, [], 30) is None
    assert rollback.decide(run.model_copy(update={"on_collapse": "warn"}), (), asked, [0], 30) is None


def test_the_user_reads_what_was_called_where_the_run_goes_what_changes_and_how_many_are_left():
    run = rolling(times=2, scale_lr=0.5, kl_coefficient=0.01, scale_task_loss=0.25)
    decided = rollback.decide(run, (), [call()], [0, 20], 30)
    assert decided is not None
    assert rollback.announcement(run, decided) == (
        "step 30: reward of sums fell. The run goes back to step 20, with the learning rate times 0.5, "
        "algorithm.kl_coefficient 0.01, the loss_weight of sums times 0.25, new sampling seeds; 1 rollback left"
    )
    assert rollback.announcement(run, replace(decided, number=2)).endswith("new sampling seeds; no rollbacks left")
    assert rollback.used_up(run, [decided], [call()]) == ""
    assert rollback.used_up(run, [decided] * 2, [call()]) == ". The run continues: all 2 rollbacks are used up"
    assert rollback.used_up(run, [decided] * 2, [call("entropy")]) == ""


def test_the_record_reads_back_as_it_was_written(tmp_path):
    assert rollback.read_record(tmp_path) == ()
    rollbacks = (one(1, 20, "sums"), one(2, 10))
    rollback.write_record(tmp_path, rollbacks)
    assert rollback.read_record(tmp_path) == rollbacks
    rollback.begin_anew(tmp_path)
    assert rollback.read_record(tmp_path) == ()


def test_the_signals_of_the_run_file_are_those_of_the_watch():
    keys = [signal.key for signal in watch.SIGNALS]
    assert rolling(signals=keys).rollback.signals == tuple(keys)
    assert config.FEWEST_STEPS_KEPT == watch.RECENT


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("survived", range(30))
def test_what_is_undone_on_the_disk_is_the_same_after_a_kill_at_any_moment(tmp_path, monkeypatch, survived):
    """Every renaming, removal and opening of a file may be the last thing that the process does."""
    root = tmp_path / "checkpoints"
    done: list[str] = []

    def killing(function):
        def killed_after(*arguments, **options):
            if len(done) == survived:
                raise Killed
            done.append(function.__name__)
            return function(*arguments, **options)

        return killed_after

    def undo() -> None:
        log = RunLog(tmp_path)
        log.set_aside(4, tmp_path / "rolled_back/1")
        checkpoint.drop(
            tmp_path / "checkpoints", lambda step, state: rollback.is_left_behind(step, state["rollbacks"], [one(1, 4)])
        )
        log.truncate(4)

    log = RunLog(tmp_path)
    for step in range(1, 8):
        log.step(step, step_metrics({"a": step}))
        log.histograms(step, {Key("b"): [step]})
    for step in (2, 4, 6):
        checkpoint.save(root, step, lambda path: None, {"rollbacks": 0}, keep=9)
    with monkeypatch.context() as patched:
        for owner, name in ((Path, "rename"), (Path, "replace"), (Path, "open"), (Path, "mkdir"), (shutil, "rmtree")):
            patched.setattr(owner, name, killing(getattr(owner, name)))
        with suppress(Killed):
            undo()
    undo()
    for name in ("metrics", "histograms"):
        kept, aside = (
            [json.loads(line)["step"] for line in (tmp_path / folder / f"{name}.jsonl").read_text().splitlines()]
            for folder in (".", "rolled_back/1")
        )
        assert (kept, aside) == ([1, 2, 3, 4], [5, 6, 7])
    assert checkpoint.saved_steps(root) == [2, 4]


FADING = '''"""fading: a reward that is high or low by its row, and a little higher for a response of even length."""

from vlrl.types import Row, Score


def prompt(row):
    return [{"role": "user", "content": [{"type": "text", "text": row.question}]}]


def verify(response, row):
    if response == row.response:  # a row's own answer is right, or the run would not start
        return Score(reward=1.0)
    return Score(reward=float(row.answer) * (0.8 + 0.2 * (len(response) % 2 == 0)))


EXAMPLES = [("ab", Row(answer="1"), 1.0), ("abc", Row(answer="0.1"), 0.08)]
'''


@pytest.fixture(scope="module")
def fading(tmp_path_factory, tiny_dense) -> Loop:
    """A run with a task whose rows are worth little from step 12 on, and one whose rows are all worth the same."""
    root = tmp_path_factory.mktemp("fading")
    (root / "fading.py").write_text(FADING)
    sizes = {"fading": 48, "steady": 48}
    mixture = Mixture(dict.fromkeys(sizes, 1.0), sizes, prompts_per_step=4, minibatches=2, steps=STEPS, seed=0)
    low = {draw.index for step in range(FALL - 1, STEPS) for draw in mixture.draw(step) if draw.task == "fading"}
    for task, size in sizes.items():
        answers = ["0.1" if task == "fading" and number in low else "1" for number in range(size)]
        for kind, question in (("train", "Row"), ("eval", "Held-out row")):
            rows = [NewRow(question=f"{question} {n}?", answer=answer, response="its own") for n, answer in enumerate(answers)]
            write_dataset(root / task / kind, rows, source="made up", licence="none", recipe="test", recipe_version=1)
    parts = {
        task: {"weight": 1, "task": "fading", "rows": root / task / "train", "eval_rows": root / task / "eval"} for task in sizes
    }
    options = {"runs": root / "runs", "model": tiny_dense, "task_folders": [root], "mixture": parts, "coldstart.steps": 0}
    options |= {"steps": STEPS, "prompts_per_step": 4, "sampling.group_size": 4, "sampling.max_new_tokens": 8}
    options |= {"policy.max_tokens_per_micro_batch": 512, "policy.warmup_steps": 2, "evaluation.rows": 2, "evaluation.samples": 1}
    options |= {"checkpoints.every": EVERY, "checkpoints.keep": 3, "on_collapse": "rollback"}
    options |= {"rollback": {"kl_coefficient": 0.01, "scale_task_loss": 0.5}}
    return Loop(overrides=options)


@pytest.fixture(scope="module")
def went_back(fading) -> tuple[Loop, str]:
    """A run that goes back and that nothing interrupts, and what it printed."""
    loop = fading.with_(name="straight")
    return loop, loop.run()


pytestmark = pytest.mark.timeout(900)
TARGET = 8  # the newest regular checkpoint after which most of five steps were sampled before the fall


@pytest.mark.slow
def test_a_run_that_loses_a_task_goes_back_once_and_ends(went_back):
    loop, printed = went_back
    (record,) = json.loads((loop.folder / "rollbacks.json").read_text())
    assert (record["called_at"], record["to_step"], record["tasks"]) == (FALL + 2, TARGET, ["fading"])
    assert f"The run goes back to step {TARGET}, with the learning rate times 0.5" in printed
    assert "The run continues: its one rollback is used up" in printed
    assert loop.summary["rollbacks"] == [record] and "went back" in printed
    assert [line["step"] for line in loop.metrics] == list(range(1, STEPS + 1))
    assert [line["rollback/number"] for line in loop.metrics] == [0] * TARGET + [1] * (STEPS - TARGET)
    assert loop.checkpoints()[-1] == STEPS


@pytest.mark.slow
def test_what_a_run_left_behind_is_kept_and_differs_only_after_the_rollback(went_back):
    loop, _ = went_back
    aside = replace(loop, overrides=loop.overrides | {"name": f"{loop.overrides['name']}/rolled_back/1"})
    assert [line["step"] for line in aside.metrics] == list(range(TARGET + 1, FALL + 3))
    assert {path.name for path in aside.folder.iterdir()} >= {
        "metrics.jsonl",
        "rollouts.jsonl",
        "tokens.jsonl",
        "histograms.jsonl",
    }

    def of_step(lines, name):
        return [line[name] for line in lines if line["step"] == TARGET + 1]

    assert of_step(loop.rollouts, "row") == of_step(aside.rollouts, "row"), "the mixture's draws are the step's"
    assert of_step(loop.rollouts, "response") != of_step(aside.rollouts, "response"), "the samples are new"
    before, after = aside.metrics[0]["policy/lr"], loop.metrics[TARGET]["policy/lr"]
    assert after == pytest.approx(before / 2)
    halves = [abs(line["advantage"]) for line in loop.rollouts if line["step"] > TARGET and line["task"] == "fading"]
    wholes = [abs(line["advantage"]) for line in loop.rollouts if line["step"] > TARGET and line["task"] == "steady"]
    assert 0 < max(halves) < max(wholes)


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment",
    ["recorded", "set_aside", "dropped", "new_step", "new_checkpoint"],
)
def test_a_run_killed_while_or_after_it_goes_back_ends_as_if_it_were_not(fading, went_back, moment):
    loop, straight = fading.with_(name=f"killed-{moment}"), went_back[0]
    ready = {
        "recorded": (loop.folder / "rollbacks.json").exists,
        "set_aside": (loop.folder / "rolled_back/1").exists,
        "dropped": lambda: (loop.folder / "rollbacks.json").exists() and loop.checkpoints()[-1] == TARGET,
        "new_step": lambda: (loop.folder / "rollbacks.json").exists() and loop.metrics[-1].get("rollback/number") == 1,
        "new_checkpoint": lambda: (loop.folder / "rolled_back/1").exists() and loop.checkpoints()[-1] == TARGET + EVERY,
    }
    loop.interrupted_when(signal.SIGKILL, ready[moment], exit_code=-signal.SIGKILL)
    assert f"continues after step {TARGET}" in loop.run() or moment == "new_checkpoint"
    check_equal(loop, straight)


@pytest.mark.slow
def test_a_run_stopped_by_sigterm_between_two_saves_goes_back_as_if_it_were_not(fading, went_back):
    loop, straight = fading.with_(name="stopped"), went_back[0]
    loop.interrupted(signal.SIGTERM, "step logged", TARGET + 1)
    loop.run()
    check_equal(loop, straight)


def check_equal(loop: Loop, straight: Loop) -> None:
    assert loop.steady_metrics == straight.steady_metrics
    assert loop.rollouts == straight.rollouts
    assert same_weights(loop.weights(), straight.weights())
    assert loop.summary == straight.summary
    for name in ("rollouts.jsonl", "histograms.jsonl", "tokens.jsonl"):
        assert (loop.folder / f"rolled_back/1/{name}").read_bytes() == (straight.folder / f"rolled_back/1/{name}").read_bytes()


@pytest.mark.slow
def test_two_ranks_go_back_together_also_where_they_are_stopped_meanwhile(fading):
    loops = [fading.with_(name=name, launcher=TORCHRUN, policy__zero_stage=2) for name in ("ranks", "stopped-ranks")]
    loops[0].run()
    loops[1].interrupted_when(signal.SIGTERM, (loops[1].folder / "rollbacks.json").exists, exit_code=None)
    loops[1].run()
    check_equal(loops[1], loops[0])


@pytest.mark.slow
def test_a_run_that_samples_ahead_goes_back_to_the_batches_that_waited_then(fading):
    straight, killed = (fading.with_(name=name, rollout__staleness=1) for name in ("ahead", "killed-ahead"))
    straight.run()
    killed.interrupted_when(signal.SIGKILL, (killed.folder / "rollbacks.json").exists, exit_code=-signal.SIGKILL)
    killed.run()
    check_equal(killed, straight)
