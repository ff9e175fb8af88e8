"""What decides whether a run may go on: the settings of its checkpoint; and the signals that end it."""

import json
import signal
import time

import pytest

from vlrl.common.signals import StopSignal
from vlrl.distributed.same_run import check_same_config, layout_changes

CONFIG = {"steps": 100, "seed": 1, "world_size": 2, "policy": {"lr": 0.001, "betas": [0.9, 0.95]}, "wandb": {"mode": "offline"}}


def test_the_same_settings_may_resume_also_for_more_steps_and_with_another_logger():
    check_same_config(CONFIG, json.loads(json.dumps(CONFIG)), step=50)
    check_same_config(CONFIG, {**CONFIG, "steps": 50, "wandb": {"mode": "online", "project": "x"}}, step=50)


def test_micro_batches_may_be_smaller_after_memory_ran_out():
    saved = {**CONFIG, "policy": {**CONFIG["policy"], "max_tokens_per_micro_batch": "auto"}, "max_tokens_per_micro_batch": 9000}
    check_same_config(saved, {**saved, "policy": {**saved["policy"], "max_tokens_per_micro_batch": 6000}}, step=50)


def test_every_setting_that_differs_is_named_with_both_values():
    other = {**CONFIG, "seed": 4, "policy": {"lr": 0.0003, "warmup_steps": 5, "betas": [0.9, 0.95]}}
    with pytest.raises(ValueError, match="cannot resume") as refusal:
        check_same_config(CONFIG, other, step=50)
    assert [line.strip() for line in str(refusal.value).splitlines()[1:]] == [
        "seed was 1 in the checkpoint, 4 now",
        "policy.lr was 0.001 in the checkpoint, 0.0003 now",
        "policy.warmup_steps was absent in the checkpoint, 5 now",
    ]


ONE = {"weight": 1, "task": None, "rows": "data/one", "columns": {"question": "q"}}
OF_ONE = CONFIG | {"tasks": ["one"], "data": {"one": "a"}, "task_files": {"one": "one.py 1"}, "mixture": {"one": ONE}}


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (
            {
                "tasks": ["one", "two"],
                "data": {"one": "a", "two": "b"},
                "task_files": {"one": "one.py 1", "two": "two.py 1"},
                "mixture": {"one": ONE, "two": ONE},
            },
            ["mixture.two"],
        ),
        ({"data": {"one": "b"}, "mixture": {"one": ONE | {"rows": "data/two"}}}, ["mixture.one.rows"]),
        ({"data": {"one": "b"}, "mixture": {"one": ONE | {"columns": {"question": "x"}}}}, ["mixture.one.columns.question"]),
        ({"task_files": {"one": "two.py 1"}, "mixture": {"one": ONE | {"task": "two"}}}, ["mixture.one.task"]),
        ({"data": {"one": "b"}, "mixture": {"one": ONE | {"weight": 2}}}, ["data.one", "mixture.one.weight"]),
        ({"task_files": {"one": "one.py 2"}, "mixture": {"one": ONE | {"rows": "x"}}}, ["task_files.one", "mixture.one.rows"]),
        ({"tasks": ["two", "one"]}, ["tasks"]),
    ],
)
def test_what_differs_because_another_setting_does_is_not_named_beside_it(changed, named):
    with pytest.raises(ValueError, match="cannot resume") as refusal:
        check_same_config(OF_ONE, OF_ONE | changed, step=50)
    assert [line.split()[0] for line in str(refusal.value).splitlines()[1:] if " was " in line and "checkpoint" in line] == named


def test_another_layout_may_resume_and_is_named():
    policy = {"zero_stage": 3, "expert_parallel": 2, "offload_optimizer": True}
    saved = CONFIG | {"policy": policy, "engine": {"tensor_parallel": 2}}
    policy = {"zero_stage": 2, "expert_parallel": 1, "offload_optimizer": False}
    other = saved | {"world_size": 1, "policy": policy, "engine": {"tensor_parallel": 1}}
    check_same_config(saved, other, step=50)
    assert layout_changes(saved, saved | {"steps": 200}) == []
    assert layout_changes(saved, other) == [
        "world_size 2 -> 1",
        "policy.zero_stage 3 -> 2",
        "policy.expert_parallel 2 -> 1",
        "policy.offload_optimizer True -> False",
        "engine.tensor_parallel 2 -> 1",
    ]


def test_a_judge_may_move_to_another_url_but_not_become_another_model():
    judge = {"url": "http://one/v1", "model": "large", "timeout_s": 60}
    saved, moved, other = (
        CONFIG | {"scoring": {"workers": 2, "judges": {"judge": each}}}
        for each in (judge, judge | {"url": "http://two/v1", "timeout_s": 5}, judge | {"model": "small"})
    )
    check_same_config(saved, moved, step=50)
    with pytest.raises(ValueError, match=r"\n  scoring.judges.judge.model was large in the checkpoint, small now$"):
        check_same_config(saved, other, step=50)
    check_same_config(CONFIG | {"scoring": {"workers": 2}}, CONFIG | {"scoring": {"workers": 2, "judges": {}}}, step=50)


def test_adapters_and_the_whole_model_do_not_resume_one_another():
    lora = {"rank": 8, "alpha": 32, "targets": None, "sync": "auto"}
    whole, adapted = CONFIG | {"lora": None}, CONFIG | {"lora": lora}
    with pytest.raises(ValueError, match=r"\n  lora was absent in the checkpoint, \{rank: 8, alpha: 32, sync: auto\} now$"):
        check_same_config(whole, adapted, step=50)
    with pytest.raises(ValueError, match=r"\n  lora was \{rank: 8, alpha: 32, sync: auto\} in the checkpoint, absent now$"):
        check_same_config(adapted, whole, step=50)
    with pytest.raises(ValueError, match=r"\n  lora.rank was 8 in the checkpoint, 16 now$"):
        check_same_config(adapted, CONFIG | {"lora": lora | {"rank": 16}}, step=50)
    check_same_config(CONFIG, whole, step=50)  # saved before there was such a setting
    check_same_config(adapted, CONFIG | {"lora": lora | {"sync": "merged"}}, step=50)


def test_a_run_that_is_to_end_before_its_checkpoint_is_refused():
    with pytest.raises(ValueError, match="steps is 40 now, and the checkpoint is already at step 50"):
        check_same_config(CONFIG, {**CONFIG, "steps": 40}, step=50)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_its_handler_given_back(number):
    before = signal.getsignal(number)
    stop = StopSignal()
    try:
        assert not stop.requested and not stop.grace_over(0.0)
        signal.raise_signal(number)
        assert stop.requested and not stop.grace_over(60.0)
        time.sleep(0.01)
        signal.raise_signal(number)
        assert stop.grace_over(0.01), "the grace counts from the first signal"
    finally:
        stop.close()
    assert signal.getsignal(number) is before
