"""The canary in fp32 and bf16, dense and MoE: it sees each kind of wrong weights, and stays quiet with the right ones.

Faults go into the engine behind the check of the names that were sent, since only the canary should see them here.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest
import torch

from tests.rollout.opening import open_encoder, open_engine
from vlrl import config as cfg
from vlrl.models.packing import pack_groups
from vlrl.models.processor import Encoder
from vlrl.rollout import vllm_local
from vlrl.rollout.canary import Canary, _before_any_tie
from vlrl.rollout.vllm_local import VllmEngine
from vlrl.rollout.weight_sync import SyncError, push_weights
from vlrl.trainer.policy import Policy

LAYER = "model.language_model.layers.2."
NORM = "model.language_model.norm.weight"
TOLERANCE = cfg.EngineConfig().canary_tolerance

Weights = list[tuple[str, torch.Tensor]]


@dataclass
class Parts:
    encoder: Encoder
    policy: Policy
    engine: VllmEngine
    canary: Canary
    old: dict[str, torch.Tensor]

    def weights(self) -> Weights:
        return list(self.policy.named_weights())

    def push(self) -> None:
        push_weights(self.engine, self.policy.weight_buckets(), names=self.policy.parameter_names, version=self.policy.version)

    def load(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        self.engine.load_weights(weights)
        self.engine.reset_caches()


def start(model: str, dtype: str, ranks) -> Parts:
    encoder, banned = open_encoder(model)
    settings = cfg.PolicyConfig(dtype=dtype, zero_stage=1, lr=1e-2)
    policy = Policy(settings, model, ranks=ranks, updates=100, temperature=1.0, banned=banned)
    engine = open_engine(model, encoder, banned, ranks, dtype=dtype)
    canary = Canary(policy, engine, encoder, temperature=1.0, tolerance=TOLERANCE)
    old = {name: weight.clone() for name, weight in policy.named_weights()}
    for number in range(3):  # weights that differ from those of the start in every tensor
        prompt = canary._probes[number % 2]
        scores = policy.forward(pack_groups([(prompt, [[30, 31, 32], [40, 41]])], encoder.filler()))
        policy.backward(scores.zero - scores.logprobs.mean())
        policy.step()
    return Parts(encoder, policy, engine, canary, old)


CASES = [
    ("tiny_dense", "bfloat16"),
    pytest.param(("tiny_dense", "float32"), marks=pytest.mark.slow),
    pytest.param(("tiny_moe", "bfloat16"), marks=pytest.mark.slow),
    pytest.param(("tiny_moe", "float32"), marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=CASES, ids=str)
def started(request, ranks):
    model, dtype = request.param
    parts = start(request.getfixturevalue(model), dtype, ranks)
    yield parts
    from vllm.distributed.parallel_state import destroy_model_parallel

    destroy_model_parallel()  # a MoE's engine needs other groups than a dense model's


@pytest.fixture
def parts(started):
    """Engine and trainer with the same weights, whatever the test before left."""
    started.push()
    return started


def test_fifty_draws_with_the_right_weights_are_all_within_the_bound(parts):
    differences = [parts.canary.difference(draw) for draw in range(50)]
    assert max(differences) <= parts.canary.bound
    assert parts.canary.baseline <= parts.canary.bound / TOLERANCE


@contextmanager
def without_a_tied_head() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VllmEngine, "_with_tied_head", lambda self, weights: iter(weights))
        yield


@contextmanager
def without_a_reset_of_the_experts() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vllm_local, "_reset_expert_kernels", lambda model: None)
        yield


def one_layer_old(parts: Parts) -> None:
    parts.load((name, parts.old[name] if name.startswith(LAYER) else weight) for name, weight in parts.weights())


def a_scaled_norm(parts: Parts) -> None:
    parts.load((name, weight * 1.1 if name == NORM else weight) for name, weight in parts.weights())


def half_of_the_tensors_missing(parts: Parts) -> None:
    parts.load(parts.weights()[::2])


def an_old_tied_head(parts: Parts) -> None:
    with without_a_tied_head():
        parts.load(parts.weights())


def old_experts(parts: Parts) -> None:
    with without_a_reset_of_the_experts():
        parts.load(parts.weights())


FAULTS = [one_layer_old, a_scaled_norm, half_of_the_tensors_missing, an_old_tied_head]


def test_each_kind_of_wrong_weights_is_caught(parts):
    has_experts = any("experts" in name for name in parts.old)
    for fault in [*FAULTS, old_experts] if has_experts else FAULTS:
        parts.push()
        parts.load(parts.old.items())
        fault(parts)
        assert not parts.canary.difference() <= parts.canary.bound, fault.__name__
        with pytest.raises(SyncError, match="after weight sync"):
            parts.canary.check()


def test_a_start_with_other_weights_is_refused(parts):
    parts.load((name, weight * 1.5 if name == NORM else weight) for name, weight in parts.weights())
    with pytest.raises(SyncError, match="at start engine and trainer differ by .* rounding explains .* at most"):
        Canary(parts.policy, parts.engine, parts.encoder, temperature=1.0, tolerance=TOLERANCE)


def test_log_probs_that_are_no_numbers_are_infinitely_far_off_on_whichever_rank(parts, monkeypatch):
    generate = parts.engine.generate

    def broken(requests):
        return [replace(each, logprobs=(float("nan"),) * len(each.tokens)) for each in generate(requests)]

    monkeypatch.setattr(parts.engine, "generate", broken)
    assert parts.canary.difference() == float("inf")


def test_a_check_fails_only_if_another_draw_does_too(parts, monkeypatch):
    draws = {0: 1.0, 1: 0.0}
    monkeypatch.setattr(parts.canary, "difference", draws.__getitem__)
    assert parts.canary.check() == 0.0
    draws[1] = 2.0
    with pytest.raises(SyncError, match="differ by 1.00e\\+00 a token"):
        parts.canary.check()


def tie(parts: Parts, place: int, off: float = 0.0) -> None:
    """Puts the token at this place of the canary's row between two experts of the first router, by `off` nearer to the next."""
    router, seen = parts.policy.engine.module.get_submodule(parts.policy.routing._names[0]), []
    with router.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach())):
        parts.canary.difference()
    token = seen[0].flatten(0, -2)[place]
    with torch.no_grad():
        order = (router.weight @ token).sort(descending=True)
        gap = order.values[router.top_k - 1] - order.values[router.top_k]
        router.weight[order.indices[router.top_k]] += (gap + off) * token / token.square().sum()


@pytest.fixture
def tied(parts):
    """`tie`, undone at the end."""
    router = parts.policy.engine.module.get_submodule(parts.policy.routing._names[0])
    before = router.weight.detach().clone()
    yield tie
    with torch.no_grad():
        router.weight.copy_(before)


of_moe_in_float32 = pytest.mark.parametrize(
    "started", [pytest.param(("tiny_moe", "float32"), marks=pytest.mark.slow)], indirect=True, ids=str
)


@of_moe_in_float32
def test_a_token_that_goes_to_another_expert_by_rounding_is_no_difference(parts, tied):
    last = len(parts.canary._probes[0].tokens) - 1
    tied(parts, last, off=1e-6)
    parts.push()
    tied(parts, last, off=1e-6)
    assert parts.canary.check() <= parts.canary.bound
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts.canary, "_precision", replace(parts.canary._precision, tie=0.0))
        assert parts.canary.difference() > parts.canary.bound


@of_moe_in_float32
def test_wrong_weights_are_caught_beside_a_token_between_two_experts(parts, tied):
    one_layer_old(parts)
    tied(parts, 20)
    with pytest.raises(SyncError, match="after weight sync"):
        parts.canary.check()


@of_moe_in_float32
def test_a_check_with_a_tie_in_both_prompts_warns_that_it_compared_nothing(parts, monkeypatch, caplog):
    one_layer_old(parts)
    monkeypatch.setattr(parts.canary, "_precision", replace(parts.canary._precision, tie=1.0))
    assert parts.canary.check() == 0.0
    assert "so nothing was compared this time" in caplog.text


def test_tokens_from_a_tie_on_are_left_out_of_the_comparison(parts):
    pack = pack_groups([(prompt, [[30, 31, 32], [40, 41]]) for prompt in parts.canary._probes], parts.encoder.filler())
    text = len(parts.canary._probes[0].tokens)
    tied = torch.zeros(len(pack.tokens), dtype=torch.bool)

    def left(*places: int) -> list[int]:
        ties = tied.index_fill(0, torch.tensor(places, dtype=torch.long), True)
        return (~_before_any_tie(pack, ties)).nonzero().flatten().tolist()

    assert left() == []
    assert left(3) == left(text - 1) == [0, 1, 2, 3, 4]
    assert left(text) == [1, 2]
    assert left(text + 1, text + 3) == [2, 4]
    assert left(text + 2) == []  # a response's last token predicts nothing
    assert left(len(pack.tokens) - 2) == [9]


def test_logits_in_fp32_bring_the_engine_nearer_to_the_trainer(parts):
    def mean(head: torch.dtype) -> float:
        parts.engine._llm.apply_model(lambda model: setattr(model.language_model.logits_processor, "head_dtype", head))
        return sum(parts.canary.difference(draw) for draw in range(5)) / 5

    assert parts.engine._llm.apply_model(lambda model: model.language_model.logits_processor.head_dtype) == [torch.float32]
    in_bfloat16 = mean(torch.bfloat16)
    assert mean(torch.float32) < 0.6 * in_bfloat16
