"""Grid puzzles: any grid that keeps the rules and the clues is right, and nothing else is."""

import doctest
import json
from functools import cache
from itertools import combinations

import pytest
import reasoning_gym
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrl.common.responses import after_reasoning
from vlrl.tasks import BadRow
from vlrl.verifiers import grids
from vlrl.verifiers.answers import last_boxed, same_text
from vlrl.verifiers.grids import digits, is_shortest_path, right_cells, same_grid, solves_futoshiki, solves_queens, solves_sudoku

PASSES = {
    "sudoku": lambda answer, row: solves_sudoku(answer, row["metadata"]["puzzle"]),
    "mini_sudoku": lambda answer, row: solves_sudoku(answer, row["metadata"]["puzzle"]),
    "zebra_puzzles": lambda answer, row: same_text(answer, row["answer"]),
    "futoshiki": lambda answer, row: solves_futoshiki(answer, row["metadata"]["puzzle"], row["metadata"]["constraints"]),
    "n_queens": lambda answer, row: solves_queens(answer, row["metadata"]["puzzle"]),
    "shortest_path": lambda answer, row: is_shortest_path(answer, row["metadata"]["matrix"]),
}
SMALL = {"zebra_puzzles": {"num_people": 3, "num_characteristics": 3}, "futoshiki": {"max_board_size": 4}}  # quick to make
HAS_GRID = ["sudoku", "mini_sudoku", "futoshiki", "n_queens"]

PUZZLE = [
    [8, 0, 6, 0, 9, 3, 0, 0, 0],
    [0, 0, 4, 0, 8, 0, 0, 1, 0],
    [9, 0, 0, 0, 0, 7, 0, 2, 3],
    [1, 0, 0, 0, 7, 4, 5, 6, 0],
    [0, 6, 7, 5, 2, 1, 3, 9, 0],
    [0, 0, 0, 0, 6, 9, 7, 0, 0],
    [0, 4, 0, 7, 1, 0, 2, 8, 0],
    [5, 1, 0, 4, 0, 0, 6, 7, 9],
    [0, 0, 2, 0, 0, 8, 1, 0, 4],
]
SOLVED = """8 2 6 1 9 3 4 5 7
7 3 4 2 8 5 9 1 6
9 5 1 6 4 7 8 2 3
1 9 3 8 7 4 5 6 2
4 6 7 5 2 1 3 9 8
2 8 5 3 6 9 7 4 1
3 4 9 7 1 6 2 8 5
5 1 8 4 3 2 6 7 9
6 7 2 9 5 8 1 3 4"""
MINI = [[3, 0, 1, 0], [0, 1, 0, 0], [4, 2, 0, 0], [1, 0, 2, 4]]
MINI_SOLVED = "3 4 1 2\n2 1 4 3\n4 2 3 1\n1 3 2 4"
HOUSES = {
    "House 1": {"name": "Arnold", "phone": "OnePlus 9"},
    "House 2": {"name": "Bob", "phone": "Huawei P50"},
    "House 3": {"name": "Carol", "phone": "Pixel 6"},
}


@cache
def generated(family):
    return list(reasoning_gym.create_dataset(family, size=50, seed=20, **SMALL.get(family, {})))


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(grids).failed == 0


@pytest.mark.parametrize("family", PASSES)
def test_every_generated_row_passes_with_its_own_answer(family):
    assert [PASSES[family](row["answer"], row) for row in generated(family)] == [True] * 50


@pytest.mark.parametrize("family", HAS_GRID)
def test_the_answer_of_another_row_passes_only_if_it_solves_this_one_too(family):
    rows = generated(family)[:15]
    for row in rows:
        solutions = row["metadata"].get("valid_answers", [row["answer"]])  # some boards of queens have several
        for other in rows:
            assert PASSES[family](other["answer"], row) == (other["answer"] in solutions)


@pytest.mark.parametrize("family", HAS_GRID)
def test_no_row_passes_with_two_cells_exchanged(family):
    for row in generated(family)[:3]:
        cells = [place for place, mark in enumerate(row["answer"]) if mark.isalnum() or mark == "_"]
        for one, other in combinations(cells, 2):
            swapped = list(row["answer"])
            swapped[one], swapped[other] = swapped[other], swapped[one]
            assert swapped == list(row["answer"]) or not PASSES[family]("".join(swapped), row)


@settings(max_examples=50)
@given(
    st.lists(st.sampled_from(["", " ", "\n", " | ", "\t", ",", "\n---+---\n", "] ["]), min_size=82, max_size=82), st.booleans()
)
def test_a_solved_sudoku_passes_however_it_is_drawn(gaps, fenced):
    drawn = gaps[0] + "".join(cell + gap for cell, gap in zip(SOLVED.replace("\n", " ").split(), gaps[1:], strict=True))
    assert solves_sudoku(f"```text\n{drawn}\n```" if fenced else drawn + ".", PUZZLE)


@settings(max_examples=300)
@given(st.integers(0, len(SOLVED)), st.integers(0, 2), st.text(st.sampled_from("0123456789 |x_٣３-"), max_size=2))
def test_an_edit_of_a_solved_sudoku_passes_only_if_it_leaves_every_digit(start, length, put_in):
    edited = SOLVED[:start] + put_in + SOLVED[start + length :]
    bare = edited.translate(dict.fromkeys(map(ord, " \n|-")))
    assert solves_sudoku(edited, PUZZLE) == (bare == "".join(SOLVED.split()))


@pytest.mark.parametrize(
    "answer",
    [
        "",
        ".",
        "```\n```",
        MINI_SOLVED + " 3",
        MINI_SOLVED + "\n\n" + MINI_SOLVED,
        MINI_SOLVED[:-2],
        MINI_SOLVED.replace("4", "_"),
        MINI_SOLVED.replace("4", "0"),
        MINI_SOLVED.replace("4", "5"),
        MINI_SOLVED.translate({ord("4"): "４"}),
        MINI_SOLVED.translate({ord("3"): "٣"}),
        "The grid is\n" + MINI_SOLVED,
        f"<think>{MINI_SOLVED}</think>",
        MINI_SOLVED + "..",
        MINI_SOLVED + " " * 5000,
    ],
)
def test_all_else_is_not_a_grid(answer):
    assert digits(answer, 4) is None
    assert not solves_sudoku(answer, MINI)


def test_a_grid_in_the_reasoning_alone_is_no_answer():
    response = f"<think>{MINI_SOLVED} \\boxed{{{MINI_SOLVED}}}</think> Solved."
    assert last_boxed(response) is None
    assert not solves_sudoku(after_reasoning(response), MINI)


def test_another_completion_counts_as_well():
    assert all(solves_sudoku(grid, [[0] * 4] * 4) for grid in (MINI_SOLVED, "1234341221434321"))


def test_another_valid_grid_that_breaks_a_clue_does_not():
    renamed = SOLVED.translate(str.maketrans("12", "21"))
    assert solves_sudoku(renamed, [[0] * 9] * 9)
    assert not solves_sudoku(renamed, PUZZLE)


def test_rows_and_columns_without_the_boxes_are_not_enough():
    assert not solves_sudoku("1234 2341 3412 4123", [[0] * 4] * 4)


@pytest.mark.parametrize(
    ("puzzle", "message"),
    [
        ([], "is not a sudoku"),
        ([[0] * 5] * 5, "is not a sudoku"),
        ([[0] * 4] * 3 + [[0] * 3], "is not a sudoku"),
        ([["_"] * 4] * 4, "is not a sudoku"),
        ([[5, 0, 0, 0]] + [[0] * 4] * 3, "is not a sudoku"),
        ([[1, 0, 0, 1]] + [[0] * 4] * 3, "repeats a clue"),
        ([[1, 0, 0, 0], [0, 1, 0, 0]] + [[0] * 4] * 2, "repeats a clue"),
    ],
)
def test_a_puzzle_that_is_none_is_the_rows_fault(puzzle, message):
    with pytest.raises(BadRow, match=message):
        solves_sudoku(MINI_SOLVED, puzzle)


def test_a_futoshiki_keeps_its_inequalities():
    empty = [[0] * 3] * 3
    latin = "1 2 3\n2 3 1\n3 1 2"
    assert solves_futoshiki(latin, empty, [(0, 0, 0, 1, "<"), (0, 2, 1, 2, ">")])
    assert not solves_futoshiki(latin, empty, [(0, 0, 0, 1, ">")])
    assert not solves_futoshiki(latin, [[3, 0, 0], [0] * 3, [0] * 3], [])
    assert not solves_futoshiki("1 2 3\n1 2 3\n1 2 3", empty, [])


@pytest.mark.parametrize("constraint", [(0, 0, 0, 2, "<"), (0, 0, 0, 1, "="), (0, 0, "<"), (-1, 0, 0, 0, "<")])
def test_a_constraint_that_is_none_is_the_rows_fault(constraint):
    with pytest.raises(BadRow, match="are not constraints on 2x2 cells"):
        solves_futoshiki("1 2 2 1", [[0, 0], [0, 0]], [constraint])


@settings(max_examples=200)
@given(st.permutations(range(5)), st.integers(0, 24))
def test_queens_are_placed_right_exactly_if_no_two_attack_each_other(columns, moved):
    queens = {(row, col) for row, col in enumerate(columns)} | {divmod(moved, 5)}
    board = "\n".join(" ".join("_Q"[(row, col) in queens] for col in range(5)) for row in range(5))
    attacked = any(a == c or b == d or abs(a - c) == abs(b - d) for (a, b), (c, d) in combinations(queens, 2))
    assert solves_queens(board, [["_"] * 5] * 5) == (len(queens) == 5 and not attacked)


def test_a_queen_that_was_given_stays():
    board, other = "_Q__ ___Q Q___ __Q_", "__Q_ Q___ ___Q _Q__"
    puzzle = [list("_Q__"), list("____"), list("____"), list("____")]
    assert solves_queens(board, puzzle)
    assert not solves_queens(other, puzzle)
    assert not solves_queens(board.replace("Q", "q"), puzzle)


@pytest.mark.parametrize("puzzle", [[], ["_Q"], ["_Q", "_."], [[0, 1], [0, 0]]])
def test_a_board_that_is_none_is_the_rows_fault(puzzle):
    with pytest.raises(BadRow, match="is not a square board"):
        solves_queens("_Q", puzzle)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("right right down", True),
        (" Right, right, DOWN.", True),
        ("right right up down down", False),
        ("down right right", False),
        ("right right", False),
        ("left", False),
        ("right right down up down", False),
        ("right right down or down right right", False),
        ("infeasible", False),
        ("", False),
        ("ｒight right down", False),
        ("right " * 3000, False),
    ],
)
def test_a_shortest_path_leads_there_in_the_fewest_steps(answer, right):
    assert is_shortest_path(answer, ["*OO", "XX#", "OOO"]) == right


def test_no_path_may_wrap_around_the_edge():
    assert not is_shortest_path("left", ["*X#"])
    assert is_shortest_path("Infeasible.", ["*X#"])


@pytest.mark.parametrize("matrix", [[], ["OO"], ["*O"], ["*#*"], ["*#?"]])
def test_a_maze_without_its_two_ends_is_the_rows_fault(matrix):
    with pytest.raises(BadRow, match="is not a grid of O and X"):
        is_shortest_path("up", matrix)


@settings(max_examples=50)
@given(
    st.permutations(list(HOUSES)), st.sampled_from([str.upper, str.title, lambda word: f" {word}. "]), st.sampled_from([None, 2])
)
def test_a_logic_grid_passes_in_any_order_case_and_layout(order, spelt, indent):
    grid = {house: {key: spelt(word) for key, word in reversed(HOUSES[house].items())} for house in order}
    assert same_grid(f"```json\n{json.dumps(grid, indent=indent)}\n```", HOUSES)


@given(st.sets(st.sampled_from([(house, key) for house in HOUSES for key in HOUSES[house]])))
def test_the_share_of_right_cells_is_exact(wrong):
    grid = {house: {key: "?" if (house, key) in wrong else word for key, word in row.items()} for house, row in HOUSES.items()}
    assert right_cells(json.dumps(grid), HOUSES) == pytest.approx(1 - len(wrong) / 6)
    assert same_grid(json.dumps(grid), HOUSES) == (not wrong)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "[]",
        "{}",
        "null",
        "NaN",
        "[" * 4000,
        '{"a":' * 800,
        json.dumps(HOUSES) * 2,
        json.dumps(HOUSES)[:-1],
        json.dumps(HOUSES | {"House 4": {"name": "Eve", "phone": "none"}}),
        json.dumps(HOUSES | {"House 1": HOUSES["House 1"] | {"pet": "cat"}}),
        json.dumps(HOUSES | {"House 1": {"name": "Arnold"}}),
        json.dumps(HOUSES | {"House 1": ["Arnold", "OnePlus 9"]}),
        json.dumps(HOUSES).replace("House 1", "house 1"),
        json.dumps(HOUSES).replace('"name"', '"name": "Bob", "name"'),
        "The grid: " + json.dumps(HOUSES),
    ],
)
def test_without_exactly_its_keys_a_logic_grid_is_worth_nothing(answer):
    assert right_cells(answer, HOUSES) == 0.0


def test_a_cell_that_is_a_list_of_guesses_is_wrong():
    guesses = HOUSES | {"House 1": {"name": ["Arnold", "Bob"], "phone": {"OnePlus 9": True}}}
    assert right_cells(json.dumps(guesses), HOUSES) == pytest.approx(4 / 6)


@pytest.mark.parametrize(
    "gold", [{}, {"House 1": {}}, {"House 1": "Bob"}, {"House 1": {"name": ""}}, {"House 1": {"name": None}}]
)
def test_a_reference_that_is_no_grid_is_the_rows_fault(gold):
    with pytest.raises(BadRow, match="is not an object of rows"):
        same_grid("{}", gold)


SOME_ROWS = {
    "sudoku": {"metadata": {"puzzle": PUZZLE}},
    "mini_sudoku": {"metadata": {"puzzle": MINI}},
    "futoshiki": {"metadata": {"puzzle": [[0] * 4] * 4, "constraints": [[0, 0, 0, 1, "<"]]}},
    "n_queens": {"metadata": {"puzzle": [["_"] * 4] * 4}},
    "shortest_path": {"metadata": {"matrix": ["*O", "X#"]}},
}


def judge_all(answer):
    judged = [PASSES[family](answer, row) for family, row in SOME_ROWS.items()]
    return [*judged, same_grid(answer, HOUSES)]


@settings(max_examples=100)
@given(st.text(max_size=200) | st.text(st.sampled_from('0123456789_Q|{}[]":,.` \n'), max_size=200))
def test_no_text_upsets_the_checks(text):
    judge_all(text)


@pytest.mark.parametrize("text", ["1 ", "```", "[", '{"', "Q_", "up ", " ", "３", "\\boxed{", "<think>"])
def test_a_megabyte_is_wrong_at_once(text):
    assert not any(judge_all(text * (2**20 // len(text))))
