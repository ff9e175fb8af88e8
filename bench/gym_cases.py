"""Answers to generated puzzles of reasoning-gym, right ones as models write them and wrong ones that look alike.

An answer is text without a container, because vlrl reads it from a box and reasoning-gym from <answer> tags.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import reasoning_gym

from bench.grader_cases import Case
from data_recipes.reasoning_gym import FAMILIES, to_row
from vlrl.types import Row

Entry = Mapping[str, Any]

PUZZLES = "reasoning-gym's puzzles"

_WORDS = ("zebra_puzzles", "family_relationships", "syllogism", "course_schedule")
_GRIDS = ("sudoku", "mini_sudoku", "futoshiki")
_OPPOSITE = {"up": "down", "down": "up", "left": "right", "right": "left"}


def generated_cases(items: int, seed: int) -> Iterator[Case]:
    """Right and wrong answers to `items` puzzles of each family that vlrl has a task for."""
    tasks = {name: task for name, (task, _) in FAMILIES.items()} | {"chain_sum": "chain_sum"}
    for family, task in tasks.items():
        entries = list(reasoning_gym.create_dataset(family, size=items, seed=seed))
        known = sorted({str(entry["answer"]) for entry in entries} | ({"Yes", "No"} if family == "syllogism" else set()))
        for entry in entries:
            right, wrong = _answers(family, entry, [other for other in known if other != str(entry["answer"])])
            for expected, answers in ((1.0, right), (0.0, wrong)):
                for answer in answers:
                    yield Case(
                        group=PUZZLES,
                        task=task,
                        kind=family,
                        response=f"\\boxed{{{answer}}}",
                        row=_row(family, entry),
                        expected=expected,
                        answer=answer,
                        entry=entry,
                    )


def _row(family: str, entry: Entry) -> Row:
    if family not in FAMILIES:
        return Row(question=entry["question"], answer=entry["answer"])
    row = to_row(entry)
    return Row(question=row.question, answer=row.answer, meta=row.meta)


def _answers(family: str, entry: Entry, others: list[str]) -> tuple[list[str], list[str]]:
    answer = str(entry["answer"])
    if family in _WORDS:
        return _word(answer, others)
    if family in _GRIDS:
        return _grid(answer, entry["metadata"]["solution"])
    if family == "n_queens":
        return _board(answer, entry["metadata"]["valid_answers"])
    if family == "shortest_path":
        return _path(answer)
    if family == "knights_knaves":
        return _people(entry["metadata"])
    return _number(int(answer))


def _word(answer: str, others: list[str]) -> tuple[list[str], list[str]]:
    right = [answer, f"{answer}.", answer.upper(), answer.capitalize(), f" {answer}\n", rf"\text{{{answer}}}"]
    wrong = ["", f"not {answer}", answer[1:] + answer[0], f"anything but {answer}"]
    return right, wrong + [text for other in others[:2] for text in (other, f"{answer} or {other}", f"{other}, {answer}")]


def _number(answer: int) -> tuple[list[str], list[str]]:
    right = [f"{answer}", f"{answer}.", f"{answer}.0", f" {answer}\n", f"{answer:,}", rf"\text{{{answer}}}"]
    wrong = [f"{answer + 1}", f"{answer}.5", f"{answer} or {answer + 1}", f"{answer + 1}, not {answer}", f"{answer}1{answer}", ""]
    return right, [*wrong, f"{-answer}"] if answer else wrong


def _grid(answer: str, solution: list[list[int]]) -> tuple[list[str], list[str]]:
    lines = [" ".join(map(str, row)) for row in solution]
    first, second, *rest = solution[0]
    swapped = [[second, first, *rest], *solution[1:]]
    right = [answer, "\n".join(lines), "\n".join(lines).replace(" ", ""), f"\n{answer}\n", str(solution), f"```\n{answer}\n```"]
    wrong = [str(swapped), "\n".join(" ".join(map(str, row)) for row in swapped), "\n".join([lines[1], lines[0], *lines[2:]])]
    return right, [*wrong, "\n".join(lines[:-1]), "\n".join([*lines, lines[0]]), "\n".join(["_ " * len(lines)] * len(lines))]


def _board(answer: str, valid: list[str]) -> tuple[list[str], list[str]]:
    lines = answer.split("\n")
    right = [answer, answer.replace(" ", ""), answer.replace(" ", ", "), f"\n{answer}\n"]
    moved = [line if n else " ".join(reversed(line.split())) for n, line in enumerate(lines)]
    wrong = ["\n".join(changed) for changed in (moved, [lines[1], lines[0], *lines[2:]], lines[:-1], [*lines, lines[0]])]
    return right, [board for board in [*wrong, answer.replace("Q", "_", 1), answer.replace("_", "Q", 1)] if board not in valid]


def _path(answer: str) -> tuple[list[str], list[str]]:
    if answer == "infeasible":
        return [answer, "Infeasible", "infeasible."], ["up", "feasible", "", "not infeasible", "infeasible or up"]
    steps = answer.split()
    right = [answer, answer.replace(" ", ", "), answer.upper(), f" {answer}\n", "\n".join(steps)]
    longer = [steps[0], _OPPOSITE[steps[0]], *steps]
    turned = [*steps[:-1], _OPPOSITE[steps[-1]]]
    return right, [" ".join(path) for path in (longer, turned, steps[:-1], [*steps, steps[-1]])] + ["infeasible", ""]


def _people(puzzle: Entry) -> tuple[list[str], list[str]]:
    terms, names, solution = puzzle["knight_knave_terms"], puzzle["names"], list(puzzle["solution"])

    def said(roles: list[bool], between: str = ", and ", verb: str = " is a ") -> str:
        return between.join(
            f"{name}{verb}{terms['knight' if knight else 'knave']}" for name, knight in zip(names, roles, strict=False)
        )

    flipped = [not solution[0], *solution[1:]]
    right = [said(solution) + ".", said(solution), said(solution, "\n", ": "), said(solution, "; "), said(solution).lower()]
    both = said(solution) + ", and " + said(flipped[:1])
    wrong = [said(flipped), said([not knight for knight in solution]), said(solution[:-1]), both, "", said(flipped, "\n", ": ")]
    return right, wrong
