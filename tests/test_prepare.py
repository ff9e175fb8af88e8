"""A run file's `build` makes what is missing, as the commands would, and nothing else."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from tests.conftest import PATIENCE_S
from vlrl.cli.main import app
from vlrl.cli.shared import open_run
from vlrl.config import Config
from vlrl.data.shards import Dataset
from vlrl.prepare import learned_from, missing, outdated, prepare
from vlrl.run_file import load_config

ROOT = Path(__file__).parents[1]
TASK = '''"""sums: says a number."""
from vlrl.types import Row, Score

def prompt(row): return [{"role": "user", "content": [{"type": "text", "text": row.question}]}]
def verify(response, row): return Score(reward=float(response.strip() == row.answer))
EXAMPLES = [("7", Row(answer="7"), 1.0), ("8", Row(answer="7"), 0.0)]
'''
RECIPE = '''"""Sums."""
from vlrl.data.recipe import NewRow
SOURCE, LICENCE, VERSION, TRAIN, EVAL, TASK = "0", "none", 1, 8, 4, "sums"
def raws(source, seed): return range(int(source or SOURCE), 12 + int(source or SOURCE))
def to_row(raw): return NewRow(question=f"{raw} + 1", answer=str(raw + 1), response=str(raw + 1))
'''


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with a task and a recipe, and nothing made yet."""
    monkeypatch.chdir(tmp_path)
    for path, text in {"tasks/sums.py": TASK, "data_recipes/sums.py": RECIPE}.items():
        Path(path).parent.mkdir()
        Path(path).write_text(text)
    return tmp_path


def config(**settings) -> Config:
    how = {"data/sums": {"recipe": "data_recipes/sums.py"}, "data/more": {"recipe": "data_recipes/sums.py", "source": "50"}}
    raw = {
        "name": "run",
        "model": "models/tiny",
        "steps": 1,
        "prompts_per_step": 2,
        "mixture": {"sums": {"weight": 1, "rows": "data/sums/train", "eval_rows": "data/sums/eval"}},
        "scoring": {"timeout_s": PATIENCE_S},
        "build": {"data": how, "tiny_models": {"models/tiny": "qwen3_vl"}},
    }
    return Config.model_validate(raw | settings)


def by_hand(command: str) -> None:
    result = CliRunner().invoke(app, command.split())
    assert result.exit_code == 0, result.output


def contents(folder: str) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_the_data_sets_that_the_run_reads_are_made_as_by_hand_and_no_others(folder):
    prepare(config(model="hub/model"))
    by_hand("data build data_recipes/sums.py --out other/sums")
    assert contents("data/sums") == contents("other/sums")
    assert missing(config()) == ["models/tiny"] and not Path("data/more").exists()


@pytest.mark.slow
def test_the_tiny_model_is_made_as_by_hand(folder):
    prepare(config())
    by_hand("tiny other/tiny --texts data/sums/train")
    assert contents("models/tiny") == contents("other/tiny")
    assert missing(config()) == [] and [path.name for path in Path("models").iterdir()] == ["tiny"]


def test_what_is_there_stays_as_it_is(folder):
    made = config(model="hub/model")
    prepare(made)
    before = {path: path.stat().st_mtime_ns for path in Path("data").rglob("*")}
    prepare(made)
    assert {path: path.stat().st_mtime_ns for path in Path("data").rglob("*")} == before


def test_a_mistyped_evaluation_set_builds_nothing_anew(folder):
    prepare(config(model="hub/model"))
    before = {path: path.stat().st_mtime_ns for path in Path("data").rglob("*")}
    slip = {"sums": {"weight": 1, "rows": "data/sums/train", "eval_rows": "data/sums/evl"}}
    assert missing(config(model="hub/model", mixture=slip)) == []
    prepare(config(model="hub/model", mixture=slip))
    assert {path: path.stat().st_mtime_ns for path in Path("data").rglob("*")} == before


def test_a_recipe_that_was_edited_since_is_warned_of(folder, caplog):
    prepare(config(model="hub/model"))
    assert list(outdated(config())) == []
    Path("data_recipes/sums.py").write_text(RECIPE.replace("+ 1", "+ 2"))
    prepare(config(model="hub/model"))
    assert "data/sums was built before data_recipes/sums.py was changed; " in caplog.text and "delete data/sums" in caplog.text
    assert Dataset(Path("data/sums/train"))[0].question.endswith("+ 1")


def test_a_tiny_model_whose_tokenizer_learned_from_other_data_is_warned_of(folder):
    prepare(config(model="hub/model"))
    Path("models/tiny").mkdir(parents=True)
    learned_from(Path("models/tiny"), [Path("data/sums/train")])
    assert list(outdated(config())) == []
    other = config(mixture={"sums": {"weight": 1, "rows": "data/more/train"}})
    prepare(config(model="hub/model", mixture={"sums": {"weight": 1, "rows": "data/more/train"}}))
    (sentence,) = outdated(other)
    assert sentence.startswith("the tokenizer of models/tiny learned from other data sets than this run reads (data/sums/train)")


def test_a_set_that_is_missing_beside_a_tiny_model_is_left_to_the_checks(folder):
    prepare(config(model="hub/model"))
    Path("models/tiny").mkdir(parents=True)
    learned_from(Path("models/tiny"), [Path("data/sums/train")])
    prepare(config(mixture={"sums": {"weight": 1, "rows": "data/smus/train"}}))


def test_a_recipe_gets_its_source(folder):
    mixture = {"sums": {"weight": 1, "rows": "data/more/train"}}
    prepare(config(model="hub/model", mixture=mixture))
    made = Dataset(Path("data/more/train"))
    assert {made[number].question for number in range(8)} <= {f"{number} + 1" for number in range(50, 62)}


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "models/tyni", "mixture": {"sums": {"weight": 1, "rows": "data/smus/train"}}},
        {"build": {}},
    ],
    ids=["mistyped", "no build"],
)
def test_a_folder_that_build_does_not_name_is_not_made(folder, settings):
    prepare(config(**settings))
    assert not Path("data").exists() and not Path("models").exists()


def test_several_ranks_refuse_to_make_anything_and_name_the_command(folder, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ValueError, match=r"missing: data/sums, models/tiny; 2 ranks .* vlrl prepare RUN.yaml"):
        open_run(config())
    assert not Path("data").exists()


def test_an_unknown_family_is_refused_with_the_known_ones(folder):
    with pytest.raises(ValueError, match="models/tiny is of 'qwen9'.*qwen3_vl"):
        prepare(
            config(build={"data": {"data/sums": {"recipe": "data_recipes/sums.py"}}, "tiny_models": {"models/tiny": "qwen9"}})
        )


def test_what_is_made_may_change_when_a_run_is_resumed(folder):
    from vlrl.distributed.same_run import check_same_config

    was, now = ({**each.model_dump(mode="json"), "world_size": 1} for each in (config(), config(build={})))
    check_same_config(was, now, step=0)


@pytest.mark.parametrize("name", ["cpu", "qwen3vl_2b"])
def test_a_shipped_build_names_a_recipe_for_every_data_set_of_its_run(name, monkeypatch, tmp_path):
    shipped = load_config(ROOT / "configs" / f"{name}.yaml")
    monkeypatch.chdir(tmp_path)
    read = {str(rows.parent) for mix in shipped.mixture.values() for rows in (mix.rows, mix.eval_rows) if rows}
    assert set(missing(shipped)) - {shipped.model} == set(shipped.build.data) == read
    assert all((ROOT / how.recipe).is_file() for how in shipped.build.data.values())


def test_every_run_file_for_gpus_reads_only_what_the_2b_run_s_build_makes():
    made = load_config(ROOT / "configs/qwen3vl_2b.yaml").build.data
    for path in (ROOT / "configs").glob("qwen*.yaml"):
        read = {str(Path(mix["rows"]).parent) for mix in yaml.safe_load(path.read_text())["mixture"].values()}
        assert read <= set(made), path.name
