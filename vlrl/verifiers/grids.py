"""Verifies grid puzzles by their rules: sudoku, futoshiki, queens, logic grids and shortest paths.

Any grid that satisfies the rules and the row's clues is right; it need not equal a stored solution. (For a zebra puzzle with a
one-word answer, use `same_text` of answers.py.) `puzzle`, `constraints` and `matrix` are plain lists from reasoning-gym's
metadata. As in answers.py, an answer that the rules cannot read is wrong, and a puzzle that cannot be read raises BadRow. Every
check takes time linear in the answer.
"""

import re
from collections.abc import Container, Mapping, Sequence
from itertools import chain
from math import isqrt
from typing import Any

from vlrl.tasks import BadRow
from vlrl.verifiers.answers import MAX_ANSWER, same_text
from vlrl.verifiers.dress import undress
from vlrl.verifiers.structured import read_json

Grid = Sequence[Sequence[int]]

_FENCE = re.compile(r"```[a-z]*")
_GRID_MARKS = re.compile(r"[\s|+\-\[\],<>∧∨]")  # lines and brackets of a drawn or listed grid, futoshiki's signs
_STEPS: dict[str, complex] = {"up": -1, "down": 1, "left": -1j, "right": 1j}  # a cell is row + column * 1j


def digits(answer: str, size: int) -> list[list[int]] | None:
    """Reads `answer` as a grid of size x size digits from 1 to size, in any drawing; None if it is anything else.

    White space, code fences, the marks | + - [ ] , < > ∧ ∨ and one final full stop are ignored. Digits must be ASCII, and the
    answer has at most 4,096 characters.

    >>> digits("1 2 | 3 4\\n3 4 | 1 2\\n----+----\\n2 1 | 4 3\\n4 3 | 2 1", 4)
    [[1, 2, 3, 4], [3, 4, 1, 2], [2, 1, 4, 3], [4, 3, 2, 1]]
    >>> digits("1 2 3 4", 4), digits("12 or 21", 2)
    (None, None)
    """
    cells = _cell_text(answer)
    if len(cells) != size * size or not set(cells) <= set("123456789"[:size]):
        return None
    return [[int(cell) for cell in cells[start : start + size]] for start in range(0, size * size, size)]


def solves_sudoku(answer: str, puzzle: Grid) -> bool:
    """Whether `answer` solves the 4x4 or 9x9 `puzzle` (0 is empty): rows, columns and boxes are right, and no clue is changed.

    Raises BadRow if the puzzle is not such a grid, or repeats a clue within a row, column or box.

    >>> puzzle = [[3, 0, 1, 0], [0, 1, 0, 0], [4, 2, 0, 0], [1, 0, 2, 4]]
    >>> solves_sudoku("3412 2143 4231 1324", puzzle), solves_sudoku("1234 3412 2143 4321", puzzle)
    (True, False)
    """
    size, box = len(puzzle), isqrt(len(puzzle))
    if size not in (4, 9) or not _is_square(puzzle, range(size + 1)):
        raise BadRow(f"{puzzle} is not a sudoku; it must have 4x4 or 9x9 cells from 0 to its size")
    if any(unit.count(clue) > 1 for unit in _units(puzzle, box) for clue in range(1, size + 1)):
        raise BadRow(f"the sudoku {puzzle} repeats a clue in a row, column or box")
    grid = digits(answer, size)
    return grid is not None and _keeps(grid, puzzle) and _all_differ(_units(grid, box))


def solves_futoshiki(answer: str, puzzle: Grid, constraints: Sequence[tuple[int, int, int, int, str]]) -> bool:
    """Whether `answer` solves `puzzle` (0 is empty): rows and columns are right, and all clues and inequalities hold.

    constraints: (row, column, other row, other column, "<" or ">"). Raises BadRow if the puzzle or a constraint cannot be read.

    >>> solves_futoshiki("1 < 2\\n2   1", [[0, 0], [0, 0]], [(0, 0, 0, 1, "<")])
    True
    """
    size = len(puzzle)
    if not 1 <= size <= 9 or not _is_square(puzzle, range(size + 1)):
        raise BadRow(f"{puzzle} is not a futoshiki; it must be a square of at most 9x9 cells from 0 to its size")
    for *places, sign in constraints:
        if len(places) != 4 or any(place not in range(size) for place in places) or sign not in ("<", ">"):
            raise BadRow(f"{constraints} are not constraints on {size}x{size} cells")
    grid = digits(answer, size)
    if grid is None or not _keeps(grid, puzzle) or not _all_differ([*grid, *zip(*grid, strict=True)]):
        return False
    return all(_in_order(grid[row][col], grid[r][c], sign) for row, col, r, c, sign in constraints)


def solves_queens(answer: str, puzzle: Sequence[Sequence[str]]) -> bool:
    """Whether `answer` is a board of "_" and "Q" that keeps the puzzle's queens and has one in every row, none attacking another.

    Raises BadRow if the puzzle is not a square board of these.

    >>> solves_queens("_ Q _ _\\n_ _ _ Q\\nQ _ _ _\\n_ _ Q _", [list("_Q__"), list("____"), list("____"), list("____")])
    True
    """
    size = len(puzzle)
    if not _is_square(puzzle, ("_", "Q")):
        raise BadRow(f"{puzzle} is not a square board of _ and Q")
    board = _cell_text(answer)
    if len(board) != size * size or not set(board) <= {"_", "Q"}:
        return False
    queens = [divmod(place, size) for place, mark in enumerate(board) if mark == "Q"]
    lines = zip(*((row, col, row + col, row - col) for row, col in queens), strict=True)
    kept = all(board[row * size + col] == "Q" for row in range(size) for col in range(size) if puzzle[row][col] == "Q")
    return kept and len(queens) == size and all(len(set(line)) == size for line in lines)


def right_cells(answer: str, gold: Mapping[str, Mapping[str, str]]) -> float:
    """The share of the reference's cells that `answer`, a JSON object of rows, has right by `same_text`.

    The answer scores 0.0 if its keys are not exactly the reference's, or if it repeats a key. A surrounding code fence is
    ignored. Log this share, but reward `same_grid`: many cells can be guessed. Raises BadRow if the reference is not rows of
    words.

    >>> gold = {"House 1": {"name": "Bob", "lunch": "soup"}, "House 2": {"name": "Eve", "lunch": "pizza"}}
    >>> right_cells('{"House 2": {"name": "eve", "lunch": "soup"}, "House 1": {"name": "Bob", "lunch": "Soup"}}', gold)
    0.75
    >>> right_cells('{"House 1": {"name": "Bob", "lunch": "soup"}}', gold)
    0.0
    """
    wanted = _cells(gold)
    if not wanted or not all(isinstance(word, str) and word.strip() for word in wanted.values()):
        raise BadRow(f"the reference {gold!r} is not an object of rows with a word in each cell")
    given = _cells(_json(answer))
    if given.keys() != wanted.keys():
        return 0.0
    right = [isinstance(given[place], str | int) and same_text(str(given[place]), word) for place, word in wanted.items()]
    return sum(right) / len(right)


def same_grid(answer: str, gold: Mapping[str, Mapping[str, str]]) -> bool:
    """Whether all cells are right by the rules of `right_cells`."""
    return right_cells(answer, gold) == 1.0


def is_shortest_path(answer: str, matrix: Sequence[Sequence[str]]) -> bool:
    """Whether `answer` leads from * to # through open cells (O) in the fewest steps, or is "infeasible" if there is no path.

    Steps are up, down, left and right in any case, separated by white space or commas. Raises BadRow unless the grid has one *
    and one #.

    >>> maze = ["*O", "X#"]
    >>> is_shortest_path("right, down", maze), is_shortest_path("down, right", maze), is_shortest_path("infeasible", ["*X#"])
    (True, False, True)
    """
    marks = {complex(row, col): mark for row, line in enumerate(matrix) for col, mark in enumerate(line)}
    ends = {mark: cell for cell, mark in marks.items() if mark in ("*", "#")}
    if sorted(mark for mark in marks.values() if mark not in ("O", "X")) != ["#", "*"]:
        raise BadRow(f"{matrix} is not a grid of O and X with one * and one #")
    open_cells = {cell for cell, mark in marks.items() if mark != "X"}
    distance = _distance(open_cells, ends["*"], ends["#"])
    if len(answer) > MAX_ANSWER:
        return False
    if distance is None:
        return same_text(answer, "infeasible")
    steps = undress(answer).casefold().replace(",", " ").split()
    cell = ends["*"]
    for step in steps:
        cell += _STEPS.get(step, float("inf"))
        if cell not in open_cells:
            return False
    return cell == ends["#"] and len(steps) == distance


def _distance(open_cells: set[complex], start: complex, goal: complex) -> int | None:
    reached, edge, distance = {start}, {start}, 0
    while edge and goal not in reached:
        edge = {cell + step for cell in edge for step in _STEPS.values()} & open_cells - reached
        reached |= edge
        distance += 1
    return distance if goal in reached else None


def _cell_text(answer: str) -> str:
    """The cells of a drawn grid, without the drawing; empty if the answer is too long."""
    return _GRID_MARKS.sub("", _FENCE.sub("", answer)).removesuffix(".") if len(answer) <= MAX_ANSWER else ""


def _is_square(grid: Any, values: Container[object]) -> bool:
    return bool(grid) and all(len(row) == len(grid) and all(cell in values for cell in row) for row in grid)


def _units(grid: Grid, box: int) -> list[tuple[int, ...]]:
    """The rows, columns and boxes of a sudoku."""
    corners = [(row, col) for row in range(0, len(grid), box) for col in range(0, len(grid), box)]
    boxes = (tuple(chain.from_iterable(line[col : col + box] for line in grid[row : row + box])) for row, col in corners)
    return [*map(tuple, grid), *zip(*grid, strict=True), *boxes]


def _keeps(grid: Grid, puzzle: Grid) -> bool:
    cells = zip(chain.from_iterable(grid), chain.from_iterable(puzzle), strict=True)
    return all(clue in (0, cell) for cell, clue in cells)


def _all_differ(units: Sequence[Sequence[int]]) -> bool:
    return all(len(set(unit)) == len(unit) for unit in units)


def _in_order(one: int, other: int, sign: str) -> bool:
    return one < other if sign == "<" else one > other


def _json(answer: str) -> Any:
    try:
        return read_json(_FENCE.sub("", answer.strip()))
    except ValueError:
        return None


def _cells(grid: Any) -> dict[tuple[str, str], Any]:
    """The cells of an object of objects, by their two keys; empty for anything else."""
    if not isinstance(grid, Mapping) or not all(isinstance(row, Mapping) and row for row in grid.values()):
        return {}
    return {(name, key): cell for name, row in grid.items() for key, cell in row.items()}
