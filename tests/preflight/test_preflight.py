"""What is refused before a run starts: every case of the table, the table itself, and how ranks agree on a refusal."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from unittest.mock import Mock

import pytest

from tests.conftest import PATIENCE_S
from tests.preflight import bad_input_table
from tests.preflight.bad_input_table import CASES
from vlrl.common.folder_lock import LOCK, held
from vlrl.data.shards import NewRow
from vlrl.distributed.ranks import Ranks
from vlrl.memory.plan import Machine
from vlrl.memory.storage import bytes_needed
from vlrl.preflight.full_checks import preflight
from vlrl.preflight.quick_checks import check_inputs
from vlrl.run_file import load_config

DOC = Path(__file__).parents[2] / "docs" / "bad-input.md"


@pytest.fixture(scope="module")
def sentence(tiny_dense, tmp_path_factory):
    """The sentence of a case, found once."""
    return cache(lambda case: bad_input_table.sentence(case, Path(tiny_dense), tmp_path_factory.mktemp("run")))


@pytest.fixture
def good_run(tiny_dense, tmp_path, monkeypatch):
    """A function that reads the good run's config, with overrides; its folder is the current one."""
    monkeypatch.chdir(tmp_path)
    bad_input_table.write_good_run(Path(tiny_dense))
    return lambda *overrides: load_config(Path("run.yaml"), overrides)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.input)
def test_bad_input_gets_its_sentence(case, sentence):
    assert case.says in sentence(case)


def test_the_document_is_the_table(sentence):
    assert DOC.read_text() == bad_input_table.table(sentence), "python -m tests.preflight.bad_input_table > docs/bad-input.md"


def test_a_good_run_is_opened(good_run):
    bad_input_table.write_rows("held_out", NewRow(question="What is 9 + 2?", answer="11"))
    config = good_run("mixture.sums.eval_rows=data/held_out")
    check_inputs(config)
    run = preflight(config, Ranks(0, 1, 0))
    assert list(run.tasks) == list(run.rows) == ["sums", "shapes"]


def test_a_run_resumes_with_its_own_config_and_a_longer_one(good_run):
    bad_input_table.write_checkpoint()
    for overrides in ((), ("steps=6", "checkpoints.keep=1")):
        check_inputs(good_run(*overrides))


def test_a_run_resumes_with_more_rollbacks(good_run):
    bad_input_table.write_checkpoint("on_collapse=rollback")
    preflight(good_run("on_collapse=rollback", "rollback.times=4"), Ranks(0, 1, 0))


def test_a_run_resumes_only_with_the_chat_template_s_variables_that_it_had(good_run):
    bad_input_table.write_checkpoint("template_kwargs={enable_thinking: true}")
    check_inputs(good_run("template_kwargs={enable_thinking: true}"))
    for other in ((), ("template_kwargs={enable_thinking: false}",)):
        with pytest.raises(ValueError, match="template_kwargs.enable_thinking was True in the checkpoint"):
            check_inputs(good_run(*other))


def test_a_variable_that_the_model_s_chat_template_does_not_use_stops_a_run_before_its_start(good_run):
    with pytest.raises(ValueError, match=r"template_kwargs.enable_thinking: .* correct the name or remove the setting$"):
        preflight(good_run("template_kwargs={enable_thinking: false}"), Ranks(0, 1, 0))


def test_an_unreadable_checkpoint_is_left_to_the_one_that_loads_it(good_run):
    bad_input_table.write_checkpoint()
    Path("runs/run/checkpoints/step-000002/state.json").write_text('{"steps"')
    check_inputs(good_run())


def test_faults_of_every_kind_are_told_together(good_run):
    Path("data/sums/shard-000000.tar").unlink()
    with pytest.raises(ValueError) as refusal:
        check_inputs(good_run("engine.max_model_len=8192", "mixture.shapes.task=shape"))
    model, task, rows = str(refusal.value).splitlines()
    assert model.startswith("engine.max_model_len is 8192")
    assert task.startswith("no task 'shape' in ['tasks']; did you mean 'shapes'?")
    assert rows.startswith("data/sums/shard-000000.tar is missing")


REFUSED = """
import sys
from typer.testing import CliRunner
from vlrl.cli.main import app
result = CliRunner().invoke(app, ["train", "run.yaml", *sys.argv[1:]])
loaded = [name for name in ("torch", "transformers", "vllm", "deepspeed", "scipy") if name in sys.modules]
print(result.exit_code, loaded, result.output)
"""


@pytest.mark.parametrize(
    "override",
    ["mixture.sums.rows=data/sum", "model=models", "engine.max_model_len=8192", "mixture.sums.task=sum", "prompts_per_step=20"],
)
def test_what_can_be_refused_early_is_refused_before_torch_is_imported(good_run, override):
    assert refused(override).startswith("2 [] Checking the data and the verifiers\nvlrl: ")
    assert not Path("runs/run").exists()


def test_a_run_that_another_command_trains_is_refused_before_anything_is_read_or_written(good_run):
    Path("data/sums/shard-000000.tar").unlink()
    with held(Path("runs/run"), doing="trained", remedy="choose another name"):
        said = refused("steps=4")
        assert [path.name for path in Path("runs/run").iterdir()] == [LOCK]
    assert said.startswith(f"2 [] vlrl: runs/run is being trained by process {os.getpid()} on "), said


def refused(override):
    """The exit code, what heavy libraries were loaded, and what `vlrl train` printed."""
    env = os.environ | {"PYTHONPATH": str(DOC.parents[1])}
    done = subprocess.run([sys.executable, "-c", REFUSED, override], capture_output=True, text=True, timeout=120, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_few_answers_that_are_not_accepted_are_a_warning(good_run, caplog):
    rows = [NewRow(question=f"{n} + 2?", answer=str(n + 2), response="no idea" if n < 2 else "") for n in range(8)]
    bad_input_table.write_rows("sums", *rows)
    check_inputs(good_run())
    assert "data/sums: sums rejects 2 of 8 checked own answers" in caplog.text


def test_rows_without_an_own_answer_are_not_held_against_their_verifier(good_run):
    bad_input_table.spoil_task("reward=float(answer", "reward=float(row.meta['level'] and answer")
    bad_input_table.spoil_task("Row(answer=", "Row(meta={'level': 1}, answer=")
    bad_input_table.write_rows("sums", *(NewRow(question=f"{n}?", meta={"level": 1}) for n in range(8)))
    check_inputs(good_run())


def test_answers_longer_than_a_response_may_be_are_a_warning_with_their_length(good_run, caplog):
    rows = [NewRow(question="How far?", answer="4", response="so " * n + "\\boxed{4}") for n in (0, 0, 0, 9, 20, 30, 0, 0)]
    bad_input_table.write_rows("sums", *rows)
    run = preflight(good_run(), Ranks(0, 1, 0))
    assert caplog.text.count("own answers") == 1
    longest = max(len(run.encoder.encode_response(row.response)) for row in rows)
    assert f"data/sums: 3 of 8 own answers are longer than max_new_tokens 16 (the longest has {longest} tokens" in caplog.text
    assert f"set mixture.sums.max_new_tokens to {longest} or more" in caplog.text


def test_answers_that_are_all_too_long_stop_a_run_and_not_an_evaluation(good_run, caplog):
    bad_input_table.write_rows("held_out", NewRow(question="What is 9 + 2?", answer="11"))
    config = good_run("evaluation.max_new_tokens=2", "mixture.sums.eval_rows=data/held_out")
    with pytest.raises(ValueError, match="^data/held_out: all 1 own answers are longer .* set evaluation.max_new_tokens to"):
        preflight(config, Ranks(0, 1, 0))
    assert preflight(config, Ranks(0, 1, 0), to_train=False)
    assert "data/held_out: all 1 own answers are longer" in caplog.text


def test_a_warning_begins_with_that_word_whatever_a_library_sets_up():
    code = """
import logging
from vlrl.cli.shared import sentences
with sentences():
    logging.basicConfig(format="%(levelname)s:%(name)s:%(message)s")
    logging.getLogger("vlrl.data").warning("%d answers are too long", 3)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert done.stderr == "warning: 3 answers are too long\n"


class Second(Ranks):
    """The second of two ranks; the first one found what `first` says."""

    first = ""

    def gather(self, item):
        return [self.first, item]


class SecondOfABadRun(Second):
    first = "data/sums: one row is bad"


def test_a_fault_that_the_first_rank_found_stops_the_others_with_its_sentence(good_run):
    with pytest.raises(ValueError, match="^data/sums: one row is bad$"):
        preflight(good_run(), SecondOfABadRun(1, 2, 1))


def test_only_the_first_rank_reads_the_rows(good_run):
    bad_input_table.spoil_shape(bad_input_table.png(4000, 8))
    assert preflight(good_run(), Second(1, 2, 1))
    with pytest.raises(ValueError, match="cannot be used"):
        preflight(good_run(), Ranks(0, 1, 0))


@pytest.mark.parametrize(
    ("overrides", "bytes_per_parameter"),
    [
        (["policy.zero_stage=0"], 12 + 4),
        (["policy.zero_stage=3", "policy.dtype=bfloat16"], 12 + 2),
        (["steps=100", "checkpoints.every=10", "checkpoints.keep=3"], 4 * 12 + 4),
        (["coldstart.steps=1"], 12 + 2 * 4),
        (["steps=100", "checkpoints.every=10", "checkpoints.keep=3", "on_collapse=rollback"], 5 * 12 + 4),
    ],
)
def test_the_disk_must_hold_the_checkpoints_and_the_exported_models(good_run, overrides, bytes_per_parameter):
    assert bytes_needed(good_run(*overrides), 1000) == 1000 * bytes_per_parameter


def test_a_checkpoint_with_lora_takes_the_adapters_room_alone(good_run):
    assert bytes_needed(good_run("coldstart.steps=1"), 1000, 10) == 10 * 12 + 2 * 1000 * 4


def test_every_case_has_an_input_of_its_own_and_a_sentence_to_find():
    assert len({case.input for case in CASES}) == len(CASES)
    assert all(case.says for case in CASES)  # "" is in any sentence


def test_a_run_that_memory_does_not_hold_is_refused_before_its_model_is_loaded(good_run, monkeypatch):
    small = Machine(device="cpu", ranks_per_host=1, hosts=1, memory=1 << 20)
    monkeypatch.setattr("vlrl.preflight.full_checks.this_machine", lambda ranks: small)
    with pytest.raises(ValueError, match=r"^memory: .* on each rank, most of it for .* needs .* GiB and has 0.0; "):
        preflight(good_run(), Ranks(0, 1, 0))
    preflight(good_run(), Ranks(0, 1, 0), to_train=False)


def test_too_few_gpus_for_replicas_are_said_before_the_cold_start(good_run, monkeypatch):
    monkeypatch.setattr("vlrl.preflight.full_checks.replica_devices", Mock(side_effect=ValueError("too few GPUs")))
    with pytest.raises(ValueError, match="^too few GPUs$"):
        preflight(good_run(), Ranks(0, 1, 0))
