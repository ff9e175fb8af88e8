"""Loading tasks by path, and the examples of every task that ships."""

from pathlib import Path

import pytest

from vlrl import tasks
from vlrl.tasks import check_examples, load_task, parts_of, prompt_of, score_response
from vlrl.types import Row, Status

SHIPPED = Path(__file__).parents[1] / "tasks"

ECHO = """
from vlrl.types import Row, Score

def prompt(row):
    return [{"role": "user", "content": row.question}]

def verify(response, row):
    return Score(reward=float(response == row.answer))

EXAMPLES = [("a", Row(answer="a"), 1.0), ("b", Row(answer="a"), 0.0)]
"""


def write(folder: Path, name: str, text: str) -> Path:
    (folder / f"{name}.py").write_text(text)
    return folder


def verifying(body: str) -> str:
    return f"{ECHO}\nimport os\nfrom vlrl.tasks import BadRow\ndef verify(response, row):\n    {body}\n"


@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED.glob("[!_]*.py")))
def test_every_shipped_task_reproduces_its_examples(name):
    assert check_examples(load_task(name, [SHIPPED])) == []


def test_a_task_is_a_file_named_for_it(tmp_path):
    task = load_task("echo", [write(tmp_path, "echo", ECHO)])
    assert task.name == "echo"
    assert task.prompt(Row(question="q")) == [{"role": "user", "content": "q"}]
    assert task.verify("a", Row(answer="a")).reward == 1.0
    assert check_examples(task) == []


def test_a_task_file_runs_once_in_a_process(tmp_path):
    folder = write(tmp_path, "once", f"{ECHO}\nopen({str(tmp_path / 'runs')!r}, 'a').write('x')\n")
    assert load_task("once", [folder]).verify is load_task("once", [folder]).verify
    assert (tmp_path / "runs").read_text() == "x"


def test_the_first_folder_that_has_the_task_wins(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        write(folder, "same", ECHO)
    assert load_task("same", [first, second]).path.parent == first


def test_an_unknown_task_is_refused_with_the_known_ones(tmp_path):
    write(tmp_path, "digits", ECHO)
    with pytest.raises(ValueError, match=r"no task 'geo3k' in \[.*\]; found \['digits'\]"):
        load_task("geo3k", [tmp_path])
    with pytest.raises(ValueError, match=r"no task 'digit' in \[.*\]; did you mean 'digits'\? found"):
        load_task("digit", [tmp_path])


@pytest.mark.parametrize("part", ["prompt", "verify", "EXAMPLES"])
def test_a_missing_part_is_named(tmp_path, part):
    write(tmp_path, "lacking", f"{ECHO}\ndel {part}\n")
    with pytest.raises(ValueError, match=rf"lacking.py must define {part}; see"):
        load_task("lacking", [tmp_path])


def test_a_syntax_error_names_file_and_line(tmp_path):
    write(tmp_path, "broken", "x = 1\ndef verify(\n")
    with pytest.raises(ValueError, match=r"broken.py:2: "):
        load_task("broken", [tmp_path])


def test_a_failed_import_names_the_file_and_the_library(tmp_path):
    write(tmp_path, "needy", "import no_such_library\n")
    with pytest.raises(ValueError, match=r"needy.py cannot be imported: .*no_such_library"):
        load_task("needy", [tmp_path])


def test_examples_that_are_not_reproduced_are_told_one_by_one(tmp_path):
    examples = 'EXAMPLES = [("a", Row(answer="a"), 0.5), ("a", Row(answer="a"), 1.0), (None, None, 0.0)]'
    faults = check_examples(load_task("wrong", [write(tmp_path, "wrong", f"{ECHO}\n{examples}\n")]))
    assert len(faults) == 2
    assert "EXAMPLES[0] expects 0.5, but verify gives 1.0" in faults[0]
    assert "EXAMPLES[2]" in faults[1]
    assert "error: AttributeError" in faults[1]


def test_a_task_without_examples_is_told(tmp_path):
    faults = check_examples(load_task("bare", [write(tmp_path, "bare", f"{ECHO}\nEXAMPLES = []\n")]))
    assert len(faults) == 1
    assert "EXAMPLES is empty" in faults[0]


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ("raise BadRow('no gold')", Status.BAD_ROW, "no gold"),
        ("raise ValueError('x')", Status.ERROR, "ValueError: x"),
        ("raise SystemExit(0)", Status.ERROR, "SystemExit: 0"),
        ("raise KeyboardInterrupt", Status.ERROR, "KeyboardInterrupt: "),
        ("return 1.0", Status.ERROR, "TypeError: verify must return a Score, got float"),
        ("return Score(reward=float('nan'))", Status.ERROR, "finite"),
        ("return Score(reward='high')", Status.ERROR, "ValueError"),
        ("return Score(reward=1.0, parts={'iou': float('inf')})", Status.ERROR, "finite"),
    ],
)
def test_whatever_a_verifier_does_is_a_score_with_a_status(tmp_path, body, status, detail):
    score = score_response(load_task("odd", [write(tmp_path, "odd", verifying(body))]), "", Row())
    assert score.status == status
    assert detail in score.detail


def test_numbers_of_other_types_become_floats(tmp_path):
    body = "return Score(reward=True, parts={'boxed': 1})"
    score = score_response(load_task("bools", [write(tmp_path, "bools", verifying(body))]), "", Row())
    assert (type(score.reward), type(score.parts["boxed"])) == (float, float)


INSTRUCTED = ECHO.replace("def prompt", 'INSTRUCTION = "Say \\\\boxed{a}."\n\ndef prompt').replace(
    "row.question", 'f"{row.question} {INSTRUCTION}"'
)


def test_a_run_file_may_put_a_message_before_the_prompt_and_another_instruction_into_it(tmp_path):
    task = load_task("told", [write(tmp_path, "told", INSTRUCTED)])
    row = Row(question="Which {letter}?")
    assert prompt_of(task, row) == task.prompt(row) == [{"role": "user", "content": "Which {letter}? Say \\boxed{a}."}]
    system, user = prompt_of(task, row, system="Be kind.", instruction="Answer {a}.")
    assert system == {"role": "system", "content": "Be kind."}
    assert [part["text"] for part in parts_of(user)] == ["Which {letter}? Answer {a}."]


def test_an_instruction_keeps_the_images_in_their_places(tmp_path):
    pictured = INSTRUCTED.replace(
        'f"{row.question} {INSTRUCTION}"', '[{"type": "image", "image": "a.png"}, {"type": "text", "text": INSTRUCTION}]'
    )
    (message,) = prompt_of(load_task("seen", [write(tmp_path, "seen", pictured)]), Row(), instruction="Look.")
    assert message["content"] == [{"type": "image", "image": "a.png"}, {"type": "text", "text": "Look."}]


@pytest.mark.parametrize("text", [ECHO, INSTRUCTED.replace(" {INSTRUCTION}", "")])
def test_an_instruction_that_replaces_nothing_is_refused(tmp_path, text):
    task = load_task("mute", [write(tmp_path, "mute", text)])
    with pytest.raises(ValueError, match="mute.py: the prompt has no INSTRUCTION"):
        prompt_of(task, Row(), instruction="Be brief.")


@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED.glob("[!_]*.py")))
def test_every_shipped_task_takes_another_instruction(name):
    task = load_task(name, [SHIPPED])
    (message,) = prompt_of(task, task.examples[0][1], instruction="Do it in your own way.")
    assert "Do it in your own way." in parts_of(message)[-1]["text"]


def test_a_task_is_known_by_its_file_and_the_files_of_its_folder_that_it_imports(tmp_path):
    (tmp_path / "dots.py").write_text(f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nfrom _dots import *\n")
    (tmp_path / "_dots.py").write_text("from _deep import prompt, verify\nEXAMPLES = []\n")
    (tmp_path / "_deep.py").write_text("def prompt(row): ...\ndef verify(response, row): ...\n")
    (tmp_path / "other.py").write_text("")
    seen = {load_task("dots", [tmp_path]).fingerprint}
    (tmp_path / "other.py").write_text("x = 1")
    assert load_task("dots", [tmp_path]).fingerprint in seen
    for name in ("_deep.py", "_dots.py", "dots.py"):
        path = tmp_path / name
        path.write_text(path.read_text() + "# edited\n")
        assert (fingerprint := load_task("dots", [tmp_path]).fingerprint) not in seen
        seen.add(fingerprint)


def test_a_task_is_known_by_the_verifiers_that_it_imports_as_well(tmp_path, monkeypatch):
    for name in ("answers.py", "dress.py", "text.py"):
        (tmp_path / name).write_text("from vlrl.verifiers.dress import x\n" if name == "answers.py" else "")
    monkeypatch.setattr(tasks, "_SCORING", [tmp_path])
    before = load_task("chain_sum", [SHIPPED]).fingerprint
    (tmp_path / "text.py").write_text("# edited, and not imported\n")
    assert load_task("chain_sum", [SHIPPED]).fingerprint == before
    (tmp_path / "dress.py").write_text("# edited, and imported by what is imported\n")
    assert load_task("chain_sum", [SHIPPED]).fingerprint != before


def test_a_verifier_s_failure_names_the_line_of_its_file(tmp_path):
    lines = ["def prompt(row): ...", "def verify(response, row):", "    return int(response)", "EXAMPLES = []", ""]
    (tmp_path / "whole.py").write_text("\n".join(lines))
    score = score_response(load_task("whole", [tmp_path]), "two", Row())
    assert score.detail == f"ValueError: invalid literal for int() with base 10: 'two' ({tmp_path.name}/whole.py:3)"


@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED.glob("[!_]*.py")))
def test_no_shipped_task_sees_an_answer_in_a_reasoning_that_is_never_closed(name):
    task = load_task(name, [SHIPPED])
    for response, row, reward in task.examples:
        assert score_response(task, f"<think>\n{response}", row) == score_response(task, "", row)
        assert score_response(task, f"<think>\n{response}\n</think>\n\n{response}<|im_end|>", row).reward == pytest.approx(reward)


def test_a_verifier_that_reads_the_whole_response_gets_what_follows_the_reasoning(tmp_path):
    task = load_task("echo", [write(tmp_path, "echo", ECHO)])
    rewards = [
        score_response(task, text, Row(answer="a")).reward for text in ("<think>b</think>a", "b</think>a", "<think>a", "a")
    ]
    assert rewards == [1.0, 1.0, 0.0, 1.0]
