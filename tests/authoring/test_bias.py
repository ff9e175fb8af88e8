"""`vlrl verify --bias`: how many verdicts change when answer and reference change places, or the answer is padded."""

import json
from pathlib import Path

import pytest
import yaml

from tests.authoring.test_task_tools import cases, command
from tests.scoring.endpoint import BEHAVIOURS, judge, serving

ROOT = Path(__file__).parents[2]
KNOWN = [
    {"response": "\\boxed{light blue}", "row": {"question": "Which colour?", "answer": "blue light"}, "expected": 1},
    {"response": "\\boxed{red}", "row": {"question": "Which colour?", "answer": "dark blue"}, "expected": 0},
    {"response": "no box", "row": {"question": "Which colour?", "answer": ""}, "expected": 0},
]


def run_file(folder: Path, url: str) -> Path:
    settings = yaml.safe_load((ROOT / "configs/cpu.yaml").read_text())
    settings["scoring"]["judges"] = {"judge": {"url": url, "model": "scripted", "retries": 0}}
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    return folder / "run.yaml"


def bias_of(tmp_path, behaviour: str, *options: str) -> str:
    with serving(judge(BEHAVIOURS[behaviour])) as endpoint:
        run, path = run_file(tmp_path, endpoint.url), cases(tmp_path, *KNOWN)
        return command("verify", "judged_answer", "--tasks", ROOT / "tasks", "--cases", path, "--run", run, "--bias", *options)[1]


@pytest.mark.parametrize(
    ("behaviour", "swapped", "padded"),
    [
        ("honest", {"same": 2, "higher": 0, "lower": 0, "no verdict": 0}, {"same": 1, "higher": 0, "lower": 1, "no verdict": 0}),
        # Random words as the reference are longer than both answers, so this judge is found out where it says "same" first.
        ("first", {"same": 0, "higher": 0, "lower": 0, "no verdict": 2}, {"same": 0, "higher": 0, "lower": 0, "no verdict": 2}),
        (
            "is_charmed",
            {"same": 2, "higher": 0, "lower": 0, "no verdict": 0},
            {"same": 0, "higher": 0, "lower": 0, "no verdict": 2},
        ),
        ("repeats_last_json", dict.fromkeys(("same", "higher", "lower"), 0) | {"no verdict": 2}, None),
    ],
)
def test_changed_verdicts_are_counted(tmp_path, behaviour, swapped, padded):
    found = json.loads(bias_of(tmp_path, behaviour, "--json"))["bias"]
    assert found["answer and reference swapped"] == swapped | {"cases": 2}
    assert padded is None or found["answer padded"] == padded | {"cases": 2}


def test_the_table_has_one_line_for_each_change(tmp_path):
    printed = bias_of(tmp_path, "honest")
    assert "0 of 3 disagree" in printed
    assert "answer and reference swapped" in printed and "answer padded" in printed
