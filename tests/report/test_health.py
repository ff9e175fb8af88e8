"""Whether a run is well is one line, which follows from what the run's log and its status file hold."""

import math
from pathlib import Path

from tests.report.test_report import MIXTURE, write_run
from vlrl.common.jsonl import append_jsonl
from vlrl.distributed.status import own_news
from vlrl.report.health import SILENT_S, Health, health
from vlrl.report.read import RunData, read_run
from vlrl.run_file import dump_config, parse_config
from vlrl.telemetry import phase
from vlrl.telemetry.metrics import step_metrics
from vlrl.telemetry.run_log import RunLog


def run_of(folder: Path, steps: int, **metrics: list[float]) -> RunData:
    """A run of ten steps, or of as many as it has, whose log has these metrics; two underscores are a slash."""
    raw = {"name": folder.name, "model": "tiny", "steps": max(10, steps), "prompts_per_step": 4, "mixture": MIXTURE}
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_config(parse_config(raw, "here")))
    log = RunLog(folder)
    for step in range(1, steps + 1):
        own = {name.replace("__", "/"): values[step - 1] for name, values in metrics.items()}
        log.step(step, step_metrics({"time/step": 3.14} | own))
    return read_run(folder)


def status_of(step: int, *, total: int = 10, silent_s: float = 0.5, for_s: float = 1.0, part: str = "generate") -> dict:
    """The status file of two ranks in a step; of the second rank, how long it is silent, and how long in this part."""
    with phase.within("Training", done=step, total=total), phase.within("generate"):
        first = own_news(0, "a")
    second = first | {"rank": 1, "host": "b", "silent_s": silent_s, "for_s": for_s, "phase": f"Training {step}/{total}, {part}"}
    counted = {"phase": "Training", "done": step, "total": total, "seconds_left": 190.0}
    return {"count": 7, "ended": "", "checkpoint": 4, "ranks": [first, second], **counted}


def sentence(run: RunData | None, status: dict | None, quiet_s: float | None = 0.5) -> Health:
    return health(run.folder if run else Path("runs/none"), run, status, quiet_s=quiet_s)


def test_a_run_that_trains_well_shows_its_step_its_pace_and_its_ranks(tmp_path):
    found = sentence(run_of(tmp_path / "run", 5), status_of(5))
    assert found == Health(is_well=True, sentence="Step 5 of 10, 3.1 s a step, about 3 min left; all 2 ranks are working.")


def test_a_run_that_loads_its_model_shows_that(tmp_path):
    alone = own_news(0, "a") | {"phase": "Starting the engine", "for_s": 4.0}
    found = sentence(None, {"count": 3, "ended": "", "checkpoint": 0, "ranks": [alone]})
    assert found == Health(is_well=True, sentence="Starting the engine for 4.0 s; the rank is working.")


def test_a_run_that_has_not_begun_is_waited_for(tmp_path):
    assert sentence(None, None) == Health(is_well=None, sentence="runs/none does not exist yet; this page waits for it.")
    found = health(tmp_path, None, None, quiet_s=None)
    assert found.is_well is None and "has no config.yaml yet" in found.sentence


def test_a_silent_rank_is_named_with_its_host(tmp_path):
    found = sentence(run_of(tmp_path / "run", 5), status_of(5, silent_s=84.0))
    assert not found.is_well
    assert found.sentence.startswith("Rank 1 on host b has been silent for 84 s. Step 5 of 10")
    assert found.sentence.endswith("1 of 2 ranks are working.")


def test_a_busy_machine_s_pause_is_not_a_fault(tmp_path):
    assert sentence(run_of(tmp_path / "run", 5), status_of(5, silent_s=SILENT_S - 1)).is_well


def test_a_part_of_a_step_that_takes_far_too_long_is_named(tmp_path):
    run = run_of(tmp_path / "run", 5)
    found = sentence(run, status_of(5, for_s=300.0))
    assert found.sentence.startswith("Rank 1 on host b has been in “generate” for 5 min; a step usually takes 3.1 s.")
    assert sentence(run, status_of(5, for_s=50.0)).is_well
    assert sentence(run, {**status_of(5), "ranks": [own_news(0, "a") | {"phase": "Training 5/10", "for_s": 900.0}]}).is_well


def test_the_rank_that_does_not_wait_is_named_although_another_waits_longer(tmp_path):
    status = status_of(5, for_s=300.0)
    status["ranks"][0] |= {"for_s": 310.0, "waits": True, "phase": f"Training 5/10, score, {phase.WAITING}"}
    assert sentence(run_of(tmp_path / "run", 5), status).sentence.startswith("Rank 1 on host b has been in “generate”")


def test_missing_verdicts_are_named_with_their_share_their_task_and_the_most_frequent_reason(tmp_path):
    shares = [0.0] * 5 + [0.2, 0.1, 0.1, 0.1, 0.1]
    run = run_of(tmp_path / "run", 10, scoring__failed__shapes=shares)
    assert sentence(run, status_of(10)).sentence.startswith(
        "The scorer could not judge 12% of the rollouts of shapes in the last 5 steps. Step 10"
    )
    whole = write_run(tmp_path / "whole", ended=False)
    line = {"step": 3, "slot": 9, "round": 0, "task": "shapes", "status": "error", "detail": "no such judge", "reward": 0.0}
    append_jsonl(whole / "rollouts.jsonl", [line, line])
    found = sentence(read_run(whole), status_of(3)).sentence
    assert "13% of the rollouts of shapes in the last 3 steps; most often: no such judge." in found


def test_a_few_missing_verdicts_are_not_a_fault(tmp_path):
    assert sentence(run_of(tmp_path / "run", 10, scoring__failed__shapes=[0.04] * 10), status_of(10)).is_well


def wave(*levels: float) -> list[float]:
    """Ten steps at each level, with some noise."""
    return [level + 0.03 * math.sin(7.0 * step) for level in levels for step in range(10)]


def test_a_lost_reward_is_named_with_the_step_at_which_it_was_best(tmp_path):
    run = run_of(tmp_path / "run", 30, reward__sums=wave(0.3, 0.7, 0.45), reward__shapes=wave(0.5, 0.5, 0.5))
    found = sentence(run, status_of(30))
    assert not found.is_well
    assert found.sentence.startswith("sums has lost 0.2") and "of reward since step 1" in found.sentence
    assert "shapes" not in found.sentence


def test_a_reward_that_rises_or_is_noisy_is_not_lost(tmp_path):
    noisy = [0.5 + 0.3 * math.sin(7.0 * step * step) for step in range(30)]
    run = run_of(tmp_path / "run", 30, reward__sums=wave(0.3, 0.5, 0.7), reward__shapes=noisy)
    assert sentence(run, status_of(30)).is_well


def test_an_alarm_of_the_collapse_watch_is_shown_for_some_steps(tmp_path):
    entropy = [1.0 + 0.01 * (step % 3) for step in range(20)] + [9.0] * 10
    values = {"policy__entropy__sums__minibatch_1": entropy, "reward__sums": [0.5] * 30}
    run = run_of(tmp_path / "run", 30, **values)
    assert "the entropy of sums rose to 9" in sentence(run, status_of(30)).sentence
    later = run_of(tmp_path / "later", 60, policy__entropy__sums__minibatch_1=[*entropy, *[9.0] * 30])
    assert sentence(later, status_of(60, total=60)).is_well


def test_a_run_that_ended_shows_its_last_step(tmp_path):
    run = read_run(write_run(tmp_path / "run", steps=10))
    assert sentence(run, None) == Health(is_well=True, sentence="The run ended at step 10.")


def test_a_run_that_is_stopped_shows_the_command_that_resumes_it(tmp_path):
    run = run_of(tmp_path / "run", 5)
    resume = f"the same command resumes it: vlrl train {tmp_path}/run/config.yaml"
    assert sentence(run, None) == Health(is_well=False, sentence=f"The run is stopped after step 5 of 10; {resume}")


def test_a_run_that_was_extended_after_its_end_is_stopped_and_not_ended(tmp_path):
    run = read_run(write_run(tmp_path / "run", steps=5))
    assert sentence(run, None).sentence.startswith("The run is stopped after step 5 of 10")


def test_a_run_that_failed_shows_the_reason(tmp_path):
    run = run_of(tmp_path / "run", 5)
    found = sentence(run, status_of(5) | {"ended": "rank 1 (b) failed: the disk is full"})
    assert found.sentence.startswith("The run ended after step 5 of 10: rank 1 (b) failed: the disk is full; the same command")


def test_a_run_whose_status_no_longer_counts_was_killed(tmp_path):
    run = run_of(tmp_path / "run", 5)
    found = sentence(run, status_of(5), quiet_s=84.0)
    assert not found.is_well and found.sentence.startswith("The run has given no sign of life for 84 s, as if it was killed")
    assert sentence(run, status_of(5), quiet_s=None).is_well is None, "it is not known yet"
