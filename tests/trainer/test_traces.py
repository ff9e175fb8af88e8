"""Which responses are logged token by token: of one group of each task over all ranks, and not too many tokens."""

from types import SimpleNamespace

from vlrl.trainer.trainer import _traced
from vlrl.trainer.update import MOST_TRACED
from vlrl.types import Group, Prompt, Rollout, Row, Sample, Score


def group(slot: int, task: str, advantages: list[float], length: int, minibatch: int = 1) -> Group:
    rollouts = [
        Rollout(
            slot=slot,
            sample=number,
            tokens=(0,) * length,
            logprobs=(0.0,) * length,
            text="",
            finish_reason="stop",
            weight_versions=(),
        )
        for number in range(len(advantages))
    ]
    samples = [
        Sample(rollout=rollout, score=Score(reward=0.0), advantage=advantage)
        for rollout, advantage in zip(rollouts, advantages, strict=True)
    ]
    prompt = Prompt(slot=slot, task=task, row=Row(), messages=(), minibatch=minibatch)
    return Group(prompt=prompt, samples=tuple(samples))


def traced(groups: list[Group], elsewhere: tuple[tuple[int, str], ...] = ()) -> set[tuple[int, int]]:
    """What this rank traces, if the other rank has groups with a gradient at these slots, of these tasks."""
    return _traced(groups, 2, SimpleNamespace(gather=lambda mine: [mine, list(elsewhere)]))


def test_one_group_of_each_task_is_traced_over_all_ranks_the_first_with_a_gradient():
    groups = [group(0, "a", [0, 0], 5), group(2, "a", [1, -1], 5), group(4, "a", [1, -1], 5), group(6, "b", [1, -1], 5)]
    assert traced(groups) == {(2, 0), (2, 1), (6, 0), (6, 1)}
    assert traced(groups, ((1, "a"), (7, "b"))) == {(6, 0), (6, 1)}


def test_groups_of_earlier_mini_batches_are_not_traced():
    assert traced([group(0, "a", [1, -1], 5, minibatch=0)]) == set()


def test_of_long_responses_those_with_the_largest_advantages_are_traced():
    length = MOST_TRACED // 2
    assert traced([group(0, "a", [-0.1, -0.1, 0.9, -0.1], length)]) == {(0, 2), (0, 0)}
    assert traced([group(0, "a", [-0.1, 0.9], 3 * MOST_TRACED)]) == {(0, 1)}, "one at least, which is cut"
