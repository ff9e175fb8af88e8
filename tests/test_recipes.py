"""Every recipe: pure rows from raw records, splits without a row in common, demonstrations that its task's verifier accepts."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from vlrl.data.images import open_image
from vlrl.data.recipe import Options, write_splits
from vlrl.data.shards import Dataset, NewRow
from vlrl.tasks import load_task, verdict
from vlrl.types import Status

ROOT = Path(__file__).parents[1]
NAMES = sorted(path.stem for path in (ROOT / "data_recipes").glob("*.py"))
TRAIN, EVAL = 24, 8


def recipe(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "data_recipes" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Builds a recipe's two small data sets, once each."""
    folders: dict[str, Path] = {}

    def build(name: str) -> Path:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name)
            arguments = ["--out", str(folders[name]), "--train", str(TRAIN), "--eval", str(EVAL)]
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "argv", [name, *arguments])
                recipe(name).main()
        return folders[name]

    return build


def rows_of(folder: Path) -> list:
    dataset = Dataset(folder)
    return [dataset[number] for number in range(len(dataset))]


def content(row) -> tuple:
    return row.question, *(open_image(ref, max_side=64).tobytes() for ref in row.images)


def test_every_recipe_has_a_task_of_its_name():
    assert {path.stem for path in (ROOT / "tasks").glob("*.py")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_no_question_of_eval_is_in_train(built, name):
    train, held_out = rows_of(built(name) / "train"), rows_of(built(name) / "eval")
    assert (len(train), len(held_out)) == (TRAIN, EVAL)
    assert len({content(row) for row in train + held_out}) == TRAIN + EVAL


@pytest.mark.parametrize("name", NAMES)
def test_every_demonstration_is_worth_a_full_reward(built, name):
    task = load_task(name, [ROOT / "tasks"])
    for row in rows_of(built(name) / "eval"):
        score = verdict(task, row.response, row)
        assert (score.reward, score.status) == (1.0, Status.OK), row


@pytest.mark.parametrize("name", NAMES)
def test_the_prompt_of_a_row_alone_is_worth_nothing(built, name):
    task = load_task(name, [ROOT / "tasks"])
    row = rows_of(built(name) / "eval")[0]
    assert verdict(task, task.prompt(row)[0]["content"][-1]["text"], row).reward == 0


@pytest.mark.parametrize("name", NAMES)
def test_images_come_first_in_the_prompt(built, name):
    row = rows_of(built(name) / "train")[0]
    (message,) = load_task(name, [ROOT / "tasks"]).prompt(row)
    kinds = [part["type"] for part in message["content"]]
    assert kinds == ["image"] * len(row.images) + ["text"]
    assert [part["image"] for part in message["content"][:-1]] == list(row.images)


def test_chain_sum_keeps_easy_sums_and_works_them_out():
    to_row = recipe("chain_sum").to_row
    sums = {text: to_row({"metadata": {"expression": text}, "answer": str(eval(text))}) for text in ("23 + 45", "21 + 32")}
    assert sums["23 + 45"] == NewRow(question="23 + 45 = ?", answer="68", response="3+5=8, 2+4=6 \\boxed{68}")
    assert sums["21 + 32"].response == "1+2=3, 2+3=5 \\boxed{53}"
    for refused in ("27 + 45", "23 - 11", "51 + 12"):
        assert to_row({"metadata": {"expression": refused}, "answer": str(eval(refused))}) is None


def test_knights_shortens_the_puzzle_and_tries_each_case():
    puzzle = {"statements": (("not", ("lying", 1)), ("and", ("telling-truth", 0), ("lying", 1))), "solution": (False, False)}
    row = recipe("knights").to_row({"metadata": puzzle})
    assert row.question == "A says: it is false that B is a knave. B says: A is a knight and B is a knave."
    assert row.answer == "knave, knave"
    assert row.response.startswith("knight, knight: true, false. knight, knave: false, true. ")
    assert row.response.endswith("knave, knave: false, false. \\boxed{knave, knave}")
    implication = {"statements": (("->", ("lying", 1), ("lying", 0)), ("lying", 1)), "solution": (True, False)}
    assert recipe("knights").to_row({"metadata": implication}) is None


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
    scenes = list(recipe("counting").raws(seed=0, num=100))
    assert sum(len(raw) == 2 for raw in scenes) == 10
    assert all(1 <= int(recipe("counting").to_row(raw).answer) <= 6 for raw in scenes)


def test_a_recipe_asked_for_too_many_rows_says_how_many_there_are(tmp_path):
    options = Options(out=tmp_path, seed=0, train=3, eval=1)
    rows = [NewRow(question="1+1", answer="2"), NewRow(question="1+1", answer="2"), None]
    with pytest.raises(ValueError, match="pairs: 1 distinct rows among 3 records; 4 were asked for"):
        write_splits(options, rows, source="", licence="", recipe="pairs", recipe_version=1)
