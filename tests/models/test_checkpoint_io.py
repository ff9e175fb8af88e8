"""A checkpoint is loaded whole or not at all, and what it knows besides its weights is in the exported model too."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import vlrl.models.cuda_wheels  # noqa: F401 (before transformers)

# isort: split
from transformers import AutoModelForImageTextToText

from tests.conftest import SMALL_IMAGES, TEXTS, slow_but
from tests.models.helpers import message
from tests.models.thinking import SAMPLING, write_thinking
from tests.trainer.replay import open_policy
from vlrl.models.checkpoint_io import load_encoder, load_model
from vlrl.models.config_json import FAMILIES
from vlrl.models.tiny import write_random

NORM, HEAD, EMBEDDING = "model.language_model.norm.weight", "lm_head.weight", "model.language_model.embed_tokens.weight"


def load(folder):
    return load_model(str(folder), dtype=torch.float32, freeze_vision=False, gradient_checkpointing=False)


def change_config(folder: Path, **settings) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= settings.pop("text_config", {})
    (folder / "config.json").write_text(json.dumps(config | settings))


def change_tensors(folder: Path, change) -> None:
    file = folder / "model-00001.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.fixture
def checkpoint(tiny_dense, tmp_path):
    return Path(shutil.copytree(tiny_dense, tmp_path / "model"))


# Whether the head is the embedding, and what text_config says of it. transformers ties the head of these families if either says
# so, and then the checkpoint is refused.
EITHER_TIES = ("qwen2_vl", "qwen2_5_vl")
FLAGS = [(tied, flag) for tied in (True, False) for flag in (None, True, False)]
TIES = [(name, *each) for name in FAMILIES for each in FLAGS if not (name in EITHER_TIES and each == (False, True))]


@pytest.mark.parametrize(("name", "tied", "flag"), slow_but(TIES, ("qwen2_5_vl", "qwen3_vl_moe", "qwen3_5")))
def test_every_tensor_of_a_loaded_checkpoint_is_its_file_s_whatever_text_config_says_of_the_head(tmp_path, name, tied, flag):
    family = FAMILIES[name]
    write_random(tmp_path, TEXTS, family, *family.tiny_configs(), tied=tied)
    if flag is not None:
        change_config(tmp_path, text_config={"tie_word_embeddings": flag})
    loaded, files = load(tmp_path), load_file(tmp_path / "model-00001.safetensors")
    held = {family.own_name(name): tensor for name, tensor in files.items()}
    parameters = dict(loaded.named_parameters())
    assert parameters.keys() == held.keys() and (HEAD in held) is not tied
    assert all(family.released_layout(name, tensor).equal(held[name]) for name, tensor in parameters.items())
    assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) is tied


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda held: held.pop(NORM), rf"lacks 1 \({NORM}\) of 91 tensors, which would be random; download or export"),
        (lambda held: [held.pop(name) for name in list(held)[:5]], r"lacks 5 \(.*, .*, .*, \.\.\.\) of 91 tensors"),
        (lambda held: held.update(more=torch.ones(1)), r"has 1 \(more\) besides its 91 tensors"),
        (lambda held: held.update({NORM: torch.ones(96)}), rf"1 \({NORM}\) of 91 .* other shapes .*\[96\] instead of \[128\]"),
        (lambda held: held.update({HEAD: held[EMBEDDING] + 1}), f"its {HEAD} is not its embedding, but config.json has"),
    ],
)
def test_a_checkpoint_with_other_tensors_than_its_model_s_is_refused_by_their_names(checkpoint, change, says):
    change_tensors(checkpoint, change)
    with pytest.raises(ValueError, match=says):
        load(checkpoint)


def test_a_tied_head_may_be_in_the_files_too(checkpoint):
    change_tensors(checkpoint, lambda held: held.update({HEAD: held[EMBEDDING].clone()}))
    loaded = load(checkpoint)
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight


def test_a_head_that_only_text_config_ties_is_refused_as_missing(checkpoint):
    change_config(checkpoint, tie_word_embeddings=False, text_config={"tie_word_embeddings": True})
    with pytest.raises(ValueError, match=rf"lacks 1 \({HEAD}\) of 92 .* set tie_word_embeddings to true in config.json"):
        load(checkpoint)


def test_experts_in_another_layout_are_refused_by_their_shapes(tiny_moe, tmp_path):
    folder = Path(shutil.copytree(tiny_moe, tmp_path / "model"))
    held = load_file(folder / "model-00001.safetensors")
    swapped = {name: tensor.transpose(1, 2).contiguous() for name, tensor in held.items() if ".experts." in name}
    change_tensors(folder, lambda held: held.update(swapped))
    with pytest.raises(ValueError, match=r"experts.* tensors have other shapes .* \[8, 192, 128\] instead of \[8, 128, 192\]"):
        load(folder)


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_bytes(file.read_bytes()[:1000])])
def test_a_shard_that_is_missing_or_cut_off_is_refused_by_its_name(checkpoint, damage):
    damage(checkpoint / "model-00001.safetensors")
    with pytest.raises(ValueError, match="model-00001.safetensors cannot be read"):
        load(checkpoint)


def test_a_checkpoint_without_safetensors_files_is_refused(checkpoint):
    torch.save(load_file(checkpoint / "model-00001.safetensors"), checkpoint / "pytorch_model.bin")
    for file in checkpoint.glob("model*"):
        file.unlink()
    with pytest.raises(ValueError, match="has no safetensors files; save it with transformers' save_pretrained"):
        load(checkpoint)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loaded_model_is_the_one_that_transformers_loads_buffers_too(any_model, dtype):
    loaded = load_model(any_model, dtype=dtype, freeze_vision=False, gradient_checkpointing=False)
    plain = AutoModelForImageTextToText.from_pretrained(any_model, dtype=dtype)
    for own, theirs in ((loaded.named_parameters(), plain.named_parameters()), (loaded.named_buffers(), plain.named_buffers())):
        expected = dict(theirs)
        held = dict(own)
        assert held.keys() == expected.keys()
        assert all(held[name].dtype == each.dtype and held[name].equal(each) for name, each in expected.items())


@pytest.mark.parametrize(
    ("generation", "config", "ends"),
    [
        ({"eos_token_id": [2, 0]}, {}, (2, 0)),
        ({"eos_token_id": 0}, {}, (2, 0)),  # the chat template still ends a turn with 2
        ({"eos_token_id": [5]}, {"text_config": {"eos_token_id": 7}}, (2, 5)),
        ({"temperature": 0.5}, {"eos_token_id": [0, 2]}, (2, 0)),
        (None, {"text_config": {"eos_token_id": 7}}, (2, 7)),
        (None, {}, (2,)),
    ],
)
def test_generation_config_says_what_ends_a_response_or_else_tokenizer_and_config(checkpoint, generation, config, ends):
    file = checkpoint / "generation_config.json"
    file.unlink() if generation is None else file.write_text(json.dumps(generation))
    change_config(checkpoint, **config)
    assert load_encoder(str(checkpoint), SMALL_IMAGES).end_tokens == ends


def test_an_end_token_that_the_tokenizer_lacks_is_refused(checkpoint):
    (checkpoint / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 99999]}))
    with pytest.raises(ValueError, match="eos_token_id 99999 is not one of its tokenizer's .* generation_config.json"):
        load_encoder(str(checkpoint), SMALL_IMAGES)


def test_any_end_token_is_taken_off_a_text_and_no_other_token(tiny_dense, tmp_path):
    encoder = load_encoder(write_thinking(tiny_dense, tmp_path / "model"), SMALL_IMAGES)
    assert encoder.decode([40, 2]) == encoder.decode([40, 0]) == encoder.decode([40])
    assert encoder.decode([40, 1]) == encoder.decode([40]) + "<|im_start|>"
    assert not set(encoder.end_tokens) & set(encoder.banned_tokens(1024))


@pytest.mark.parametrize("kind", ["tiny_dense", "tiny_moe"])
def test_an_export_has_the_settings_of_its_source_and_ends_with_the_same_tokens(request, tmp_path, ranks, kind):
    source = write_thinking(request.getfixturevalue(kind), tmp_path / "source")
    (tmp_path / "source" / "preprocessor_config.json").write_text('{"patch_size": 16}')
    encoder = load_encoder(source, SMALL_IMAGES)
    open_policy(source, ranks).export(tmp_path / "exported", source, encoder)
    again = load_encoder(str(tmp_path / "exported"), SMALL_IMAGES)
    for name in ("config.json", "preprocessor_config.json", "chat_template.jinja", "tokenizer.json"):
        assert json_or_text(tmp_path / "exported" / name) == json_or_text(tmp_path / "source" / name), name
    assert again.end_tokens == encoder.end_tokens
    generation = json_or_text(tmp_path / "exported" / "generation_config.json")
    assert generation == SAMPLING | {"eos_token_id": [2, 0], "pad_token_id": 0}
    assert again.encode(message("3 + 4?")).tokens.equal(encoder.encode(message("3 + 4?")).tokens)
    names = {path.name for path in (tmp_path / "source").iterdir()} - {path.name for path in (tmp_path / "exported").iterdir()}
    assert not names
    load(tmp_path / "exported")


def json_or_text(path: Path):
    return json.loads(path.read_text()) if path.suffix == ".json" else path.read_text()
