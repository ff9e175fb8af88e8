"""Sampling, scoring and weight sync with an engine that is not vLLM: nothing outside an engine knows what is behind it."""

import pytest
import torch

from tests.conftest import SMALL_IMAGES
from tests.rollout.replay_engine import ReplayEngine, record
from vlrl.models.checkpoint_io import load_encoder
from vlrl.rollout.engine import Decoding, sampling_seed
from vlrl.rollout.groups import encode_prompts, sample_groups
from vlrl.rollout.weight_sync import SyncError, push_weights
from vlrl.types import Prompt, Rollout, Row

SUMS = ((12, 34), (5, 6))


def prompts() -> list[Prompt]:
    rows = [Row(key=f"{a}+{b}", question=f"{a} + {b}", answer=str(a + b)) for a, b in SUMS]
    return [
        Prompt(
            slot=slot,
            task="sums",
            file="chain_sum",
            row=row,
            messages=({"role": "user", "content": [{"type": "text", "text": row.question}]},),
            group_size=2,
            max_new_tokens=64,
        )
        for slot, row in enumerate(rows)
    ]


def rollout(slot: int, sample: int, text: str) -> Rollout:
    return Rollout(
        slot=slot,
        sample=sample,
        tokens=tuple(text.encode()),
        logprobs=(-0.5,) * len(text),
        text=text,
        finish_reason="stop",
        weight_versions=(),
    )


@pytest.fixture
def engine(tmp_path) -> ReplayEngine:
    right, wrong = ([f"\\boxed{{{a + b + error}}}" for a, b in SUMS] for error in (0, 1))
    rollouts = [rollout(slot, 0, right[slot]) for slot in range(2)] + [rollout(slot, 1, wrong[slot]) for slot in range(2)]
    record(tmp_path / "recorded.jsonl", rollouts)
    return ReplayEngine(tmp_path / "recorded.jsonl")


def test_recorded_rollouts_become_scored_groups(engine, pool, tiny_dense):
    engine.version = 3
    encoder = load_encoder(tiny_dense, SMALL_IMAGES)
    groups = sample_groups(
        encode_prompts(prompts(), encoder, context=512),
        engine=engine,
        scorer=pool,
        decode=lambda tokens: bytes(tokens).decode(),
        decoding=Decoding(temperature=1.0),
        seed=lambda slot, sample, tokens: sampling_seed(0, slot, sample, tokens),
        owned={0, 1},
    )
    assert [group.prompt.slot for group in groups] == [0, 1]
    for group in groups:
        assert [each.rollout.sample for each in group.samples] == [0, 1]
        assert {version for each in group.samples for version in each.rollout.weight_versions} == {3}
        assert group.samples[0].reward > group.samples[1].reward


def test_weights_reach_an_engine_with_their_version(engine):
    weights = [
        ("model.language_model.embed_tokens.weight", torch.ones(4, 2)),
        ("model.language_model.norm.weight", torch.zeros(2)),
    ]
    names = frozenset(name for name, _ in weights)
    push_weights(engine, [weights[:1], weights[1:]], names=names, version=7)
    assert engine.version == 7 and set(engine.holds) == names
    assert not engine.differing_weights(weights)
    with pytest.raises(SyncError, match="left out 1 of 2 tensors: model.language_model.norm.weight"):
        push_weights(engine, [weights[:1]], names=names, version=8)
    assert engine.version == 7
