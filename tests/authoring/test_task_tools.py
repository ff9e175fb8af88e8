"""What a task's author is told: a file that runs, prompts with their images, verdicts that differ from what they should be."""

import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.preflight.good_run import png
from vlrl.authoring.task_tools import Case, control_characters, new_recipe, new_task, read_cases, row_of, shown
from vlrl.cli.main import app
from vlrl.data.recipe import Drop, load_recipe
from vlrl.data.shards import Dataset, NewRow, write_dataset
from vlrl.tasks import check_examples, load_task


@pytest.fixture
def sky(tmp_path):
    """A folder with a new task in it."""
    new_task("sky", tmp_path / "tasks")
    return tmp_path / "tasks"


def cases(folder, *lines: dict):
    path = folder / "cases.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def command(*arguments) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


RIGHT = {"response": "\\boxed{blue}", "row": {"answer": "blue"}, "expected": 1}
BARE = {"response": "blue", "row": {"answer": "blue"}, "expected": 0}


def test_a_new_task_runs_as_it_is(sky):
    assert check_examples(load_task("sky", [sky])) == []


@pytest.mark.parametrize(
    ("name", "says"), [("sky", "already exists"), ("a sky", "cannot be called 'a sky'"), ("_sky", "cannot be called")]
)
def test_a_name_that_no_task_can_have_is_refused(sky, name, says):
    with pytest.raises(ValueError, match=says):
        new_task(name, sky)


def test_verdicts_as_expected_end_well(sky, tmp_path):
    code, printed = command("verify", "sky", "--tasks", sky, "--cases", cases(tmp_path, RIGHT, BARE))
    assert code == 0, printed
    assert "0 of 2 disagree" in printed


def test_without_cases_the_examples_are_scored(sky):
    code, printed = command("verify", "sky", "--tasks", sky)
    assert code == 0 and f"0 of {len(load_task('sky', [sky]).examples)} disagree" in printed


def test_a_disagreement_is_told_with_its_line_and_ends_with_1(sky, tmp_path):
    path = cases(tmp_path, RIGHT, BARE | {"expected": 1})
    code, printed = command("verify", "sky", "--tasks", sky, "--cases", path)
    assert code == 1
    assert "line 2: expected 1, got 0" in printed
    code, printed = command("verify", "sky", "--tasks", sky, "--cases", path, "--json")
    told = json.loads(printed)
    assert (code, told["cases"], [each["line"] for each in told["disagreements"]]) == (1, 2, [2])
    assert sorted(told["confusion"]) == [["1", "0", 1], ["1", "1", 1]]


def test_examples_that_do_not_hold_are_told_first(sky, tmp_path):
    (sky / "sky.py").write_text((sky / "sky.py").read_text().replace('answer="blue"), 0.0)', 'answer="blue"), 1.0)'))
    code, printed = command("verify", "sky", "--tasks", sky, "--cases", cases(tmp_path, RIGHT))
    assert code == 2
    assert "EXAMPLES[2] expects 1.0, but verify gives 0.0" in printed.replace("\n", "")


def test_a_verifier_that_fails_is_a_disagreement_of_its_own_kind(sky, tmp_path):
    fails = "assert row.question\n    answer = last_boxed"
    (sky / "broken.py").write_text((sky / "sky.py").read_text().replace("answer = last_boxed", fails))
    code, printed = command("verify", "broken", "--tasks", sky, "--cases", cases(tmp_path, BARE), "--json")
    assert code == 1
    assert json.loads(printed)["confusion"] == [["0", "error", 1]]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"response": ""', r":1 cannot be read"),
        ('{"response": "", "row": {}}', ":1 has no 'expected'"),
        ('{"response": "", "row": {"gold": 1}, "expected": 1}', "unknown row field gold; a row has answer, images"),
        ('{"response": "", "row": "00000007", "expected": 1}', "row is '00000007'; write the row itself"),
        (
            '{"response": "", "row": {"answer": ["7"]}, "expected": 1}',
            r"answer is \['7'\] \(list\); write text",
        ),
        ('{"response": null, "row": {"answer": "7"}, "expected": 1}', "response is None \\(NoneType\\); write text"),
        ('{"response": "", "row": {"answer": NaN}, "expected": 1}', "answer is nan \\(float\\); write text or a finite number"),
        ('{"response": "", "row": {"images": "a.png"}, "expected": 1}', "images is 'a.png'; write a list of paths"),
        ('{"response": "", "row": {"images": [7]}, "expected": 1}', "images is .7.; write a list of paths"),
        ('{"response": "", "row": {"meta": ["4"]}, "expected": 1}', "meta is .'4'.; write an object"),
        ('{"response": "", "row": {}, "expected": "right"}', "expected is 'right'; write the reward as a finite number"),
        ('{"response": "", "row": {}, "expected": NaN}', "expected is nan; write the reward as a finite number"),
        ('["", {}, 1]', "write an object: "),
        ("", "is empty"),
    ],
)
def test_a_case_that_cannot_be_read_is_named(tmp_path, line, says):
    (tmp_path / "cases.jsonl").write_text(line)
    with pytest.raises(ValueError, match=says):
        read_cases(tmp_path / "cases.jsonl")


def test_a_number_without_quotation_marks_is_read_as_text(tmp_path):
    path = cases(tmp_path, {"response": 42, "row": {"question": 7, "answer": 42.5}, "expected": 1}, RIGHT)
    (case, _) = read_cases(path)
    assert (case.response, case.row.question, case.row.answer) == ("42", "7", "42.5")
    assert control_characters([case]) == []


def test_prompts_are_shown_with_their_images_as_files(sky, tmp_path):
    rows = [NewRow(question="Which colour?", answer="grey", images=(png(32, 32), png(40, 32)))]
    dataset = write_dataset(tmp_path / "rows", rows, source="test", licence="none", recipe="sky", recipe_version=1)
    messages = load_task("sky", [sky]).prompt(dataset[0])
    head, first, second, text = shown("sky", dataset[0], messages, tmp_path / "images")
    assert (head, text.splitlines()[0]) == ("[user]", "Which colour?")
    written = [Image.open(path) for path in sorted((tmp_path / "images").iterdir())]
    assert [(image.mode, image.size) for image in written] == [("RGB", (32, 32)), ("RGB", (40, 32))]
    assert all(f"<image: {tmp_path / 'images'}" in line for line in (first, second))


def test_a_rows_own_answer_is_scored_where_it_is_tried(sky, tmp_path):
    rows = [NewRow(question="Which colour?", answer="grey"), NewRow(question="And now?", answer="red", response="red")]
    folder = Dataset(write_dataset(tmp_path / "rows", rows, source="", licence="", recipe="sky", recipe_version=1).folder).folder
    code, printed = command("try", "sky", "--tasks", sky, "--rows", folder, "--images", tmp_path / "images")
    assert code == 0, printed
    assert "its own answer '\\\\boxed{grey}': 1 {'boxed': 1.0}" in printed
    assert "its own answer 'red': 0 {'boxed': 0.0}" in printed


def test_answers_from_a_pipe_are_scored_one_a_line_and_an_empty_line_goes_on_to_the_next_row(sky, tmp_path):
    rows = [NewRow(question="Which colour?", answer=answer) for answer in ("grey", "red", "blue")]
    folder = write_dataset(tmp_path / "rows", rows, source="", licence="", recipe="sky", recipe_version=1).folder
    arguments = ["try", "sky", "--tasks", str(sky), "--rows", str(folder)]
    piped = "\\boxed{blue}\n\\boxed{grey}\n\n\\boxed{red}\n"
    result = CliRunner().invoke(app, arguments, input=piped)
    assert result.exit_code == 0, result.output
    lines = [line for line in result.output.splitlines() if line.startswith(("---", "your answer"))]
    assert [line.split(": ", 1)[-1][:1] for line in lines] == ["-", "0", "1", "-", "1", "-"]
    assert lines[2].startswith("your answer '\\\\boxed{grey}': 1")
    assert "your answer" not in CliRunner().invoke(app, [*arguments, "--no-ask"], input=piped).output


def test_a_row_is_read_from_json_with_its_images_in_order():
    assert row_of({"question": "q", "images": ["a.png", "b.png"]}).images == ("a.png", "b.png")


def test_a_new_recipe_is_usable_as_it_is(tmp_path):
    recipe = load_recipe(new_recipe("sky", tmp_path / "recipes"))
    row = recipe.to_row({"picture": "0.png", "question": "Which colour?", "answer": "grey"})
    assert row == NewRow(question="Which colour?", answer="grey", images=("0.png",), response="\\boxed{grey}")
    with pytest.raises(Drop, match="no answer"):
        recipe.to_row({"picture": "0.png", "question": "Which colour?", "answer": ""})


@pytest.mark.parametrize(
    ("line", "escape"),
    [
        ('{"response": "\\boxed{3}", "row": {"answer": "3"}, "expected": 0}', "\\b"),
        ('{"response": "\\frac{1}{2}", "row": {"answer": "3"}, "expected": 0}', "\\f"),
        ('{"response": "\\right", "row": {"answer": "3"}, "expected": 0}', "\\r"),
        ('{"response": "", "row": {"answer": "\\b3"}, "expected": 0}', "\\b"),
    ],
)
def test_a_backslash_that_json_took_for_an_escape_is_warned_of(sky, tmp_path, line, escape):
    path = tmp_path / "cases.jsonl"
    path.write_text(json.dumps(RIGHT) + "\n" + line + "\n")
    code, printed = command("verify", "sky", "--tasks", sky, "--cases", path)
    assert code == 0
    assert f"cases.jsonl:2 has a control character ({escape})" in printed.replace("\n", "")


def test_lines_tabs_and_latex_with_its_backslashes_are_not_warned_of():
    texts = ["one\ntwo\tthree\r\nfour", "\\boxed{\\frac{1}{2}}", "é \u2028 \u4e2d"]
    assert control_characters([Case(response=text, row=row_of({"answer": text}), expected=0) for text in texts]) == []


def test_a_task_file_that_fails_is_named_with_its_line(sky):
    (sky / "sky.py").write_text("import math\n\nEXAMPLES = math.no_such_thing\n")
    code, printed = command("try", "sky", "--tasks", sky, "--rows", sky)
    assert code == 2
    assert "AttributeError" in printed and "sky.py:3)" in printed.replace("\n", "")


def test_a_prompt_that_fails_is_named_with_its_row(sky, tmp_path):
    (sky / "sky.py").write_text((sky / "sky.py").read_text().replace("{row.question}", "{row.meta['hint']}"))
    rows = [NewRow(question="Which colour?", answer="grey")]
    write_dataset(tmp_path / "rows", rows, source="", licence="", recipe="sky", recipe_version=1)
    code, printed = command("try", "sky", "--tasks", sky, "--rows", tmp_path / "rows")
    assert code == 2
    assert "prompt fails for row 00000000 (KeyError: 'hint')" in printed.replace("\n", "")


@pytest.mark.parametrize(
    "path", ["data build", "data check", "data show", "data filter", "new task", "new recipe", "try", "verify"]
)
def test_each_command_of_a_task_s_author_has_short_help_with_an_example(path):
    code, printed = command(*path.split(), "-h")
    assert code == 0
    assert f"Example: vlrl {path} " in " ".join(printed.split())
