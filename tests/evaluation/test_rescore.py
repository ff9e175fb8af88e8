"""A run's rollouts are scored again with the verifiers of now."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.preflight.good_run import RUN_FILE, TASK, write_rows
from vlrl.cli.main import app
from vlrl.data.shards import NewRow


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    """A run that has logged three rollouts of the task `sums`: a right one, a wrong one, and one that was not scored."""
    monkeypatch.chdir(tmp_path)
    Path("tasks").mkdir()
    for name in ("sums", "shapes"):
        Path(f"tasks/{name}.py").write_text(TASK)
    write_rows("sums", *(NewRow(question=f"What is {n} + 2?", answer=str(n + 2)) for n in range(4)))
    folder = Path("runs/run")
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(RUN_FILE)
    log = [line(0, "\\boxed{2}", 1.0), line(1, "\\boxed{7}", 0.0), line(2, "\\boxed{4}", 0.0, status="timeout")]
    (folder / "rollouts.jsonl").write_text("".join(json.dumps(each) + "\n" for each in log))
    return folder


def line(row: int, response: str, reward: float, *, status: str = "ok") -> dict:
    place = {"step": 3, "task": "sums", "slot": row, "round": 0, "sample": 0, "row": f"{row:08d}", "answer": str(row + 2)}
    return place | {"response": response, "finish_reason": "stop", "verifier_reward": reward, "status": status}


def rescored(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["rescore", *map(str, arguments)], env={"COLUMNS": "300"})
    return result.exit_code, result.output


def test_equal_rewards_end_with_0(run):
    lines = (run / "rollouts.jsonl").read_text().splitlines(keepends=True)
    (run / "rollouts.jsonl").write_text("".join(lines[:2]))
    code, printed = rescored(run)
    assert code == 0, printed
    assert "sums" in printed


def test_another_reward_and_another_status_are_shown_and_end_with_1(run):
    Path("tasks/sums.py").write_text(TASK.replace("answer is not None and same_number(answer, row.answer)", 'answer == "7"'))
    code, printed = rescored(run, "--task", "sums")
    assert code == 1, printed
    assert "slot 0 sample 0: 1 before, 0 now" in printed
    assert "slot 1 sample 0: 0 before, 1 now" in printed
    assert "slot 2 sample 0: timeout before, 0 now" in printed
    assert [cell.strip() for cell in printed.splitlines()[-2].strip("│").split("│")][3:] == ["0.500", "0.333", "1 and 0"]


def test_at_most_as_many_are_scored_as_asked_for(run):
    code, printed = rescored(run, "--most", "1")
    assert code == 0, printed


def test_another_data_set_is_refused_by_its_row(run):
    write_rows("sums", NewRow(question="What is 0 + 9?", answer="9"))
    code, printed = rescored(run)
    assert code == 2
    assert "row 00000000 has the answer '9', and '2' in the run" in printed


@pytest.mark.parametrize(("task", "says"), [("sum", "has no task sum"), ("shapes", "has no rollout of shapes")])
def test_a_task_without_rollouts_is_refused(run, task, says):
    code, printed = rescored(run, "--task", task)
    assert code == 2
    assert says in printed
