"""Groups dealt anew, once their responses are there: over the mini-batches, and in each of these over the ranks.

Each optimizer step then has about as much to compute, and no rank waits for another in it. A mini-batch keeps its tasks' ratios:
groups change places with groups of their own task. What moves between ranks is the group and its encoded prompt, so no image is
opened a second time.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from vlrl.distributed.ranks import Ranks
from vlrl.models.flops import Cost
from vlrl.models.processor import EncodedPrompt
from vlrl.types import Group


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupLoad:
    """Where a group is, and what it costs; 0 where it has no gradient and is not computed."""

    slot: int
    task: str = ""
    minibatch: int = 0
    rank: int = 0
    cost: float


def balance_minibatches(loads: Sequence[GroupLoad], minibatches: int) -> dict[int, int]:
    """Slot to mini-batch, each of which keeps its number of groups of every task.

    The dearest group first, each to the mini-batch that has least so far among those with room for its task; what was drawn
    stands where that is more even.
    """
    drawn = {load.slot: load.minibatch for load in loads}
    room = Counter((load.task, load.minibatch) for load in loads)
    costs = [0.0] * minibatches
    dealt: dict[int, int] = {}
    for load in sorted(loads, key=lambda load: (-load.cost, load.slot)):
        free = [number for number in range(minibatches) if room[load.task, number]]
        chosen = min(free, key=lambda number: (costs[number], number != load.minibatch))
        room[load.task, chosen] -= 1
        costs[chosen] += load.cost
        dealt[load.slot] = chosen
    return min(drawn, dealt, key=lambda deal: imbalance(loads, deal, minibatches))


def balance_ranks(loads: Sequence[GroupLoad], ranks: int) -> dict[int, int]:
    """Slot to rank: the dearest group first, each to the rank that has least so far; among equals it stays where it is.

    The largest load is at most a third above the least that is possible (Graham 1969).
    """
    totals = [0.0] * ranks
    owner = {}
    for load in sorted(loads, key=lambda load: (-load.cost, load.slot)):
        owner[load.slot] = min(range(ranks), key=lambda rank: (totals[rank], rank != load.rank))
        totals[owner[load.slot]] += load.cost
    return owner


def imbalance(loads: Sequence[GroupLoad], deal: Mapping[int, int], count: int) -> float:
    """1 - mean / max of the costs that a deal gives each of `count`: of ranks, the share of their time in which they wait."""
    costs = [0.0] * count
    for load in loads:
        costs[deal[load.slot]] += load.cost
    return 1.0 - sum(costs) / (count * max(costs)) if max(costs) else 0.0


def balance(
    groups: Sequence[Group],
    encoded: Mapping[int, EncodedPrompt],
    cost: Cost,
    ranks: Ranks,
    *,
    minibatches: int,
    keep_zero: bool = False,
) -> tuple[list[Group], dict[int, EncodedPrompt], dict[str, float]]:
    """This rank's groups and their prompts after the deals, and how uneven mini-batches and ranks are before and after.

    All ranks call it. A group without a gradient, which is not computed, stays on its rank; keep_zero: it is computed all the
    same.
    """
    mine = [
        GroupLoad(
            slot=group.prompt.slot,
            task=group.prompt.task,
            minibatch=group.prompt.minibatch,
            rank=ranks.rank,
            cost=cost.group(encoded[group.prompt.slot], [len(rollout.tokens) for rollout in group.rollouts])
            if any(group.advantages) or (keep_zero and group.rollouts)
            else 0.0,
        )
        for group in groups
    ]
    loads = [load for part in ranks.gather(mine) for load in part]
    drawn, dealt = {load.slot: load.minibatch for load in loads}, balance_minibatches(loads, minibatches)
    told = {
        "balance/minibatches_before": imbalance(loads, drawn, minibatches),
        "balance/minibatches_after": imbalance(loads, dealt, minibatches),
    }
    groups = [replace(group, prompt=replace(group.prompt, minibatch=dealt[group.prompt.slot])) for group in groups]
    if ranks.size == 1:
        return groups, dict(encoded), told
    computed = [[each for each in loads if each.cost and dealt[each.slot] == number] for number in range(minibatches)]
    owners = [balance_ranks(of_minibatch, ranks.size) for of_minibatch in computed]
    now = {load.slot: load.rank for load in loads}
    pairs = [pair for pair in zip(computed, owners, strict=True) if pair[0]]
    for name, deals in (("idle_before", [now] * len(pairs)), ("idle_after", [owner for _, owner in pairs])):
        shares = [imbalance(of_minibatch, deal, ranks.size) for (of_minibatch, _), deal in zip(pairs, deals, strict=True)]
        told |= {f"balance/{name}": sum(shares) / len(shares)} if shares else {}
    return *_moved(groups, encoded, {slot: rank for owner in owners for slot, rank in owner.items()}, ranks), told


def _moved(
    groups: Sequence[Group], encoded: Mapping[int, EncodedPrompt], owner: Mapping[int, int], ranks: Ranks
) -> tuple[list[Group], dict[int, EncodedPrompt]]:
    """What this rank has after each group went to its owner, with its prompt; a group without one stays."""
    kept: list[Group] = []
    parcels: list[list[tuple[Group, EncodedPrompt]]] = [[] for _ in range(ranks.size)]
    for group in groups:
        rank = owner.get(group.prompt.slot, ranks.rank)
        if rank == ranks.rank:
            kept.append(group)
        else:
            parcels[rank].append((group, encoded[group.prompt.slot]))
    arrived = [pair for parcel in ranks.exchange(parcels) for pair in parcel]
    return (
        sorted([*kept, *(group for group, _ in arrived)], key=lambda group: group.prompt.slot),
        dict(encoded) | {group.prompt.slot: prompt for group, prompt in arrived},
    )
