"""What a run prints at its end, after its table."""

from pathlib import Path

from vlrl.cli import end_of_run
from vlrl.run_file import load_config

RUN = Path(__file__).parents[1] / "configs" / "cpu.yaml"


def reported(capsys, *overrides: str, before: float = 0.2, **afters: float) -> str:
    """The output for a run whose tasks ended at these accuracies, with intervals of 0.06 and 0.08."""
    facts = {"before": before, "before_interval": 0.06, "after_interval": 0.08, "failed_before": 0, "failed_after": 0}
    tasks = {task: facts | {"after": after} for task, after in afters.items()}
    end_of_run.print_end(load_config(RUN, overrides), {"tasks": tasks, "mean": {"before": 0.2, "after": 0.3}})
    return " ".join(capsys.readouterr().out.split())


def test_a_task_that_did_not_rise_is_named_with_what_to_do(capsys):
    said = reported(capsys, digits=0.7, counting=0.29)
    assert "counting did not rise by more than its interval. Its accuracy before the run was 0.200. If that is chance" in said
    assert "(mixture.counting.coldstart_weight, 3 now)" in said
    assert "digits did not" not in said


def test_a_task_that_began_well_is_not_told_to_begin_better(capsys):
    said = reported(capsys, before=0.74, counting=0.8)
    assert "counting did not rise by more than its interval. It began at 0.740, which leaves little to learn" in said
    assert "coldstart_weight" not in said


def test_a_task_that_fell_is_not_told_to_be_at_chance_level(capsys):
    said = reported(capsys, digits=0.7, counting=0.05)
    assert "counting fell by more than its interval, from 0.200 to 0.050. Lower policy.lr" in said
    assert "chance level" not in said


def test_a_task_that_is_alone_is_not_given_a_larger_share():
    config = load_config(RUN, ())
    alone = config.model_copy(update={"mixture": {"counting": config.mixture["counting"]}})
    values = {"before": 0.2, "after": 0.22, "before_interval": 0.06, "after_interval": 0.08}
    (said,) = end_of_run.without_a_rise(alone, {"counting": values})
    assert "make a longer cold start (coldstart.steps, 100 now)" in said and "coldstart_weight" not in said


def test_without_a_cold_start_the_advice_is_to_have_one(capsys):
    said = reported(capsys, "coldstart.steps=0", counting=0.1)
    assert "(mixture.counting.coldstart_weight, with coldstart.steps above 0)" in said


def test_a_run_that_evaluates_nothing_says_so(capsys):
    end_of_run.print_end(load_config(RUN), {"tasks": {}, "mean": None})
    said = " ".join(capsys.readouterr().out.split())
    assert "Nothing was evaluated: no task of the mixture names eval_rows." in said and "The run is in runs/cpu" in said
