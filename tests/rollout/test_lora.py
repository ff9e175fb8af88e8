"""LoRA's adapters in the engine, as adapters and merged into their weights: it samples from the trainer's distribution."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.conftest import slow_but
from tests.loop import on_ranks
from tests.models.helpers import message
from tests.rollout.opening import in_order, open_encoder, open_engine, requests_for, some_prompts
from tests.rollout.replay_engine import recorded
from vlrl import config as cfg
from vlrl.config import LoraConfig
from vlrl.models.lora import adapter_parameters
from vlrl.models.packing import pack_groups
from vlrl.models.processor import Encoder
from vlrl.models.tensor_check import empty_model
from vlrl.rollout.canary import Canary
from vlrl.rollout.vllm_local import VllmEngine
from vlrl.rollout.weight_sync import SyncError, push_adapter, push_weights, sync_of
from vlrl.trainer.policy import Policy

TOLERANCE = 1e-5  # between two programs in fp32, a token


@dataclass
class Parts:
    model: str
    lora: LoraConfig
    encoder: Encoder
    policy: Policy
    engine: VllmEngine
    canary: Canary

    def train(self, prompt) -> None:
        scores = self.policy.forward(pack_groups([(prompt, [[30, 31, 32], [40, 41]])], self.encoder.filler()))
        self.policy.backward(scores.zero - scores.logprobs.mean())
        self.policy.step()

    def push(self) -> dict[str, float]:
        policy = self.policy
        if self.lora.sync == "adapter":
            return push_adapter(self.engine, policy.write_adapter, version=policy.version)
        buckets = policy.weight_buckets(trained_only=True)
        return push_weights(self.engine, buckets, names=policy.trained_names, version=policy.version)

    def difference(self, prompts) -> float:
        return self.off(prompts, in_order(self.engine.generate(requests_for(prompts, 2))))

    def off(self, prompts, rollouts) -> float:
        """The largest difference of a token's log-prob between what the rollouts say and the trainer."""
        by_slot = [(prompt, [r.tokens for r in rollouts if r.slot == slot]) for slot, prompt in enumerate(prompts)]
        ours = self.policy.logprobs(pack_groups(by_slot, self.encoder.filler())).logprobs
        theirs = torch.tensor([logprob for rollout in rollouts for logprob in rollout.logprobs])
        assert len(theirs) == len(ours) > 40
        return float((ours - theirs).abs().max())


CASES = {
    "dense, adapter": ("qwen3_vl", LoraConfig(rank=2, alpha=8, sync="adapter")),
    "dense, merged": ("qwen3_vl", LoraConfig(rank=4, alpha=8, targets=("attention", "mlp", "merger", "vision"), sync="merged")),
    "moe, adapter": ("qwen3_vl_moe", LoraConfig(rank=4, alpha=8, sync="adapter")),
    "moe, attention merged": ("qwen3_vl_moe", LoraConfig(rank=4, alpha=8, sync="merged")),
    "moe, experts merged": ("qwen3_vl_moe", LoraConfig(rank=4, alpha=8, targets=("attention", "experts"), sync="merged")),
    "qwen2_vl, adapter": ("qwen2_vl", LoraConfig(rank=2, alpha=8, sync="adapter")),
    "qwen2_vl, merged": ("qwen2_vl", LoraConfig(rank=4, alpha=8, targets=("mlp", "merger", "vision"), sync="merged")),
    "qwen2_5_vl, adapter": ("qwen2_5_vl", LoraConfig(rank=2, alpha=8, sync="adapter")),
    "qwen2_5_vl, merged": ("qwen2_5_vl", LoraConfig(rank=4, alpha=8, targets=("mlp", "merger", "vision"), sync="merged")),
    "qwen3_5, adapter": ("qwen3_5", LoraConfig(rank=2, alpha=8, sync="adapter")),
    "qwen3_5, merged": ("qwen3_5", LoraConfig(rank=4, alpha=8, targets=("attention", "mlp", "gdn", "merger"), sync="merged")),
    "qwen3_5_moe, merged": ("qwen3_5_moe", LoraConfig(rank=4, alpha=8, targets=("mlp", "gdn", "experts"), sync="merged")),
}
QUICK = ("dense, adapter", "moe, experts merged")
EACH = slow_but(CASES, QUICK)
AS_ADAPTERS = slow_but([case for case in CASES if "adapter" in case], QUICK)
each_case = pytest.mark.parametrize("parts", EACH, indirect=True)
each_case_of_adapters = pytest.mark.parametrize("parts", AS_ADAPTERS, indirect=True)


@pytest.fixture(scope="module")
def parts(request, ranks, tiny_of):
    kind, lora = CASES[request.param]
    model = tiny_of(kind)
    encoder, banned = open_encoder(model)
    settings = cfg.PolicyConfig(dtype="float32", zero_stage=1, lr=1e-2)
    policy = Policy(settings, model, ranks=ranks, updates=100, temperature=1.0, banned=banned, lora=lora)
    engine = open_engine(model, encoder, banned, ranks, lora=lora if lora.sync == "adapter" else None)
    canary = Canary(policy, engine, encoder, temperature=1.0, tolerance=1.0)
    opened = Parts(model, lora, encoder, policy, engine, canary)
    yield opened
    from vllm.distributed.parallel_state import destroy_model_parallel

    destroy_model_parallel()


@pytest.fixture
def prompts(parts, pictures):
    chats = [message("What is 12 + 34?"), message("Which digit is this?", pictures[0])]
    return [parts.encoder.encode(chat) for chat in chats]


@each_case
def test_the_engine_follows_the_adapters_over_three_syncs(parts, prompts):
    for number in range(3):
        parts.train(prompts[number % 2])
        assert parts.difference(prompts) > 1e-3, "the adapters moved too little for a test"
        parts.push()
        assert parts.difference(prompts) <= TOLERANCE
        parts.canary.check()


@each_case
def test_a_sync_sends_what_is_trained(parts):
    sent = parts.push()["sync/bytes"]
    trained = 4 * adapter_parameters(empty_model(parts.model), parts.lora)
    whole = sum(weight.nbytes for _, weight in parts.policy.named_weights())
    if parts.lora.sync == "adapter":
        assert sent == trained <= 0.02 * whole
    else:
        assert trained < sent < whole


@each_case_of_adapters
def test_a_stale_adapter_is_caught_by_the_canary(parts, prompts, monkeypatch):
    """vLLM keeps an adapter whose id it knows, without a word, unless it is to load the new one in its place."""
    parts.push()
    parts.canary.check()
    parts.train(prompts[0])
    core, load = parts.engine._llm.llm_engine, type(parts.engine._llm.llm_engine).add_lora
    monkeypatch.setattr(core, "add_lora", lambda request: load(core, _kept_if_known(request)))
    parts.push()
    with pytest.raises(SyncError, match="after weight sync"):
        parts.canary.check()
    monkeypatch.undo()
    parts.push()
    parts.canary.check()


def _kept_if_known(request):
    request.load_inplace = False
    return request


def test_adapters_reach_the_engine_as_they_are_where_it_serves_them_quickly():
    assert sync_of(LoraConfig(rank=8), on_gpu=True) == "adapter"
    assert sync_of(LoraConfig(rank=8), on_gpu=False) == "merged"
    assert sync_of(LoraConfig(rank=8, targets=("attention", "experts")), on_gpu=True) == "merged"
    assert sync_of(LoraConfig(rank=8, sync="adapter"), on_gpu=False) == "adapter"


@pytest.mark.slow
@each_case
def test_a_new_engine_with_the_merged_export_samples_as_the_trainer_does(parts, prompts, pictures, tmp_path: Path):
    parts.train(prompts[0])
    parts.policy.export(tmp_path / "merged", parts.model, parts.encoder)
    on_ranks(1, "tests.rollout.opening", tmp_path / "merged", ",".join(pictures), tmp_path / "rollouts.jsonl")
    assert parts.off(some_prompts(parts.encoder, pictures), recorded(tmp_path / "rollouts.jsonl")) <= TOLERANCE


@each_case_of_adapters
def test_an_exported_adapter_is_one_that_the_engine_loads(parts, prompts, tmp_path: Path):
    parts.train(prompts[0])
    parts.policy.export_adapter(tmp_path)
    parts.engine.load_adapter(tmp_path)
    assert parts.difference(prompts) <= TOLERANCE
