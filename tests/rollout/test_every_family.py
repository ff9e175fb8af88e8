"""What holds for the engine beside the trainer for every family: one distribution, and weights that follow, part by part.

The engine starts from an export of the trainer's model, so its log-probs also show that vLLM loads what vlrl writes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.loop import on_ranks
from tests.models.helpers import message
from tests.rollout.opening import in_order, open_encoder, open_engine, requests_for
from tests.trainer.replay import open_policy
from vlrl.distributed.ranks import Ranks
from vlrl.models.config_json import family_of, read_local_config
from vlrl.models.packing import pack_groups
from vlrl.models.processor import EncodedPrompt, Encoder
from vlrl.rollout.vllm_local import VllmEngine
from vlrl.rollout.weight_sync import push_weights
from vlrl.trainer.policy import Policy

pytestmark = pytest.mark.slow

TOLERANCE = 1e-5  # between two programs in fp32, a token
NOISE = 0.02


@dataclass(kw_only=True)
class Parts:
    model: str
    ranks: Ranks
    encoder: Encoder
    banned: list[int]
    policy: Policy
    engine: VllmEngine
    prompts: list[EncodedPrompt]

    def opened(self, temperature: float) -> Policy:
        """Its steps are large, but not so large that a tiny model's attention gets sharp: ten at a rate of 1e-2 make fp32's
        rounding alone worth up to 5e-5."""
        return open_policy(self.model, self.ranks, temperature=temperature, banned=self.banned, lr=1e-3)

    def push(self, policy: Policy) -> None:
        push_weights(self.engine, policy.weight_buckets(), names=policy.parameter_names, version=policy.version)

    def difference(self, policy: Policy, temperature: float = 1.0) -> float:
        """The largest difference of a token's log-prob over ragged groups: the engine samples and the trainer scores."""
        rollouts = in_order(self.engine.generate(requests_for(self.prompts, 3, temperature=temperature)))
        groups = [
            (prompt, [r.tokens[: 4 + 8 * r.sample] for r in rollouts if r.slot == slot])
            for slot, prompt in enumerate(self.prompts)
        ]
        ours = policy.logprobs(pack_groups(groups, self.encoder.filler())).logprobs
        theirs = torch.tensor([logprob for r in rollouts for logprob in r.logprobs[: 4 + 8 * r.sample]])
        assert len(theirs) == len(ours) > 60
        return (ours - theirs).abs().max().item()


@pytest.fixture(scope="module")
def parts(any_model, ranks, pictures, tmp_path_factory):
    encoder, banned = open_encoder(any_model)
    policy = open_policy(any_model, ranks, banned=banned)
    exported = tmp_path_factory.mktemp("exported")
    policy.export(exported, any_model, encoder)
    chats = [message("What is 12 + 34?"), message("Which digit is this?", pictures[0]), message("Compare.", *pictures)]
    opened = Parts(
        model=any_model,
        ranks=ranks,
        encoder=encoder,
        banned=banned,
        policy=policy,
        engine=open_engine(str(exported), encoder, banned, ranks),
        prompts=[encoder.encode(chat) for chat in chats],
    )
    yield opened
    from vllm.distributed.parallel_state import destroy_model_parallel

    destroy_model_parallel()  # another family's engine may need other groups


def test_an_exported_model_has_the_trainer_s_logprobs_at_either_temperature(parts):
    assert parts.difference(parts.policy) <= TOLERANCE
    assert parts.difference(parts.opened(0.7), 0.7) <= TOLERANCE


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_logprobs_are_the_trainer_s_after_ten_weight_syncs(parts, temperature):
    policy = parts.opened(temperature)
    for number in range(10):
        scores = policy.forward(pack_groups([(parts.prompts[number % 3], [[30, 31, 32], [40, 41]])], parts.encoder.filler()))
        policy.backward(scores.zero - scores.logprobs.mean())
        policy.step()
        parts.push(policy)
        assert parts.difference(policy, temperature) <= TOLERANCE
    assert not parts.engine.differing_weights(policy.named_weights())


PARTS: dict[str, Callable[[str], bool]] = {
    "vision": lambda name: ".visual." in name and "merger" not in name,
    "merger": lambda name: "merger" in name,
    "attention": lambda name: ".self_attn." in name,
    "recurrence": lambda name: ".linear_attn." in name,
    "mlp": lambda name: ".layers." in name and ".mlp." in name and not is_router(name),
    "router": lambda name: is_router(name),
    "norms": lambda name: ".language_model." in name and "norm" in name and "_attn." not in name,
    "embedding": lambda name: "embed_tokens" in name or "lm_head" in name,
}


def is_router(name: str) -> bool:
    return name.endswith((".mlp.gate.weight", ".shared_expert_gate.weight"))


def test_a_weight_sync_brings_each_part_of_the_model(parts):
    policy = parts.opened(1.0)
    parts.push(policy)
    named = dict(policy.engine.module.qwen.named_parameters())
    seen = set()
    numbers = torch.Generator().manual_seed(0)
    for part, belongs in PARTS.items():
        chosen = [name for name in named if belongs(name)]
        with torch.no_grad():
            for name in chosen:
                named[name].add_(torch.randn(named[name].shape, generator=numbers) * NOISE)
        if chosen:
            assert parts.difference(policy) > 10 * TOLERANCE, part
            parts.push(policy)
            assert parts.difference(policy) <= TOLERANCE, part
        seen |= set(chosen)
    assert seen == named.keys()
    family = family_of(read_local_config(parts.model)["model_type"])
    assert any(map(is_router, seen)) is bool(family.experts)


def test_the_same_seeds_give_the_same_bits_in_two_processes(any_model, pictures, tmp_path):
    files = [tmp_path / f"{number}.jsonl" for number in range(2)]
    for file in files:
        on_ranks(1, "tests.rollout.opening", any_model, ",".join(pictures), file)
    first, second = map(Path.read_text, files)
    assert first == second and len(first.splitlines()) == 12
