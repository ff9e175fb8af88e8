"""Groups dealt anew over the ranks, once their responses are there, so that no rank waits for another in the update.

Each mini-batch is balanced for itself: its optimizer step is where ranks meet. What moves is the group and its encoded prompt, so
no image is opened a second time.
"""

from collections.abc import Mapping, Sequence

from vlrl.model.cost import Cost
from vlrl.model.encode import EncodedPrompt
from vlrl.ranks import Ranks
from vlrl.types import Group

Place = tuple[int, int, float]
"""A group's slot, its owner, and what it costs."""


def assign(places: Sequence[Place], ranks: int) -> dict[int, int]:
    """Slot to rank: the dearest group first, each to the rank that has least so far; among equals it stays where it is.

    The largest load is at most a third above the least that is possible (Graham 1969).
    """
    loads = [0.0] * ranks
    owner = {}
    for slot, now, cost in sorted(places, key=lambda place: (-place[2], place[0])):
        owner[slot] = min(range(ranks), key=lambda rank: (loads[rank], rank != now))
        loads[owner[slot]] += cost
    return owner


def idle_share(places: Sequence[Place], owner: Mapping[int, int], ranks: int) -> float:
    """The share of the ranks' time in which they wait for the one that has most."""
    loads = [sum(cost for slot, _, cost in places if owner[slot] == rank) for rank in range(ranks)]
    return 1.0 - sum(loads) / (ranks * max(loads)) if max(loads, default=0.0) else 0.0


def balanced(
    groups: Sequence[Group], encoded: Mapping[int, EncodedPrompt], cost: Cost, ranks: Ranks, *, keep_zero: bool = False
) -> tuple[list[Group], dict[int, EncodedPrompt], dict[str, float]]:
    """This rank's groups and their prompts after the deal, and the idle share before and after it. All ranks call it.

    A group without a gradient, which is not computed, stays where it is; keep_zero: it is computed all the same.
    """
    if ranks.size == 1:
        return list(groups), dict(encoded), {}
    mine = [
        (group.prompt.minibatch, (group.prompt.slot, ranks.rank, cost.group(encoded[group.prompt.slot], _lengths(group))))
        for group in groups
        if any(group.advantages) or (keep_zero and group.rollouts)
    ]
    places: dict[int, list[Place]] = {}
    for part in ranks.gather(mine):
        for minibatch, place in part:
            places.setdefault(minibatch, []).append(place)
    owner: dict[int, int] = {}
    idle_before, idle_after = [], []
    for of_minibatch in places.values():
        dealt = assign(of_minibatch, ranks.size)
        idle_before.append(idle_share(of_minibatch, {slot: now for slot, now, _ in of_minibatch}, ranks.size))
        idle_after.append(idle_share(of_minibatch, dealt, ranks.size))
        owner |= dealt
    kept = [group for group in groups if owner.get(group.prompt.slot, ranks.rank) == ranks.rank]
    leaving = [group for group in groups if owner.get(group.prompt.slot, ranks.rank) != ranks.rank]
    parcels: list[list[tuple[Group, EncodedPrompt]]] = [[] for _ in range(ranks.size)]
    for group in leaving:
        parcels[owner[group.prompt.slot]].append((group, encoded[group.prompt.slot]))
    arrived = [pair for parcel in ranks.exchange(parcels) for pair in parcel]
    told = {"balance/idle_before": idle_before, "balance/idle_after": idle_after}
    return (
        sorted([*kept, *(group for group, _ in arrived)], key=lambda group: group.prompt.slot),
        dict(encoded) | {group.prompt.slot: prompt for group, prompt in arrived},
        {name: sum(shares) / len(shares) for name, shares in told.items() if shares},
    )


def _lengths(group: Group) -> list[int]:
    return [len(rollout.tokens) for rollout in group.rollouts]
