"""vLLM's recurrent layers on a CPU beside the trainer's: one distribution after each sync, part by part."""

from collections.abc import Iterator

import pytest
import torch

from tests.conftest import slow_but
from tests.models.helpers import message
from tests.models.recurrent import KINDS, write_recurrent
from tests.rollout.opening import open_encoder, open_engine
from tests.rollout.test_engine import TOLERANCE, in_order, open_policy, requests_for
from vlrl.models.packing import pack_groups
from vlrl.rollout.canary import Canary
from vlrl.rollout.gdn_on_cpu import _distinct
from vlrl.rollout.weight_sync import push_weights

PARTS = (".linear_attn.", ".self_attn.", ".shared_expert", ".mlp.experts.", ".mlp.gate.", ".mlp.", "norm", ".visual.")


class Parts:
    """A policy and an engine of one model, and three prompts: text, an image, two images."""

    def __init__(self, model, ranks, pictures, dtype="float32"):
        self.model, self.ranks = model, ranks
        self.encoder, self.banned = open_encoder(model)
        self.policy = open_policy(model, ranks, self.banned)
        self.engine = open_engine(model, self.encoder, self.banned, ranks, dtype=dtype)
        chats = [message("What is 12 + 34?"), message("Which digit?", pictures[0]), message("Compare.", *pictures[1:])]
        self.prompts = [self.encoder.encode(chat) for chat in chats]

    def push(self, policy=None):
        policy = policy or self.policy
        push_weights(self.engine, policy.weight_buckets(1 << 16), names=policy.parameter_names, version=policy.version)

    def difference(self, policy=None, temperature=1.0):
        """Between the log-probs of engine and trainer, for each token of sampled responses."""
        rollouts = in_order(self.engine.generate(requests_for(self.prompts, 4, temperature=temperature)))
        groups = [(prompt, [r.tokens for r in rollouts if r.slot == slot]) for slot, prompt in enumerate(self.prompts)]
        ours = (policy or self.policy).logprobs(pack_groups(groups, self.encoder.filler())).logprobs
        theirs = torch.tensor([logprob for rollout in rollouts for logprob in rollout.logprobs])
        assert len(ours) == len(theirs) > 100
        return (ours - theirs).abs()


@pytest.fixture(scope="module", params=slow_but(KINDS, ()))
def parts(request, ranks, pictures, tmp_path_factory) -> Iterator[Parts]:
    parts = Parts(write_recurrent(tmp_path_factory.mktemp("models") / request.param, request.param), ranks, pictures)
    yield parts
    from vllm.distributed.parallel_state import destroy_model_parallel

    destroy_model_parallel()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_engine_and_trainer_give_sampled_tokens_the_same_logprobs(parts, temperature):
    policy = open_policy(parts.model, parts.ranks, parts.banned, temperature)
    parts.push(policy)
    assert parts.difference(policy, temperature).max() < TOLERANCE


def test_each_part_of_the_model_reaches_the_engine(parts):
    for part in PARTS:
        changed = [weight for name, weight in parts.policy.engine.module.named_parameters() if part in name]
        numbers = torch.Generator().manual_seed(len(part))
        with torch.no_grad():
            for weight in changed:
                weight.mul_(1 + 0.1 * torch.randn(weight.shape, generator=numbers))
        before = parts.difference().max()
        parts.push()
        assert parts.difference().max() < TOLERANCE < before or not changed
    assert not parts.engine.differing_weights(parts.policy.named_weights())


def test_equal_sequences_in_a_row_are_computed_once():
    one, other = torch.rand(2, 3, 4)
    first, which = _distinct(torch.stack([one, one, other, one, one]), torch.tensor([[1.0], [1.0], [1.0], [1.0], [2.0]]))
    assert (first.tolist(), which.tolist()) == ([0, 2, 3, 4], [0, 0, 1, 2, 3])


def test_the_same_seeds_give_bit_identical_rollouts(parts):
    first, second = (in_order(parts.engine.generate(requests_for(parts.prompts, 4))) for _ in range(2))
    assert first == second


def test_the_canary_is_green_and_sees_a_lost_recurrent_weight(parts):
    parts.push()
    canary = Canary(parts.policy, parts.engine, parts.encoder, temperature=1.0, tolerance=1.0)
    assert canary.check() < TOLERANCE
    name = next(name for name in parts.policy.parameter_names if name.endswith("linear_attn.A_log"))
    wrong = [(other, weight + 1 if other == name else weight) for other, weight in parts.policy.named_weights()]
    push_weights(parts.engine, [wrong], names=parts.policy.parameter_names, version=parts.policy.version)
    assert parts.engine.differing_weights(parts.policy.named_weights()) == [name]
    assert canary.difference() > 10 * TOLERANCE


@pytest.mark.slow
def test_a_half_precision_engine_beside_a_trainer_in_fp32_holds_its_weights(parts, pictures):
    half = Parts(parts.model, parts.ranks, pictures, dtype="bfloat16")
    half.push()
    assert not half.engine.differing_weights(half.policy.named_weights())
    assert half.difference().mean() < 0.05
