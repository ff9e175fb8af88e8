"""A measurement's file: more rows are added to it, and another model, verifier or sampling setting never overwrites it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.preflight import bad_input_table
from vlrl.config import EvaluationConfig
from vlrl.distributed.ranks import Ranks
from vlrl.evaluation.records import Measurement, origin
from vlrl.evaluation.sampling import _begin, check_measurements
from vlrl.run import Run, open_run
from vlrl.run_file import load_config


@pytest.fixture
def run(tiny_dense, tmp_path, monkeypatch) -> Run:
    monkeypatch.chdir(tmp_path)
    bad_input_table.write_good_run(Path(tiny_dense))
    return open_run(load_config(Path("run.yaml")), Ranks(0, 1, 0))


@pytest.fixture
def kept(run) -> Measurement:
    """Five rows, four samples each, measured before."""
    measurement = Measurement(
        task="sums", dataset=run.rows["sums"], settings=EvaluationConfig(rows=5, samples=4), path=Path("out/sums.jsonl")
    )
    _begin(measurement.path, origin(run, run.weights, measurement))
    with measurement.path.open("a") as file:
        file.writelines(json.dumps({"row": str(n), "rewards": [0.0] * 4, "failed": 0}) + "\n" for n in range(5))
    return measurement


def asked(kept: Measurement, **settings) -> list[Measurement]:
    return [replace(kept, settings=kept.settings.model_copy(update=settings))]


def with_config(run: Run, *overrides: str) -> Run:
    return replace(run, config=load_config(Path("run.yaml"), overrides))


def test_a_measurement_resumes_with_the_same_and_with_more_rows(run, kept):
    check_measurements(run, asked(kept))
    check_measurements(run, asked(kept, rows=8))
    assert len(_begin(kept.path, origin(run, run.weights, kept))) == 5


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"rows": 3}, "holds 5 rows, but evaluation.rows now allows only 3; give another --out"),
        ({"samples": 2}, "samples was 4 and is now 2"),
        ({"samples": 8}, "samples was 4 and is now 8"),
        ({"temperature": 0.0}, "temperature was 1.0 and is now 0.0"),
    ],
)
def test_other_sampling_settings_or_fewer_rows_do_not_overwrite_it(run, kept, settings, says):
    with pytest.raises(ValueError, match=says):
        check_measurements(run, asked(kept, **settings))


def test_another_model_or_verifier_does_not_resume_it(run, kept):
    edited = replace(run.tasks["sums"], fingerprint="edited")
    for other, says in (
        (replace(run, weights="other"), "out/sums.jsonl was measured with other settings: weights was .* and is now other"),
        (replace(run, tasks=run.tasks | {"sums": edited}), "task_file was .* and is now edited"),
        (with_config(run, "policy.dtype=bfloat16"), "dtype was float32 and is now bfloat16"),
        (with_config(run, "scoring.timeout_s=1"), "scoring was "),
        (with_config(run, "engine.max_model_len=128"), "engine was "),
    ):
        with pytest.raises(ValueError, match=says):
            check_measurements(other, [kept])
