"""vLLM beside the trainer: one distribution, weights that follow, a canary that sees when they don't, rollouts that stream."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from tests.models.helpers import message
from tests.models.thinking import write_thinking
from tests.rollout.opening import in_order, open_encoder, open_engine, requests_for
from tests.trainer.replay import group_of
from vlrl import config as cfg
from vlrl.data.images import open_image
from vlrl.distributed.ranks import Ranks
from vlrl.models import processor as encode
from vlrl.models.packing import pack_groups
from vlrl.models.processor import Encoder
from vlrl.rollout.canary import Canary
from vlrl.rollout.groups import with_advantages
from vlrl.rollout.vllm_local import VllmEngine
from vlrl.rollout.weight_sync import SyncError, push_weights
from vlrl.trainer.micro_batch import make_minibatch, with_old_scores
from vlrl.trainer.policy import Policy
from vlrl.trainer.update import TaskGates, update
from vlrl.types import Prompt, Row, Score

TOLERANCE = 1e-5  # between two programs in fp32, a token
NORM = "model.language_model.layers.2.post_attention_layernorm.weight"
PACKED = "model.language_model.layers.2.self_attn.o_proj.weight"  # in a layout of the engine's own, on CPU
EXPERTS = "model.language_model.layers.1.mlp.experts.down_proj"
NEURONS = "model.language_model.layers.1.mlp.down_proj.weight"  # a dense model's


@dataclass
class Parts:
    model: str
    ranks: Ranks
    encoder: Encoder
    banned: list[int]
    policy: Policy
    engine: VllmEngine
    canary: Canary

    def push(self, weights=None) -> None:
        buckets = self.policy.weight_buckets() if weights is None else [weights]
        push_weights(self.engine, buckets, names=self.policy.parameter_names, version=self.policy.version)


def open_policy(model: str, ranks: Ranks, banned: list[int], temperature: float = 1.0) -> Policy:
    settings = cfg.PolicyConfig(dtype="float32", zero_stage=1, lr=1e-2)
    return Policy(settings, model, ranks=ranks, updates=100, temperature=temperature, banned=banned)


def start(model: str, ranks: Ranks) -> Parts:
    encoder, banned = open_encoder(model)
    policy = open_policy(model, ranks, banned)
    engine = open_engine(model, encoder, banned, ranks)
    canary = Canary(policy, engine, encoder, temperature=1.0, tolerance=1.0)
    return Parts(model, ranks, encoder, banned, policy, engine, canary)


@pytest.fixture(scope="module")
def tiny_thinking(tiny_dense, tmp_path_factory) -> str:
    """The dense model with a template that opens the reasoning, two end tokens, and flags that disagree about its head."""
    return write_thinking(tiny_dense, tmp_path_factory.mktemp("models") / "thinking")


@pytest.fixture(scope="module", params=["tiny_thinking", pytest.param("tiny_moe", marks=pytest.mark.slow)])
def started(request, ranks):
    parts = start(request.getfixturevalue(request.param), ranks)
    yield parts
    from vllm.distributed.parallel_state import destroy_model_parallel

    destroy_model_parallel()  # a MoE's engine needs other groups than a dense model's


@pytest.fixture
def parts(started):
    """Engine and trainer with the same weights, whatever the test before left."""
    started.push()
    return started


@pytest.fixture
def prompts(started, pictures):
    """Text, one image, and three with a text that quotes control tokens."""
    quoted = message("Compare <|image_pad|> and <|im_end|>\n<|im_start|>assistant\n</think>", *pictures)
    chats = [message("What is 12 + 34?"), message("Which digit is this?", pictures[0]), quoted]
    return [started.encoder.encode(chat) for chat in chats]


def train(parts: Parts, prompt) -> None:
    """One step of the trainer that changes every weight of its language model."""
    scores = parts.policy.forward(pack_groups([(prompt, [[30, 31, 32], [40, 41]])], parts.encoder.filler()))
    parts.policy.backward(scores.zero - scores.logprobs.mean())
    parts.policy.step()


def logprobs(policy: Policy, parts: Parts, prompts, rollouts) -> torch.Tensor:
    """The policy's log-probs of the rollouts' tokens, in their order."""
    by_slot = [(prompt, [r.tokens for r in rollouts if r.slot == slot]) for slot, prompt in enumerate(prompts)]
    return policy.logprobs(pack_groups(by_slot, parts.encoder.filler())).logprobs


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_engine_and_trainer_give_sampled_tokens_the_same_logprobs(parts, prompts, temperature):
    policy = parts.policy if temperature == 1.0 else open_policy(parts.model, parts.ranks, parts.banned, temperature)
    push_weights(parts.engine, policy.weight_buckets(), names=policy.parameter_names, version=0)
    rollouts = in_order(parts.engine.generate(requests_for(prompts, 4, temperature=temperature)))
    ours = logprobs(policy, parts, prompts, rollouts)
    theirs = torch.tensor([logprob for rollout in rollouts for logprob in rollout.logprobs])
    assert len(theirs) == len(ours) > 100
    torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE)


def test_a_response_that_goes_on_under_other_weights_has_their_logprobs(parts, prompts):
    first = requests_for(prompts, 4, max_new_tokens=8)
    begun = in_order(parts.engine.generate(first))
    of_old_weights = logprobs(parts.policy, parts, prompts, begun)
    train(parts, prompts[0])
    parts.push()
    more = [
        replace(request, begun=rollout.tokens, max_new_tokens=16)
        for request, rollout in zip(first, begun, strict=True)
        if rollout.finish_reason == "length"
    ]
    rest = in_order(parts.engine.generate(more))
    assert len(rest) > 6
    places = {(rollout.slot, rollout.sample): rollout for rollout in begun}
    whole = [replace(each, tokens=places[each.slot, each.sample].tokens + each.tokens) for each in rest]
    ours = logprobs(parts.policy, parts, prompts, whole).split([len(each.tokens) for each in whole])
    for rollout, values in zip(rest, ours, strict=True):
        torch.testing.assert_close(values[8:], torch.tensor(rollout.logprobs), rtol=0, atol=TOLERANCE)
        assert (values[:8] - torch.tensor(places[rollout.slot, rollout.sample].logprobs)).abs().max() > 100 * TOLERANCE
    theirs = torch.tensor([logprob for rollout in begun for logprob in rollout.logprobs])
    torch.testing.assert_close(of_old_weights, theirs, rtol=0, atol=TOLERANCE)


def test_the_canary_stays_quiet_over_ten_pushes_of_changed_weights(parts, prompts):
    for number in range(10):
        train(parts, prompts[number % 3])
        parts.push()
        assert parts.canary.check() <= TOLERANCE
    assert not parts.engine.differing_weights(parts.policy.named_weights())


def test_a_skipped_push_is_caught(parts, prompts):
    train(parts, prompts[1])
    with pytest.raises(SyncError, match=r"the engine holds weights of version \d+, the trainer is at \d+: a push was skipped"):
        parts.canary.check()


def test_old_weights_under_a_new_version_are_caught(parts, prompts):
    train(parts, prompts[1])
    parts.engine.version = parts.policy.version
    with pytest.raises(SyncError, match=r"differ by .* a token on the canary's probes .* Tensors that differ: .* and \d+ more"):
        parts.canary.check()


def test_a_push_that_leaves_out_a_tensor_is_caught_by_name(parts):
    weights = [(name, weight) for name, weight in parts.policy.named_weights() if name != NORM]
    with pytest.raises(SyncError, match=rf"left out 1 of \d+ tensors: {NORM}"):
        parts.push(weights)


@pytest.mark.parametrize(
    ("name", "says"), [(NORM, f"Tensors that differ: {NORM}$"), (PACKED, "The differing tensors are unknown")]
)
def test_a_tensor_streamed_wrongly_is_caught(parts, name, says):
    parts.push([(other, weight * 1.5 if other == name else weight) for other, weight in parts.policy.named_weights()])
    with pytest.raises(SyncError, match=says):
        parts.canary.check()


def test_experts_in_another_order_or_neurons_of_a_dense_layer_are_caught(parts):
    (name,) = (name for name in parts.policy.parameter_names if name in (EXPERTS, NEURONS))
    parts.push([(other, weight.roll(1, 0) if other == name else weight) for other, weight in parts.policy.named_weights()])
    with pytest.raises(SyncError, match="after weight sync"):
        parts.canary.check()


def test_the_same_seeds_give_bit_identical_rollouts(parts, prompts):
    first, second = (in_order(parts.engine.generate(requests_for(prompts, 4))) for _ in range(2))
    assert first == second


def test_every_place_in_the_batch_samples_on_its_own(parts, prompts):
    rollouts = list(parts.engine.generate(requests_for([prompts[1]] * 4, 8)))
    assert len({rollout.tokens for rollout in rollouts}) == 32


def test_as_many_rollouts_as_requests_even_with_duplicates(parts, prompts):
    requests = requests_for(prompts, 1)
    rollouts = list(parts.engine.generate(requests * 3))
    assert sorted(rollout.slot for rollout in rollouts) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_rollout_is_there_before_the_last_has_ended(parts, prompts):
    short, long = requests_for(prompts[:1], 1, max_new_tokens=1) + requests_for([prompts[1]], 1, max_new_tokens=60)
    rollouts = parts.engine.generate([long, short])
    first = next(rollouts)
    assert len(first.tokens) == 1 and first.finish_reason == "length"
    assert parts.engine._llm.llm_engine.has_unfinished_requests()
    assert [len(rollout.tokens) > 1 for rollout in rollouts] == [True]


def test_rollouts_carry_their_ending_and_the_version_of_the_weights(parts, prompts):
    for rollout in parts.engine.generate(requests_for(prompts, 8, max_new_tokens=60)):
        ended = rollout.tokens[-1] in parts.encoder.end_tokens
        assert (rollout.finish_reason, ended) in [("stop", True), ("length", False)]
        assert not set(rollout.tokens[:-1]) & set(parts.encoder.end_tokens)
        assert len(rollout.logprobs) == len(rollout.tokens)
        assert rollout.weight_versions == (parts.policy.version,) * len(rollout.tokens)


def test_every_end_token_ends_a_response_and_is_trained_but_not_in_its_text(parts, prompts):
    fresh = open_policy(parts.model, parts.ranks, parts.banned)  # the trained one hardly ever ends a response
    push_weights(parts.engine, fresh.weight_buckets(), names=fresh.parameter_names, version=0)
    rollouts = list(parts.engine.generate(requests_for(prompts, 48, max_new_tokens=60)))
    ended = [rollout for rollout in rollouts if rollout.finish_reason == "stop"]
    assert {rollout.tokens[-1] for rollout in ended} == set(parts.encoder.end_tokens)
    assert not any(parts.encoder.decode(rollout.tokens).endswith(("<|im_end|>", "<|endoftext|>")) for rollout in ended)
    pack = pack_groups([(prompts[ended[0].slot], [ended[0].tokens])], parts.encoder.filler())
    assert pack.targets[len(ended[0].tokens) - 1] == ended[0].tokens[-1]


def test_the_engine_gets_the_very_tokens_of_a_prompt_that_quotes_control_tokens(parts, prompts):
    core = parts.engine._llm.llm_engine
    (request,) = requests_for(prompts[2:], 1, max_new_tokens=1)
    core.add_request("quoted", parts.engine._input(request), parts.engine._parameters(request))
    (output,) = core.step()
    assert output.prompt_token_ids == request.prompt.tokens.tolist()


def test_banned_ids_are_never_sampled(parts, prompts):
    rollouts = list(parts.engine.generate(requests_for(prompts, 24, max_new_tokens=60)))
    sampled = [token for rollout in rollouts for token in rollout.tokens]
    assert len(sampled) > 3000 and len(parts.banned) > 2
    assert not set(sampled) & set(parts.banned)


def test_a_picture_is_opened_once_for_all_samples_and_the_update(parts, pictures, monkeypatch):
    opened = []
    monkeypatch.setattr(encode, "open_image", lambda ref, **more: opened.append(ref) or open_image(ref, **more))
    chats = [message("Which digit is this?", picture) for picture in pictures]
    encoded = [parts.encoder.encode(chat) for chat in chats]
    rollouts = in_order(parts.engine.generate(requests_for(encoded, 4, max_new_tokens=6)))
    groups = [
        with_advantages(
            group_of(
                Prompt(slot=slot, task="digits", row=Row(), messages=(), encoded=prompt),
                [rollout for rollout in rollouts if rollout.slot == slot],
                [Score(reward=float(n % 2)) for n in range(4)],
            ),
            cfg.AlgorithmConfig(),
        )
        for slot, prompt in enumerate(encoded)
    ]
    minibatch = make_minibatch(groups, filler=parts.encoder.filler(), budget=4096, keep_zero=False, ranks=parts.ranks)
    gates = TaskGates(cfg.AlgorithmConfig(), {"digits": cfg.TaskConfig(weight=1, rows=Path("none"))})
    update(parts.policy, with_old_scores(parts.policy, minibatch), gates=gates)
    assert opened == pictures


def test_what_was_handed_over_is_told_in_tensors_bytes_and_buckets(parts):
    policy = parts.policy
    told = push_weights(parts.engine, policy.weight_buckets(1 << 16), names=policy.parameter_names, version=0)
    sizes = [sum(weight.nbytes for _, weight in bucket) for bucket in policy.weight_buckets(1 << 16)]
    assert told == {
        "sync/tensors": len(policy.parameter_names),
        "sync/bytes": sum(sizes),
        "sync/buckets": len(sizes),
        "sync/largest_bytes": max(sizes),
    }
    assert len(sizes) > 10 and not parts.engine.differing_weights(policy.named_weights())
