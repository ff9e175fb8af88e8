"""Balances the cost of computing groups, once their responses are known: over mini-batches, then over ranks within each.

Each optimizer step then has about as much to compute, and no rank waits long for another. A mini-batch keeps its tasks' ratios,
since groups change places only with groups of their own task. A group moves between ranks with its encoded prompt, so no image
is opened a second time.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from vlrl.distributed.ranks import Ranks
from vlrl.models.flops import Cost
from vlrl.types import Group


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupLoad:
    """Where a group is, and what it costs; 0 if it has no gradient and is not computed."""

    slot: int
    task: str = ""
    minibatch: int = 0
    rank: int = 0
    cost: float


def balance_minibatches(loads: Sequence[GroupLoad], minibatches: int) -> dict[int, int]:
    """Slot to mini-batch; each mini-batch keeps its number of groups of every task.

    Places the costliest group first, each in the mini-batch with the least cost so far among those with room for its task. Keeps
    the drawn order if that is more even.
    """
    drawn = {load.slot: load.minibatch for load in loads}
    room = Counter((load.task, load.minibatch) for load in loads)
    costs = [0.0] * minibatches
    chosen: dict[int, int] = {}
    for load in sorted(loads, key=lambda load: (-load.cost, load.slot)):
        free = [number for number in range(minibatches) if room[load.task, number]]
        best = min(free, key=lambda number: (costs[number], number != load.minibatch))
        room[load.task, best] -= 1
        costs[best] += load.cost
        chosen[load.slot] = best
    return min(drawn, chosen, key=lambda places: imbalance(loads, places, minibatches))


def balance_ranks(loads: Sequence[GroupLoad], ranks: int) -> dict[int, int]:
    """Slot to rank: the costliest group first, each to the rank with the least cost so far; on a tie a group stays where it is.

    The largest total is at most a third above the least possible (Graham 1969).
    """
    costs = [0.0] * ranks
    owner = {}
    for load in sorted(loads, key=lambda load: (-load.cost, load.slot)):
        owner[load.slot] = min(range(ranks), key=lambda rank: (costs[rank], rank != load.rank))
        costs[owner[load.slot]] += load.cost
    return owner


def imbalance(loads: Sequence[GroupLoad], places: Mapping[int, int], count: int) -> float:
    """1 - mean / max of the costs of `count` places, given each slot's place. For ranks: the share of time that they wait."""
    costs = [0.0] * count
    for load in loads:
        costs[places[load.slot]] += load.cost
    return 1.0 - sum(costs) / (count * max(costs)) if max(costs) else 0.0


def balance(
    groups: Sequence[Group], cost: Cost, ranks: Ranks, *, minibatches: int, keep_zero: bool = False
) -> tuple[list[Group], dict[str, float]]:
    """This rank's groups after balancing, and the imbalance of mini-batches and ranks before and after, as metrics.

    All ranks call it. A group without a gradient stays on its rank, since it is not computed; keep_zero: it is computed too.
    """
    mine = [
        GroupLoad(
            slot=group.prompt.slot,
            task=group.prompt.task,
            minibatch=group.prompt.minibatch,
            rank=ranks.rank,
            cost=cost.group(group.prompt.encoded, [len(sample.rollout.tokens) for sample in group.samples])
            if group.has_gradient or (keep_zero and group.samples)
            else 0.0,
        )
        for group in groups
    ]
    # In the order of slots, since sums of costs must not depend on the number of ranks.
    loads = sorted((load for part in ranks.gather(mine) for load in part), key=lambda load: load.slot)
    drawn, chosen = {load.slot: load.minibatch for load in loads}, balance_minibatches(loads, minibatches)
    metrics = {
        "balance/minibatches_before": imbalance(loads, drawn, minibatches),
        "balance/minibatches_after": imbalance(loads, chosen, minibatches),
    }
    groups = [replace(group, prompt=replace(group.prompt, minibatch=chosen[group.prompt.slot])) for group in groups]
    if ranks.size == 1:
        return groups, metrics
    now = {load.slot: load.rank for load in loads}
    owner: dict[int, int] = {}
    before, after = [], []
    for number in range(minibatches):
        computed = [load for load in loads if load.cost and chosen[load.slot] == number]
        if computed:
            owners = balance_ranks(computed, ranks.size)
            before.append(imbalance(computed, now, ranks.size))
            after.append(imbalance(computed, owners, ranks.size))
            owner |= owners
    if before:
        metrics |= {"balance/idle_before": sum(before) / len(before), "balance/idle_after": sum(after) / len(after)}
    return _moved(groups, owner, ranks), metrics


def _moved(groups: Sequence[Group], owner: Mapping[int, int], ranks: Ranks) -> list[Group]:
    """This rank's groups after each has moved to its owner; a group without an owner stays."""
    parcels: list[list[Group]] = [[] for _ in range(ranks.size)]
    for group in groups:
        parcels[owner.get(group.prompt.slot, ranks.rank)].append(group)
    return sorted((group for parcel in ranks.exchange(parcels) for group in parcel), key=lambda group: group.prompt.slot)
