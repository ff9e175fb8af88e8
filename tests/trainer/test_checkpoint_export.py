"""A checkpoint is exported without DeepSpeed, with the bits that the policy itself exports."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.rollout.opening import open_encoder
from tests.trainer.replay import fixed_minibatches, losses_of, open_policy
from tests.trainer.test_lora import EVERYWHERE, LORA, WIDE, same
from vlrl.config import Config
from vlrl.distributed import checkpoint as checkpoints
from vlrl.models.lora import is_adapter
from vlrl.trainer.checkpoint_export import export_checkpoint

MIXTURE = {"sums": {"weight": 1, "rows": "data/sums"}}
CASES = [("tiny_dense", "bfloat16", 1, None), ("tiny_moe", "bfloat16", 3, EVERYWHERE["tiny_moe"])]
MORE = [("tiny_moe", "float32", 3, None), ("tiny_dense", "float32", 0, LORA), ("tiny_dense", "bfloat16", 2, LORA)]


def tensors(folder) -> dict:
    return {name: each for file in folder.glob("*.safetensors") for name, each in load_file(file).items()}


@pytest.mark.parametrize(
    ("kind", "dtype", "stage", "lora"), [*CASES, *(pytest.param(*each, marks=pytest.mark.slow) for each in MORE)]
)
def test_the_export_of_a_checkpoint_has_the_policy_s_own_bits(request, tmp_path, pictures, ranks, kind, dtype, stage, lora):
    model = request.getfixturevalue(kind)
    sharded = WIDE if stage == 3 else {"zero_stage": stage}
    policy = open_policy(model, ranks, lora=lora, dtype=dtype, freeze_vision=lora is None, lr=1e-2, **sharded)
    losses_of(policy, fixed_minibatches(model, pictures, ranks), 2)
    encoder, _ = open_encoder(model)
    policy.export(tmp_path / "model", model, encoder)
    checkpoints.save(tmp_path / "run/checkpoints", 2, policy.save, {}, keep=1)

    settings = {"name": "run", "model": model, "steps": 2, "prompts_per_step": 2, "mixture": MIXTURE}
    config = Config(**settings, policy={"dtype": dtype}, lora=lora and lora.model_dump(), images=encoder.images.model_dump())
    export_checkpoint(tmp_path / "run", config, 2, tmp_path / "exported", adapter=False)
    expected, before = tensors(tmp_path / "model"), tensors(Path(model))
    assert same(tensors(tmp_path / "exported"), expected) and not same(expected, before)
    names = {file.name for file in (tmp_path / "model").iterdir()}
    assert names == {file.name for file in (tmp_path / "exported").iterdir()}
    for name in names:
        assert (tmp_path / "exported" / name).read_bytes() == (tmp_path / "model" / name).read_bytes(), name
    if lora:
        policy.export_adapter(tmp_path / "adapter")
        export_checkpoint(tmp_path / "run", config, 2, tmp_path / "exported_adapter", adapter=True)
        assert same(tensors(tmp_path / "exported_adapter"), tensors(tmp_path / "adapter"))
        assert all(map(is_adapter, tensors(tmp_path / "adapter")))


def test_a_checkpoint_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    for step in (3, 5):
        checkpoints.save(tmp_path, step, lambda folder: (folder / "some").write_text("x"), {}, keep=2)
    with pytest.raises(ValueError, match="there is no checkpoint of step 4 in .*; there are: 3, 5"):
        checkpoints.checkpoint_at(tmp_path, 4)
    (tmp_path / "step-000003/some").write_text("yy")
    with pytest.raises(ValueError, match="checkpoint step-000003 in .* is damaged: .*; choose another step"):
        checkpoints.checkpoint_at(tmp_path, 3)
