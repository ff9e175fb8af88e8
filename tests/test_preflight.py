"""What is refused before a run starts: every case of the table, the table itself, and how ranks agree on a refusal."""

from functools import cache
from pathlib import Path

import pytest

from tests import bad_input_table
from tests.bad_input_table import CASES
from vlrl.config import load_config
from vlrl.preflight import bytes_needed, preflight
from vlrl.ranks import Ranks

DOC = Path(__file__).parents[1] / "docs" / "bad-input.md"


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
    assert DOC.read_text() == bad_input_table.table(sentence), "python -m tests.bad_input_table > docs/bad-input.md"


def test_a_good_run_is_opened(good_run):
    run = preflight(good_run("mixture.sums.eval_rows=data/sums"), Ranks(0, 1, 0))
    assert list(run.tasks) == list(run.rows) == ["sums", "shapes"]


def test_a_run_resumes_with_its_own_config_and_a_longer_one(good_run):
    bad_input_table.write_checkpoint()
    for overrides in ((), ("steps=6", "checkpoints.keep=1")):
        preflight(good_run(*overrides), Ranks(0, 1, 0))


def test_a_run_resumes_with_more_rollbacks(good_run):
    bad_input_table.write_checkpoint("on_collapse=rollback")
    preflight(good_run("on_collapse=rollback", "rollback.times=4"), Ranks(0, 1, 0))


def test_an_unreadable_checkpoint_is_left_to_the_one_that_loads_it(good_run):
    bad_input_table.write_checkpoint()
    Path("runs/run/checkpoints/step-000002/state.json").write_text('{"steps"')
    preflight(good_run(), Ranks(0, 1, 0))


def test_faults_of_one_kind_are_told_together(good_run):
    Path("data/shapes/manifest.json").unlink()
    Path("data/sums/shard-000000.tar").unlink()
    with pytest.raises(ValueError) as refusal:
        preflight(good_run(), Ranks(0, 1, 0))
    first, second = str(refusal.value).splitlines()
    assert first.startswith("data/sums/shard-000000.tar is missing")
    assert second.startswith("data/shapes is no complete data set")


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
    bad_input_table.spoil_shape(b"\x89PNG, and no more")
    assert preflight(good_run(), Second(1, 2, 1))
    with pytest.raises(ValueError, match="its header is that of no image"):
        preflight(good_run(), Ranks(0, 1, 0))


@pytest.mark.parametrize(
    ("overrides", "bytes_per_parameter"),
    [
        (["policy.zero_stage=0"], 12 + 4),
        (["policy.zero_stage=1"], 16 + 4),
        (["policy.zero_stage=2", "policy.dtype=bfloat16"], 14 + 2),
        (["policy.zero_stage=3", "policy.dtype=bfloat16"], 12 + 2),
        (["steps=100", "checkpoints.every=10", "checkpoints.keep=3"], 4 * 16 + 4),
        (["coldstart.steps=1"], 16 + 2 * 4),
        (["steps=100", "checkpoints.every=10", "checkpoints.keep=3", "on_collapse=rollback"], 5 * 16 + 4),
    ],
)
def test_the_disk_must_hold_the_checkpoints_and_the_exported_models(good_run, overrides, bytes_per_parameter):
    assert bytes_needed(good_run(*overrides), 1000) == 1000 * bytes_per_parameter


def test_every_case_has_an_input_of_its_own_and_a_sentence_to_find():
    assert len({case.input for case in CASES}) == len(CASES)
    assert all(case.says for case in CASES)  # "" is in any sentence
