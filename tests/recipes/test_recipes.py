"""Every recipe: pure rows from raw records, splits without a row in common, demonstrations that its task's verifier accepts."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import SHARED
from tests.recipes.samples import MADE, made_sample
from vlrl.data import recipe as recipes
from vlrl.data.build import build
from vlrl.data.images import open_image
from vlrl.data.recipe import Drop, LeftOut, load_recipe
from vlrl.data.shards import Dataset, NewRow
from vlrl.tasks import gold, load_task, score_response
from vlrl.types import Status

ROOT = Path(__file__).parents[2]
# Of the hub, without a sample: on made-up records in test_text_recipes.py and test_picture_recipes.py.
ELSEWHERE = {"aime25", "hmmt25", "beyond_aime", "dapo_math", "aqua", "code_contests", "livecodebench", "zebralogic"}
ELSEWHERE |= {"geometry3k", "mathvision", "chartqa"}
NAMES = sorted({path.stem for path in (ROOT / "data_recipes").glob("*.py")} - ELSEWHERE)
TRAIN, EVAL = 24, 8
DATA = SHARED / "data"
PUBLISHED = {
    "gsm8k": DATA / "math/gsm8k_train_400.jsonl",
    "humaneval": DATA / "code/humaneval_164.jsonl",
    "mbpp": DATA / "code/mbpp_test_11_510.jsonl",
    "cruxeval": DATA / "code/cruxeval_400.jsonl",
    "competition_math": DATA / "math/math500.jsonl",
    "math500": DATA / "math/math500.jsonl",
    "bbh": DATA / "logic/bbh_logic.jsonl",
    "nlvr": DATA / "vision/nlvr/rows.jsonl",
    "puzzlevqa": DATA / "vision/puzzlevqa/rows.jsonl",
    "bccd_counting": DATA / "vision/bccd/rows.jsonl",
    "bccd_grounding": DATA / "vision/bccd/rows.jsonl",
}
# A recipe and where its records are from: what it draws itself, a sample that is made up here, or, where it is there, a real one.
SOURCES = [(name, "made" if name in MADE else "drawn") for name in NAMES]
SOURCES += [(name, "published") for name in NAMES if name in PUBLISHED and PUBLISHED[name].exists()]
FEW = {"functions": 40, "humaneval": 40, "mbpp": 40, "reasoning_gym": 40}  # records, where a row's answer takes its time
FEW |= {"bars": 80, "clocks": 60, "table_charts": 80, "tables": 60}  # and where one is drawn
FEW |= {"scenes": 60, "signs": 60, "pointing": 90}


def recipe(name: str):
    return load_recipe(ROOT / "data_recipes" / f"{name}.py")


def dropped(name: str, raw) -> str:
    """Why a record is no row."""
    with pytest.raises(Drop) as reason:
        recipe(name).to_row(raw)
    return str(reason.value)


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """The file that a recipe reads its records from; None where it draws its own."""
    made: dict[str, Path] = {}

    def file_of(name: str, source: str) -> str | None:
        if source == "made" and name not in made:
            made[name] = made_sample(name, tmp_path_factory.mktemp(name))
        path = {"made": made, "published": PUBLISHED}.get(source, {}).get(name)
        return str(path) if path else None

    return file_of


@pytest.fixture(scope="module")
def built(tmp_path_factory, sample, pool):
    """Builds a recipe's two small data sets from the first records of a source, once each."""
    folders: dict[tuple[str, str], Path] = {}

    def build_small(name: str, source: str) -> Path:
        if (name, source) not in folders:
            folder = folders[name, source] = tmp_path_factory.mktemp(name)
            whole = recipe(name)
            first = replace(whole, raws=lambda source, seed: islice(whole.raws(source, seed), FEW.get(name, 500)))
            build(replace(first, sizes={"train": TRAIN, "eval": EVAL}), folder, pool, source=sample(name, source))
        return folders[name, source]

    return build_small


def rows_of(folder: Path) -> list:
    dataset = Dataset(folder)
    return [dataset[number] for number in range(len(dataset))]


def content(row) -> tuple:
    return row.question, *(open_image(ref, max_side=1024).tobytes() for ref in row.images)


def test_every_recipe_s_task_is_there():
    assert {recipe(name).task for name in NAMES} <= {path.stem for path in (ROOT / "tasks").glob("*.py")}


@pytest.mark.parametrize(("name", "source"), SOURCES)
def test_no_question_of_eval_is_in_train(built, name, source):
    train, held_out = rows_of(built(name, source) / "train"), rows_of(built(name, source) / "eval")
    assert (len(train), len(held_out)) == (TRAIN, EVAL)
    assert len({content(row) for row in train + held_out}) == TRAIN + EVAL


@pytest.mark.parametrize(("name", "source"), SOURCES)
def test_a_recipe_gives_the_same_rows_each_time(sample, name, source):
    number = 10 if FEW.get(name) == 40 else 20
    once, again = (list(islice(recipes.rows_of(recipe(name), sample(name, source), 0, []), number)) for _ in range(2))
    assert len(once) == number and once == again


@pytest.mark.parametrize(("name", "source"), SOURCES)
def test_every_row_s_own_answer_is_worth_a_full_reward(built, name, source):
    task = load_task(recipe(name).task, [ROOT / "tasks"])
    for row in rows_of(built(name, source) / "eval"):
        score = score_response(task, gold(row), row)
        assert (score.reward, score.status) == (1.0, Status.OK), row


@pytest.mark.parametrize(("name", "source"), SOURCES)
def test_the_prompt_of_a_row_alone_is_worth_nothing(built, name, source):
    task = load_task(recipe(name).task, [ROOT / "tasks"])
    row = rows_of(built(name, source) / "eval")[0]
    assert score_response(task, task.prompt(row)[0]["content"][-1]["text"], row).reward == 0


@pytest.mark.parametrize(("name", "source"), SOURCES)
def test_images_come_first_in_the_prompt(built, name, source):
    row = rows_of(built(name, source) / "train")[0]
    (message,) = load_task(recipe(name).task, [ROOT / "tasks"]).prompt(row)
    kinds = [part["type"] for part in message["content"]]
    assert kinds == ["image"] * len(row.images) + ["text"]
    assert [part["image"] for part in message["content"][:-1]] == list(row.images)


def test_chain_sum_keeps_easy_sums_and_works_them_out():
    to_row = recipe("chain_sum").to_row
    sums = {text: to_row({"metadata": {"expression": text}, "answer": str(eval(text))}) for text in ("23 + 45", "21 + 32")}
    assert sums["23 + 45"] == NewRow(question="23 + 45 = ?", answer="68", response="3+5=8, 2+4=6 \\boxed{68}")
    assert sums["21 + 32"].response == "1+2=3, 2+3=5 \\boxed{53}"
    for refused, why in {"27 + 45": "units that carry", "23 - 11": "a difference", "51 + 12": "a number above 50"}.items():
        assert dropped("chain_sum", {"metadata": {"expression": refused}, "answer": str(eval(refused))}) == why


def test_knights_shortens_the_puzzle_and_tries_each_case():
    puzzle = {"statements": (("telling-truth", 1), ("and", ("telling-truth", 0), ("lying", 1))), "solution": (False, False)}
    row = recipe("knights").to_row({"metadata": puzzle})
    assert row.question == "A says: B is a knight. B says: A is a knight and B is a knave."
    assert row.answer == "knave, knave"
    assert row.response.startswith("knight knight: true false. knight knave: false true. ")
    assert row.response.endswith("knave knave: false false. \\boxed{knave, knave}")
    for harder in (("->", ("lying", 1), ("lying", 0)), ("not", ("lying", 1))):
        assert "an implication" in dropped(
            "knights", {"metadata": {"statements": (harder, ("lying", 1)), "solution": (True, False)}}
        )


def test_functions_describes_in_order_and_tests_by_calls():
    row = recipe("functions").to_row(["add 3", "square"])
    assert row.question == "Write f(x): add 3, then square."
    assert "    x = x + 3\n    x = x ** 2\n    return x" in row.response
    assert row.meta["tests"][:2] == [[[-3], 0], [[0], 9]]


def test_digits_shows_the_scan():
    scan = np.zeros((8, 8))
    scan[2, 5] = 16
    row = recipe("digits").to_row((scan, 4))
    assert (row.answer, len(row.images)) == ("4", 1)


def test_counting_counts_red_circles_over_all_images(tmp_path):
    counting = recipe("counting")
    row = counting.to_row(({(0, 0): "circle", (1, 0): "square"}, {(3, 3): "circle"}))
    assert (row.answer, len(row.images)) == ("2", 2)
    (tmp_path / "scene.png").write_bytes(row.images[0])
    image = open_image(str(tmp_path / "scene.png"), max_side=64)
    assert [image.getpixel(place) for place in ((8, 8), (24, 8), (40, 40))] == [(255, 0, 0), (0, 0, 255), (255, 255, 255)]


def test_one_row_in_ten_of_counting_has_two_images():
    scenes = list(islice(recipe("counting").raws(None, 0), 100))
    assert sum(len(raw) == 2 for raw in scenes) == 10
    assert all(1 <= int(recipe("counting").to_row(raw).answer) <= 6 for raw in scenes)


def test_a_question_asked_before_is_left_out_and_counted():
    pairs = replace(
        recipe("chain_sum"), raws=lambda source, seed: ["1+1", "1+1"], to_row=lambda raw: NewRow(question=raw, answer="2")
    )
    left_out: list[LeftOut] = []
    rows = recipes.rows_of(pairs, None, 0, left_out)
    assert [number for number, _ in recipes.without_repeated(rows, left_out)] == [1]
    assert left_out == [LeftOut(record=2, reason="asked before", question="1+1", detail="the same as record 1")]


FAMILIES = [
    ("knights_knaves", "knights_knaves"),
    ("mini_sudoku", "sudoku"),
    ("n_queens", "queens"),
    ("shortest_path", "shortest_path"),
]


@pytest.mark.parametrize(("family", "task"), FAMILIES + [("circuit_logic", "math_number"), ("syllogism", "short_answer")])
def test_a_family_of_puzzles_is_checked_by_its_task(pool, family, task, tmp_path):
    whole = recipe("reasoning_gym")
    assert family in str(dropped_family(whole))
    few = replace(
        whole, task=task, sizes={"train": 10, "eval": 5}, raws=lambda source, seed: islice(whole.raws(source, seed), 20)
    )
    built, left_out = build(few, tmp_path, pool, source=family)
    assert {name: len(dataset) for name, dataset in built.items()} == {"train": 10, "eval": 5}
    assert not any("not accepted" in left.reason for left in left_out)


def dropped_family(whole) -> ValueError:
    with pytest.raises(ValueError, match="no family 'chess'") as fault:
        whole.raws("chess", 0)
    return fault.value
