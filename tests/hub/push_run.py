"""Pushes to a stand-in of the hub and loads from it. In a process of its own: huggingface_hub reads its address when imported.

python -m tests.hub.push_run (uploads | loading) FOLDER MODEL. FOLDER: empty; MODEL: a tiny checkpoint. Each property is one
assertion.
"""

import os
import socket
import sys
import time
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

from tests.hub.made_run import make_run
from tests.hub.stand_in import Hub, serving

PUT, COMMIT = "PUT /lfs/", "POST /api/models/kim/sums/commit/"


def main(what: str, folder: Path, model: str) -> None:
    with serving() as hub:
        os.environ |= {"HF_ENDPOINT": hub.address, "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_XET": "1"}
        os.environ |= {"HF_TOKEN": "hf_of_kim", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        os.environ.pop("HF_HUB_OFFLINE", None)
        run = make_run(folder, model)
        if what == "loading":
            check_model(hub, run)
            check_adapter(hub, run, folder / "base")
        else:
            check_uploads(hub, run)
            check_refusals(hub, run)
            check_a_server_that_dies(hub, run)
            check_the_upload_with_xet(hub, run)
    if what == "uploads":
        check_no_hub(run)
    print("all hold")


def push(*arguments) -> tuple[int, str]:
    """The command's exit code and output, with its line breaks as blanks."""
    from typer.testing import CliRunner

    from vlrl.cli.main import app

    done = CliRunner().invoke(app, ["push", *map(str, arguments)])
    return done.exit_code, " ".join(done.output.split())


def check_uploads(hub: Hub, run: Path) -> None:
    from huggingface_hub import ModelCard

    code, said = push(run, "sums", "--license", "apache-2.0", "--message", "The first one")
    assert code == 0 and f"{hub.address}/kim/sums/commit/" in said, said
    repo = hub.repos["kim/sums"]
    assert (repo.private, repo.messages) == (False, ["The first one"])
    assert repo.files() == {file.name: file.read_bytes() for file in (run / "push").iterdir()}
    assert ModelCard.load("kim/sums").data.license == "apache-2.0", "loaded through the hub's own loader"

    hub.asked.clear()
    code, said = push(run, "kim/sums", "--license", "apache-2.0")
    assert code == 0 and not hub.count(PUT) and not hub.count(COMMIT), "nothing has changed, so nothing is sent"
    code, said = push(run, "kim/sums", "--license", "mit")
    assert code == 0 and not hub.count(PUT) and hub.count(COMMIT) == 1, "only the card has changed"
    assert repo.messages[-1] == "Model of run sums, step 12" and b"license: mit" in repo.files()["README.md"]

    repo.files()["model-00002.safetensors"] = repo.files()["adapter_config.json"] = repo.files()["notes.md"] = b"of another push"
    assert push(run, "kim/sums", "--license", "mit")[0] == 0
    assert set(repo.files()) == {file.name for file in (run / "push").iterdir()} | {"notes.md"}, "old weights are gone"

    code, said = push(run, "kim/sums", "--branch", "later")
    assert code == 0 and b"license:" not in repo.files("later")["README.md"] and b"license: mit" in repo.files()["README.md"]
    assert b'from_pretrained("kim/sums", revision="later"' in repo.files("later")["README.md"]


def check_model(hub: Hub, run: Path) -> None:
    import_module("vlrl.models.cuda_wheels")  # before transformers
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig

    assert push(run, "kim/sums")[0] == 0
    loaded = AutoModelForImageTextToText.from_pretrained("kim/sums")
    local = AutoModelForImageTextToText.from_pretrained(run / "model")
    expected = local.state_dict()
    assert loaded.state_dict().keys() == expected.keys() and len(expected) > 20
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    processor, own = AutoProcessor.from_pretrained("kim/sums"), AutoProcessor.from_pretrained(run / "model")
    chat = [{"role": "user", "content": [{"type": "text", "text": "1 + 2?"}]}]
    assert processor.apply_chat_template(chat, tokenize=True) == own.apply_chat_template(chat, tokenize=True)
    assert GenerationConfig.from_pretrained("kim/sums").eos_token_id == local.generation_config.eos_token_id


def check_adapter(hub: Hub, run: Path, base: Path) -> None:
    import torch
    import yaml
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    from vlrl.config import LoraConfig
    from vlrl.models.lora import add_adapters, in_peft_format, save_adapter

    model = AutoModelForImageTextToText.from_pretrained(run / "model")
    add_adapters(model, LoraConfig(rank=4))
    factors = in_peft_format(model.named_parameters())
    generator = torch.Generator().manual_seed(0)
    factors = {name: torch.randn(each.shape, generator=generator) for name, each in factors.items()}  # B is 0 at first
    save_adapter(model, factors, run / "adapter", base=str(base))
    config = yaml.safe_load((run / "config.yaml").read_text()) | {"lora": {"rank": 4}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))

    assert push(run, "kim/base")[0] == 0
    code, said = push(run, "kim/sums-lora", "--adapter", "--base-model", "kim/base", "--private")
    assert code == 0 and hub.repos["kim/sums-lora"].private, said
    assert "config.json" not in hub.repos["kim/sums-lora"].files(), "or it would look like a whole model"

    loaded = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained("kim/base"), "kim/sums-lora")
    found = {name.replace(".default.", "."): each for name, each in loaded.named_parameters() if ".lora_" in name}
    assert found.keys() == factors.keys() and len(found) > 8
    for name, tensor in found.items():
        assert torch.equal(tensor, factors[name]), name
    assert loaded.peft_config["default"].base_model_name_or_path == "kim/base"


def check_refusals(hub: Hub, run: Path) -> None:
    code, said = push(run, "kim/sums", "--private")
    assert code == 2 and "kim/sums exists and is public, so --private cannot hold" in said, said
    code, said = push(run, "lee/sums")
    assert code == 2 and "the token may not write to lee/sums (403: You don't have the rights to create a model" in said, said
    os.environ["HF_TOKEN"] = "hf_of_lee"
    code, said = push(run, "kim/sums")
    assert code == 2 and "the token may not write to kim/sums (403: you do not have the rights to write" in said, said
    os.environ["HF_TOKEN"] = "hf_of_nobody"
    code, said = push(run, "kim/sums")
    assert (
        code == 2 and "the hub refuses the token (401); make one with write permission" in said and "hf_of_nobody" not in said
    ), said
    del os.environ["HF_TOKEN"]
    code, said = push(run, "kim/sums")
    assert code == 2 and "there is no token of the Hugging Face hub; run `hf auth login`, or set HF_TOKEN" in said, said
    os.environ["HF_TOKEN"] = "hf_of_kim"


def check_a_server_that_dies(hub: Hub, run: Path) -> None:
    from huggingface_hub.utils import _http

    _http.time = SimpleNamespace(**vars(time) | {"sleep": lambda _: None})  # the pauses before the five retries, 23 s together
    for repo, moment in (("kim/unsent", "PUT /lfs/"), ("kim/uncommitted", "POST /api/models/kim/uncommitted/commit")):
        hub.stored.clear()
        hub.asked.clear()
        hub.dies_at = moment
        code, said = push(run, repo)
        assert code == 2 and "the hub does not answer (" in said and "the same command continues" in said, said
        assert hub.count(moment) == (6 if "PUT" in moment else 1) and not hub.repos[repo].files(), "nothing is half there"
        arrived = len(hub.stored)
        hub.dies_at, hub.is_dead = "", False
        hub.asked.clear()
        assert push(run, repo)[0] == 0
        assert hub.count(PUT) == len(hub.stored) - arrived, "what had arrived is not sent again"
        assert set(hub.repos[repo].files()) == {file.name for file in (run / "push").iterdir()}
    _http.time = time


def check_the_upload_with_xet(hub: Hub, run: Path) -> None:
    """The library's upload if hf_xet is installed, with small files alone, which do not go to xet's store."""
    from huggingface_hub import constants

    constants.HF_HUB_DISABLE_XET, hub.large = False, 10**9
    assert push(run, "kim/regular")[0] == 0
    assert hub.repos["kim/regular"].files() == {file.name: file.read_bytes() for file in (run / "push").iterdir()}
    hub.asked.clear()
    assert push(run, "kim/regular")[0] == 0 and not hub.count("/commit/")
    os.environ["HF_TOKEN"] = "hf_of_lee"
    code, said = push(run, "kim/regular")
    assert code == 2 and "the token may not write to kim/regular (403" in said, said
    os.environ["HF_TOKEN"] = "hf_of_kim"
    constants.HF_HUB_DISABLE_XET = True


def check_no_hub(run: Path) -> None:
    code, said = push(run, "kim/sums")
    assert code == 2 and "the hub does not answer (ConnectError: " in said and "check the network and HF_ENDPOINT" in said, said

    from huggingface_hub import constants

    from vlrl.hub import upload

    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and says nothing
        constants.ENDPOINT = f"http://127.0.0.1:{silent.getsockname()[1]}"
        upload.WAIT_S = 0.5
        code, said = push(run, "kim/sums")
    assert code == 2 and "the hub does not answer (ReadTimeout: " in said, said


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
