"""The gradient watch: a step or a task of which nothing is learnt is said, once."""

from vlrl.telemetry.gradient_watch import STEPS, GradientWatch
from vlrl.telemetry.metrics import read_metrics


def said(steps: list[dict[str, float]]) -> list[tuple[int, str]]:
    watch = GradientWatch()
    lines = [read_metrics(metrics, ["dots", "sums"]) for metrics in steps]
    return [(number, sentence) for number, metrics in enumerate(lines, start=1) for sentence in watch.see(number, metrics)]


def step(reward: float = 0.0, **shares: float) -> dict[str, float]:
    return {f"rollout/no_gradient/{task}": share for task, share in shares.items()} | {
        f"reward/{task}": reward for task in shares
    }


def test_a_task_without_a_gradient_for_ten_steps_is_named_once_with_its_rewards():
    told = said([step(dots=1.0, sums=0.5)] * 3 * STEPS)
    assert told == [(STEPS, "task dots has had no gradient in 10 steps: all rewards are 0")]


def test_a_task_that_has_a_gradient_now_and_then_is_not_named():
    assert said([step(dots=1.0, sums=0.0)] * (STEPS - 1) + [step(dots=0.9, sums=0.0)] + [step(dots=1.0, sums=0.0)] * 5) == []


def test_steps_in_which_a_task_is_not_drawn_do_not_count():
    assert said(([step(dots=1.0, sums=0.0)] + [step(sums=0.0)] * 3) * (STEPS - 1)) == []


def test_a_step_without_any_gradient_is_said_at_the_first_of_several():
    told = said([step(dots=1.0, sums=1.0)] * 3 + [step(dots=0.5, sums=1.0)] + [step(dots=1.0, sums=1.0)])
    assert [number for number, _ in told] == [1, 5]
    assert told[0][1] == "step 1 had no gradient: in each group all rewards were equal"


def test_a_solved_task_is_told_from_one_without_a_verdict():
    assert said([step(reward=1.0, dots=1.0, sums=0.0)] * STEPS)[0][1].endswith("all rewards are 1")
    assert said([{"rollout/no_gradient/dots": 1.0, "rollout/no_gradient/sums": 0.0}] * STEPS)[0][1].endswith("has a verdict")
