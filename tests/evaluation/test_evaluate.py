"""`vlrl eval` with the real engine, and `vlrl compare` on handmade files."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from tests.evaluation.test_pass_rate import SPLIT
from tests.loop import finished, python
from vlrl.cli.main import app
from vlrl.data.shards import NewRow, write_dataset
from vlrl.stats import eval_result
from vlrl.types import RowRewards

ANSWERS = ["always", "never", *["sometimes"] * 6]
WITHOUT_TORCH = """
import atexit, os, sys
from vlrl.cli.main import app
atexit.register(lambda: "torch" in sys.modules and os._exit(77))
app()
"""


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, tiny_dense):
    """A function that evaluates the tiny model on eight rows, five of them named, and returns what was printed."""
    root = tmp_path_factory.mktemp("eval")
    (root / "split.py").write_text(SPLIT)
    rows = [NewRow(question=f"Row {n}?", answer=answer, response="own") for n, answer in enumerate(ANSWERS)]
    write_dataset(root / "rows", rows, source="made here", licence="none", recipe="split", recipe_version=1)
    mixture = {"split": {"weight": 1, "rows": f"{root}/rows", "eval_rows": f"{root}/rows", "eval_samples": 6}}

    def run(out: str, exit_code: int = 0, command: tuple[str, ...] = ("-m", "vlrl.cli"), **more) -> str:
        settings = {"name": "never-started", "runs": f"{root}/runs", "model": tiny_dense, "task_folders": [str(root)]}
        settings |= {"mixture": mixture, "sampling.max_new_tokens": 6, "evaluation.rows": 5} | more
        overrides = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
        return finished(python(*command, "eval", "configs/cpu.yaml", *overrides, "--out", root / out), exit_code)

    run.root = root
    run.printed = run("one")
    return run


@pytest.mark.slow
def test_an_evaluation_is_not_written_among_the_files_of_a_run(tmp_path):
    (tmp_path / "config.yaml").touch()
    result = CliRunner().invoke(app, ["eval", "configs/cpu.yaml", "--out", str(tmp_path)])
    assert result.exit_code and "is the folder of a run; give one of its own" in result.output


def test_an_evaluation_reports_average_and_pass_at_k_of_the_first_rows(evaluated):
    summary = json.loads((evaluated.root / "one/evaluation.json").read_text())["tasks"]["split"]
    lines = [json.loads(line) for line in (evaluated.root / "one/split.jsonl").read_text().splitlines()[1:]]
    means = [sum(line["rewards"]) / 6 for line in lines]
    assert len(lines) == summary["average"]["rows"] == 5 and summary["samples"] == 6
    assert summary["average"]["mean"] == pytest.approx(sum(means) / 5)
    assert (means[0], means[1]) == (1.0, 0.0)
    assert list(summary["passes"]) == ["1", "2", "4", "6"]
    assert summary["passes"]["1"]["mean"] == pytest.approx(summary["average"]["mean"])
    assert f"{summary['average']['mean']:.3f} ± " in evaluated.printed


@pytest.mark.slow
def test_an_evaluation_resumes_with_more_rows_and_equals_itself(evaluated):
    before = (evaluated.root / "one/split.jsonl").read_text()
    evaluated("one", **{"evaluation.rows": 8})
    after = (evaluated.root / "one/split.jsonl").read_text()
    assert after.startswith(before) and len(after.splitlines()) == 9
    result = CliRunner().invoke(app, ["compare", str(evaluated.root / "one"), str(evaluated.root / "one"), "--max-drop", "2"])
    assert result.exit_code == 0 and "+0.000 ± 0.000" in result.output


@pytest.mark.slow
def test_an_evaluation_that_is_complete_is_printed_again_without_torch(evaluated):
    evaluated("again")
    files = [evaluated.root / "again" / name for name in ("split.jsonl", "evaluation.json")]
    before = [file.read_bytes() for file in files]
    files[1].unlink()
    printed = evaluated("again", command=("-c", WITHOUT_TORCH))
    assert [file.read_bytes() for file in files] == before
    assert "again already has every row with the same settings; nothing was sampled" in " ".join(printed.split())
    table = [line for line in evaluated.printed.splitlines() if line.startswith("│")]
    assert table and table == [line for line in printed.splitlines() if line.startswith("│")]


@pytest.mark.slow
def test_an_evaluation_is_not_overwritten_by_one_with_other_weights_another_verifier_or_fewer_rows(evaluated, tiny_dense):
    evaluated("kept", **{"evaluation.rows": 5})
    before = {path.name: path.read_bytes() for path in (evaluated.root / "kept").iterdir()}
    model = evaluated.root / "model"
    shutil.copytree(tiny_dense, model)
    weights = next(model.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    fewer = evaluated("kept", 2, **{"evaluation.rows": 3})
    assert "holds 5 rows, but evaluation.rows now allows only 3; give another --out" in fewer
    assert "weights was " in evaluated("kept", 2, model=str(model))
    (evaluated.root / "split.py").write_text(SPLIT + "\n# edited\n")
    try:
        edited = evaluated("kept", 2)
    finally:
        (evaluated.root / "split.py").write_text(SPLIT)
    assert "task_file was " in edited and "split.jsonl was measured with other settings" in edited
    assert {path.name: path.read_bytes() for path in (evaluated.root / "kept").iterdir()} == before


@pytest.mark.slow
def test_each_preset_is_measured_in_its_own_folder_with_its_settings_in_the_first_line(evaluated):
    also = {"greedy": {"temperature": 0, "samples": 1}, "short": {"max_new_tokens": 2, "top_k": 5}}
    printed = evaluated("ways", **{"evaluation.presets": also})
    files = {way: (evaluated.root / "ways" / way / "split.jsonl").read_text() for way in ("", "greedy", "short")}
    heads = {way: json.loads(text.splitlines()[0]) for way, text in files.items()}
    kept = {way: tuple(head[key] for key in ("samples", "temperature", "top_k", "max_new_tokens")) for way, head in heads.items()}
    assert kept == {"": (6, 0.6, 0, 6), "greedy": (1, 0.0, 0, 6), "short": (6, 0.6, 5, 2)}
    assert (evaluated.root / "one/split.jsonl").read_text().startswith(files[""])
    assert "greedy" in printed and "short" in printed
    summary = json.loads((evaluated.root / "ways/greedy/evaluation.json").read_text())["tasks"]["split"]
    assert summary["passes"].keys() == {"1"}


def write_evaluation(folder, rewards: dict[str, list[float]], **of):
    folder.mkdir()
    for task, means in rewards.items():
        lines = [{"data": "d", "samples": 1, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_new_tokens": 8} | of]
        lines += [{"row": f"{n:08d}", "rewards": [mean], "failed": 0} for n, mean in enumerate(means)]
        (folder / f"{task}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "evaluation.json").write_text("{}")
    return str(folder)


def test_a_task_that_fell_while_another_rose_fails_the_gate(tmp_path):
    first = write_evaluation(tmp_path / "first", {"math": [1.0] * 30 + [0.0] * 10, "vision": [0.0] * 30 + [1.0] * 10})
    second = write_evaluation(tmp_path / "second", {"math": [1.0] * 10 + [0.0] * 30, "vision": [1.0] * 40})
    result = CliRunner().invoke(app, ["compare", first, second, "--max-drop", "2"])
    assert result.exit_code == 1 and "regression: math got worse by more than 2 standard errors" in result.output
    assert CliRunner().invoke(app, ["compare", first, second]).exit_code == 0


@pytest.mark.parametrize("of", [{"data": "other"}, {"task_file": "other"}, {"samples": 2}, {"temperature": 0.6}, {"top_p": 0.9}])
def test_evaluations_with_other_settings_are_not_compared(tmp_path, of):
    first, second = (
        write_evaluation(tmp_path / "a", {"math": [1.0, 0.0]}),
        write_evaluation(tmp_path / "b", {"math": [1.0, 0.0]}, **of),
    )
    result = CliRunner().invoke(app, ["compare", first, second])
    assert result.exit_code == 2 and "compare evaluations that were made with the same settings" in result.output


def test_a_folder_without_an_evaluation_is_refused(tmp_path):
    write_evaluation(tmp_path / "eval", {"math": [1.0, 0.0]})
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").touch()
    (tmp_path / "run/metrics.jsonl").write_text('{"step": 1, "reward/mean": 0.5}\n')
    (tmp_path / "begun").mkdir()
    for folder, says in {
        "evla": f"there is no folder {tmp_path}/evla; did you mean {tmp_path}/eval?",
        "run": f"{tmp_path}/run is a run, not an evaluation",
        "begun": f"{tmp_path}/begun holds no finished evaluation",
    }.items():
        result = CliRunner().invoke(app, ["compare", str(tmp_path / "eval"), str(tmp_path / folder)])
        assert result.exit_code == 2 and says in result.output


def test_evaluations_of_different_tasks_are_refused(tmp_path):
    first, second = write_evaluation(tmp_path / "a", {"math": [1.0]}), write_evaluation(tmp_path / "b", {"vision": [1.0]})
    result = CliRunner().invoke(app, ["compare", first, second])
    assert result.exit_code == 2 and f"{first} has math, {second} has vision" in result.output


def test_rows_without_a_verdict_are_left_out_and_counted():
    rows = [
        RowRewards(row="a", rewards=(1.0, 0.0), failed=0),
        RowRewards(row="b", rewards=(1.0,), failed=1),
        RowRewards(row="c", rewards=(), failed=2),
    ]
    found = eval_result(rows, 2)
    assert (found.average.mean, found.average.rows, found.failed) == (0.75, 2, 3)
    assert (found.passes[2].mean, found.passes[2].rows) == (1.0, 1)
