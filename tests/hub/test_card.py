"""vlrl push without a hub: the folder that it writes, its card, what stays private, and which runs it refuses."""

import doctest
import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from typer.testing import CliRunner

from tests.conftest import PATIENCE_S
from tests.hub.made_run import OWNER, QUESTION, SERVICE, make_run
from vlrl.cli.main import app
from vlrl.hub import redaction
from vlrl.hub.finished import read_finished
from vlrl.hub.folder import write_folder
from vlrl.run_file import parse_config

PRIVATE = (OWNER, QUESTION, SERVICE, "password", "TELLTALE_KEY")


def push(*arguments) -> str:
    """The command's output, with its line breaks as blanks, after its exit code."""
    done = CliRunner().invoke(app, ["push", *map(str, arguments)])
    return " ".join(f"{done.exit_code} {done.output}".split())


@pytest.fixture
def run(tmp_path, tiny_dense) -> Path:
    return make_run(tmp_path, tiny_dense)


def written(run: Path, out: Path, **settings) -> Path:
    write_folder(read_finished(run, adapter=False), out, repo="kim/sums", **settings)
    return out


def test_examples():
    assert doctest.testmod(redaction).failed == 0


def test_the_card_s_metadata_is_what_the_hub_s_own_loader_reads(run, tmp_path):
    card = ModelCard.load(written(run, tmp_path / "out", licence="apache-2.0") / "README.md")
    data = card.data
    assert (data.base_model, data.license, data.datasets) == ("made/base", "apache-2.0", ["made/sums"])
    kinds = data.to_dict()
    assert (kinds["library_name"], kinds["pipeline_tag"]) == ("transformers", "image-text-to-text")
    assert data.tags == ["vlrl", "reinforcement-learning", "sapo"]
    (result,) = data.eval_results
    assert (result.task_name, result.dataset_type, result.dataset_revision) == ("sums", "made/sums", "1f" * 20)
    assert (result.metric_type, result.metric_value) == ("accuracy", 0.5)


def test_the_card_says_what_the_model_was_trained_on_how_and_to_what_effect(run, tmp_path):
    text = (written(run, tmp_path / "out") / "README.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    cells = {row[0]: row for row in rows if row[0] not in ("task", "setting", "---")}
    assert ["sums", "0.250 ± 0.100", "0.500", "+0.250", "5"] in rows
    assert cells["sums"][1:3] == ["75.0%", "[made/sums](https://huggingface.co/datasets/made/sums)"]
    assert cells["sums"][3:6] == ["`1f1f1f1f1f1f`", "7", "5"] and cells["sums"][7:] == ["CC BY 4.0", "sums.py 12ab"]
    assert cells["logic"] == ["logic", "25.0%", "", "", "", "", "9f" * 8, "", "logic.py 34cd"], "whose data are gone"
    assert cells["steps"][1] == "12, each of 2 updates" and cells["seed"][1] == "0"
    assert "Made with vlrl 1.0, torch 2.13.0 on 16 x NVIDIA H200 on 2 hosts." in text
    assert "    vlrl train …/run.yaml steps=12 runs=…/runs\n" in text
    assert 'AutoModelForImageTextToText.from_pretrained("kim/sums", dtype="auto")' in text


def test_the_card_s_run_file_can_be_read_again(run, tmp_path):
    text = (written(run, tmp_path / "out") / "README.md").read_text()
    (run_file,) = (part.partition("\n````\n")[0] for part in text.split("````yaml\n")[1:])
    config = parse_config(yaml.safe_load(run_file), "the card")
    assert config.mixture["logic"].system == "Think in ``` fences, /no_think." and config.steps == 12


def test_no_path_address_key_or_row_of_the_run_is_published(run, tmp_path, monkeypatch):
    monkeypatch.setenv("TELLTALE_KEY", "sk-a-secret-that-nobody-may-see")
    for file in written(run, tmp_path / "out").iterdir():
        for private in (*PRIVATE, "sk-a-secret-that-nobody-may-see", str(tmp_path)):
            assert private.encode() not in file.read_bytes(), f"{file.name} has {private}"


@pytest.mark.parametrize("secret", ["the path of the run's folder", "the environment variable TELLTALE_KEY"])
def test_a_file_of_the_export_that_would_give_something_away_is_refused(run, tmp_path, monkeypatch, secret):
    monkeypatch.setenv("TELLTALE_KEY", "sk-a-secret-that-nobody-may-see")
    value = str(run.resolve() / "model") if "path" in secret else "sk-a-secret-that-nobody-may-see"
    settings = json.loads((run / "model/tokenizer_config.json").read_text())
    (run / "model/tokenizer_config.json").write_text(json.dumps(settings | {"name_or_path": value}))
    with pytest.raises(ValueError, match=f"tokenizer_config.json would publish .*{secret}"):
        written(run, tmp_path / "out")


def test_equal_runs_give_equal_bytes(run, tmp_path):
    one, two = (written(run, tmp_path / name) for name in ("one", "two"))
    assert {file.name: file.read_bytes() for file in one.iterdir()} == {file.name: file.read_bytes() for file in two.iterdir()}


def test_every_picture_of_the_card_is_there(run, tmp_path):
    out = written(run, tmp_path / "out")
    shown = [
        line.partition("](")[2].rstrip(")") for line in (out / "README.md").read_text().splitlines() if line.startswith("![")
    ]
    assert sorted(shown) == ["evaluation.png", "reward.png"]
    for name in shown:
        assert min(Image.open(out / name).size) > 100


def test_a_run_without_an_evaluation_has_a_card(run, tmp_path):
    (run / "summary.json").write_text('{"steps": 12, "tasks": {}, "mean": null}')
    out = written(run, tmp_path / "out")
    card = ModelCard.load(out / "README.md")
    assert card.data.eval_results is None and "This model was not evaluated on held-out rows." in card.text
    assert not (out / "evaluation.png").exists()


def test_the_folder_is_written_without_a_token_or_a_network(run, tmp_path):
    assert f"{tmp_path}/out: 11 files" in push(run, "--to", tmp_path / "out")
    assert push(run, "--dry-run").startswith(f"0 {run}/push: 11 files")
    assert push(run, "--dry-run").startswith("0 "), "its own folder is written anew"
    assert f"2 vlrl: {tmp_path}/out is not empty" in push(run, "--to", tmp_path / "out")


def lora(run: Path) -> Path:
    """Makes the run one of LoRA, with an adapter's two files."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"lora": {"rank": 12}}))
    (run / "adapter").mkdir()
    shutil.copy(run / "model/model-00001.safetensors", run / "adapter/adapter_model.safetensors")
    (run / "adapter/adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(run.parent / "coldstart"), "r": 12})
    )
    return run


def test_an_adapter_s_card_names_its_base_and_how_to_load_it(run, tmp_path):
    write_folder(read_finished(lora(run), adapter=True), tmp_path / "out", repo="kim/sums")
    card = ModelCard.load(tmp_path / "out/README.md")
    assert card.data.base_model == "made/base" and card.data.to_dict()["library_name"] == "peft"
    assert card.data.base_model_relation == "adapter" and "lora" in card.data.tags
    assert 'PeftModel.from_pretrained(base, "kim/sums")' in card.text
    assert "vllm serve made/base --enable-lora --max-lora-rank 16 --lora-modules sums=kim/sums" in card.text
    assert json.loads((tmp_path / "out/adapter_config.json").read_text())["base_model_name_or_path"] == "made/base"
    assert not (tmp_path / "out/config.json").exists()


def test_the_card_of_a_checkpoint_ends_with_its_step(run, tmp_path, monkeypatch):
    """The export itself is tested in tests/trainer/test_checkpoint_export.py; here the run's model is in its place."""
    monkeypatch.setattr(
        "vlrl.trainer.checkpoint_export.export_checkpoint",
        lambda run, config, step, out, adapter: shutil.copytree(run / "model", out),
    )
    (run / "summary.json").unlink()
    out = tmp_path / "out"
    write_folder(read_finished(run, adapter=False, checkpoint=6), out, repo="kim/sums")
    text = (out / "README.md").read_text()
    assert "| sums | 0.250 ± 0.100 | 0.300 | +0.050 | 5 |" in text and "| steps | 6 of 12, each of 2 updates |" in text
    (result,) = ModelCard.load(out / "README.md").data.eval_results
    assert result.metric_value == 0.3
    assert len(read_finished(run, adapter=False, checkpoint=6).metrics) == 6, "later steps are not drawn"
    assert "This model was not evaluated" in card_of(read_finished(run, adapter=False, checkpoint=5), tmp_path / "other")


def card_of(finished, out: Path) -> str:
    write_folder(finished, out, repo="kim/sums")
    return (out / "README.md").read_text()


@pytest.mark.parametrize("settings", [{"coldstart": {"steps": 5}}, {"model": "/models/telltale-kim/base"}])
def test_an_adapter_of_a_model_that_is_not_on_the_hub_needs_that_model_s_name(tmp_path, tiny_dense, settings):
    run = lora(make_run(tmp_path, tiny_dense, **settings))
    assert "give the name of that model there with --base-model" in push(run, "--adapter", "--to", tmp_path / "out")
    assert push(run, "--adapter", "--base-model", "kim/base", "--to", tmp_path / "out").startswith("0 ")
    assert ModelCard.load(tmp_path / "out/README.md").data.base_model == "kim/base"


def test_what_cannot_be_pushed_is_refused_in_one_sentence(run, tmp_path):
    assert "2 vlrl: name the repository on the hub" in push(run)
    assert "is not a run's folder: it has no config.yaml" in push(run / "model", "--dry-run")
    assert "trained the whole model, so it has no adapter; leave out --adapter" in push(run, "--adapter", "--dry-run")
    assert "REPO 'a/b/c' is not a name on the hub" in push(run, "a/b/c")
    weights = run / "model/model-00001.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    assert "model-00001.safetensors cannot be read" in push(run, "--dry-run")
    weights.unlink()
    assert "model-00001.safetensors cannot be read (No such file or directory" in push(run, "--dry-run")
    weights.write_bytes(whole)
    (run / "model/chat_template.jinja").unlink()
    assert f"{run}/model lacks chat_template.jinja; export it again" in push(run, "--dry-run")
    (run / "summary.json").unlink()
    assert "has not finished: it has no model/ and summary.json yet" in push(run, "--dry-run")


def test_a_full_disk_is_one_sentence(run, tmp_path):
    def without_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    command = [sys.executable, "-m", "vlrl.cli", "push", str(run), "--to", str(tmp_path / "out")]
    done = subprocess.run(command, preexec_fn=without_room, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 2 and f"vlrl: cannot write {tmp_path}/out: File too large; make room" in done.stderr, done.stderr
