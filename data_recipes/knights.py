"""knights (logic): finds out which of two people is a knight or a knave; reasoning-gym's puzzles in fewer words."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import reasoning_gym

from vlrl.data.recipe import Drop
from vlrl.data.shards import NewRow

SOURCE = "reasoning-gym 0.1.25, knights_knaves"
LICENCE = "Apache-2.0"
VERSION = 3
TRAIN, EVAL = 320, 100
NAMES = ("A", "B")
ROLES = {True: "knight", False: "knave"}


def raws(source: str | None, seed: int) -> Iterator[Mapping[str, Any]]:
    ranges = {"n_people": 2, "depth_constraint": 2, "width_constraint": 3}
    yield from reasoning_gym.create_dataset("knights_knaves", size=7000, seed=seed, **ranges)


def to_row(raw: Mapping[str, Any]) -> NewRow:
    puzzle = raw["metadata"]
    if any(word in str(puzzle["statements"]) for word in ("->", "<=>", "not")):
        raise Drop("an implication, an equivalence or a negation, more than a tiny model learns")
    says = [f"{name} says: {_words(claim)}." for name, claim in zip(NAMES, puzzle["statements"], strict=True)]
    answer = ", ".join(ROLES[role] for role in puzzle["solution"])
    return NewRow(question=" ".join(says), answer=answer, response=f"{working(puzzle['statements'])} \\boxed{{{answer}}}")


def _words(claim: tuple) -> str:
    match claim:
        case ("telling-truth", person):
            return f"{NAMES[person]} is a knight"
        case ("lying", person):
            return f"{NAMES[person]} is a knave"
        case (("and" | "or") as word, *parts):
            return f" {word} ".join(_words(part) for part in parts)
    raise ValueError(f"unknown form of claim in reasoning-gym's knights_knaves: {claim}")


def working(claims: tuple) -> str:
    """Tries the role assignments in turn, up to the one in which exactly the knights' claims are true."""
    tried = []
    for roles in itertools.product((True, False), repeat=len(NAMES)):
        holds = tuple(_holds(claim, roles) for claim in claims)
        tried.append(f"{' '.join(ROLES[role] for role in roles)}: {' '.join(str(h).lower() for h in holds)}.")
        if holds == roles:
            break
    return " ".join(tried)


def _holds(claim: tuple, roles: tuple[bool, ...]) -> bool:
    match claim:
        case ("telling-truth", person):
            return roles[person]
        case ("lying", person):
            return not roles[person]
        case ("and", *parts):
            return all(_holds(part, roles) for part in parts)
        case ("or", *parts):
            return any(_holds(part, roles) for part in parts)
    raise ValueError(claim)
