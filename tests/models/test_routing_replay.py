"""Routing replay on the tiny mixture of experts: the old policy's experts, the router's gradient, and every ZeRO stage."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.conftest import SMALL_IMAGES, slow_but
from tests.trainer.replay import MIX, SGD, UNCLIPPED, fixed_groups, fixed_minibatches, open_policy, weights_of
from vlrl import config as cfg
from vlrl.models.checkpoint_io import load_encoder
from vlrl.models.packing import pack_groups
from vlrl.models.routing_replay import Routing
from vlrl.telemetry.metrics import Key
from vlrl.trainer.micro_batch import make_minibatch, with_old_scores
from vlrl.trainer.update import TaskGates, update

LARGE = {"lr": 0.05, "gradient_clipping": UNCLIPPED}  # a step after which some tokens would change their experts


def gates(replay: bool) -> TaskGates:
    return TaskGates(cfg.AlgorithmConfig(routing_replay="r2" if replay else "none"), MIX)


def moved(model, pictures, ranks, *, replay: bool, **settings):
    """A policy after a large first mini-batch, and the second one with its old scores."""
    policy = open_policy(model, ranks, **LARGE | settings)
    first, second = fixed_minibatches(model, pictures, ranks)
    second = with_old_scores(policy, second)
    update(policy, first, gates=gates(replay))
    return policy, second


@pytest.fixture
def one_step(any_moe, pictures, ranks):
    return lambda **settings: moved(any_moe, pictures, ranks, **{"replay": True} | settings)


def test_at_the_old_policy_a_replay_changes_nothing(any_moe, pictures, ranks):
    policy = open_policy(any_moe, ranks)
    minibatch = fixed_minibatches(any_moe, pictures, ranks)[1]
    (micro,) = with_old_scores(policy, minibatch).micro_batches
    old = micro.old
    with policy.routing.replay(old.routes):
        replayed = policy.logprobs(micro.pack).logprobs
    assert torch.equal(replayed, old.logprobs)
    assert policy.routing.changed(old.routes) == 0.0


def test_after_an_update_tokens_change_experts_and_a_replay_sends_them_to_the_old_ones(one_step):
    policy, second = one_step()
    (micro,) = second.micro_batches
    old = micro.old
    plain = policy.logprobs(micro.pack).logprobs
    assert policy.routing.changed(old.routes) > 0.01
    used = {}
    for name, module in policy.engine.module.named_modules():
        if name in old.routes:
            module.register_forward_hook(lambda module, args, output, name=name: used.update({name: output[1:]}))
    with policy.routing.replay(old.routes):
        replayed = policy.logprobs(micro.pack).logprobs
    assert not torch.equal(plain, replayed)
    for name, (scores, chosen) in used.items():
        assert torch.equal(chosen, old.routes[name])
        assert torch.allclose(scores.sum(-1), torch.ones(len(scores)), atol=1e-6)
    assert used.keys() == old.routes.keys()


def test_a_replayed_update_has_a_router_gradient_and_another_step_than_a_plain_one(one_step):
    steps = []
    for replay in (True, False):
        policy, second = one_step(deepspeed=SGD, replay=replay)
        before = weights_of(policy)
        seen = update(policy, second, gates=gates(replay))
        after = weights_of(policy)
        steps.append({name: after[name] - before[name] for name in after})
        assert seen.totals[Key("router/changed")].value > 0 and seen.totals[Key("router/load_max")].value >= 1
    routers = [name for name in steps[0] if name.endswith("mlp.gate.weight")]
    assert routers and all(steps[0][name].abs().max() > 0 for name in routers)
    assert any(not torch.equal(steps[0][name], steps[1][name]) for name in routers)


STAGES = [{"zero_stage": stage} for stage in (1, 2, 3)]


@pytest.mark.parametrize("settings", slow_but([*STAGES, {"gradient_checkpointing": True}], STAGES[:1]), ids=str)
def test_a_replayed_update_is_the_same_at_every_stage_and_with_recomputation(one_step, settings):
    steps = []
    for more in ({}, settings):
        policy, second = one_step(deepspeed=SGD, **more)
        before = weights_of(policy)
        update(policy, second, gates=gates(True))
        after = weights_of(policy)
        steps.append(torch.cat([(after[name] - before[name]).double().flatten() for name in sorted(after)]))
    assert (steps[0] - steps[1]).norm() <= 1e-4 * steps[0].norm()


def test_a_dense_model_has_nothing_to_replay(tiny_dense, pictures, ranks):
    policy = open_policy(tiny_dense, ranks)
    minibatch = fixed_minibatches(tiny_dense, pictures, ranks)[0]
    minibatch = with_old_scores(policy, minibatch)
    old = minibatch.micro_batches[0].old
    assert old.routes == {} and policy.routing.load() is None and policy.routing.changed(old.routes) is None
    assert isinstance(policy.routing, Routing)
    assert Key("router/changed") not in update(policy, minibatch, gates=gates(True)).totals


class Router(torch.nn.Module):
    """Stands for a router of 4 experts."""

    num_experts = 4


class Reads(TorchDispatchMode):
    """Counts what a GPU would have to be waited for."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.bincount.default)
        return function(*args, **(kwargs or {}))


def test_load_and_change_are_those_of_all_routers_with_one_read_of_the_device():
    routing = Routing(torch.nn.ModuleDict({"one": Router(), "two": Router()}), Router)
    routing.choices = {"one": torch.tensor([[0, 1], [2, 3], [1, 0]]), "two": torch.tensor([[0, 1], [0, 3], [2, 0]])}
    old = {"one": torch.tensor([[1, 0], [2, 1], [1, 0]]), "two": torch.tensor([[1, 2], [3, 0], [1, 3]])}
    with Reads() as reads:
        assert routing.load() == 2.0  # expert 0 of router two has 3 of 6 choices, of which each expert's mean share is 1.5
    assert reads.count == 1
    with Reads() as reads:
        assert routing.changed(old) == pytest.approx(4 / 12)
    assert reads.count == 1


class Chooses(Router):
    """A router whose input is its logits."""

    def forward(self, logits):
        return logits, None, logits.topk(2).indices


def test_the_gaps_are_those_between_the_last_chosen_expert_and_the_next_one():
    model = torch.nn.ModuleDict({"one": Chooses()})
    routing = Routing(model, Chooses)
    probabilities = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.1, 0.26, 0.24, 0.4], [0.2, 0.2, 0.1, 0.5]])
    with routing.gaps() as gaps:
        model["one"](probabilities[:2].log())
        model["one"](probabilities[2:].log())
    model["one"](probabilities.log())
    assert torch.cat(gaps).tolist() == pytest.approx([0.1, 0.02, 0.0], abs=1e-6)


def routed_by_an_engine(policy, ranks, pictures, model):
    """Fixed groups whose rollouts have the experts of a policy, as vLLM returns them, each rollout by itself."""
    encoder = load_encoder(model, SMALL_IMAGES)
    groups = []
    for group in fixed_groups(encoder, pictures):
        samples = [replace(each, rollout=routed(policy, encoder, group.prompt.encoded, each.rollout)) for each in group.samples]
        groups.append(replace(group, samples=tuple(samples)))
    return encoder, groups


def routed(policy, encoder, prompt, rollout):
    policy.logprobs(pack_groups([(prompt, [rollout.tokens])], encoder.filler()))
    seen = len(prompt.tokens) + len(rollout.tokens) - 1
    layers = [policy.routing.choices[name][:seen].numpy().astype(np.uint8) for name in sorted(policy.routing.choices)]
    return replace(rollout, routes=np.stack(layers, axis=1))


@pytest.mark.parametrize("budget", [60, 4096])
def test_an_engine_s_routes_are_replayed_token_by_token_in_old_log_probs_and_update(any_moe, pictures, ranks, budget):
    engine = open_policy(any_moe, ranks)
    encoder, groups = routed_by_an_engine(engine, ranks, pictures, any_moe)
    chosen = [group for group in groups if group.prompt.minibatch == 1]
    minibatch = make_minibatch(chosen, filler=encoder.filler(), budget=budget, keep_zero=False, ranks=ranks)
    assert len(minibatch.micro_batches) > 1 or budget > 60
    plain = replace(minibatch, micro_batches=tuple(replace(each, engine_routes=None) for each in minibatch.micro_batches))

    # The engine's own weights: its routes are those that the trainer takes by itself, whatever the packing.
    scored = [with_old_scores(engine, each).micro_batches for each in (minibatch, plain)]
    for each, other in zip(*scored, strict=True):
        assert torch.allclose(each.old.logprobs, other.old.logprobs, atol=1e-6)

    # Other routers: tokens still go where they went in the engine.
    policy = open_policy(any_moe, ranks)
    with torch.no_grad():
        for name, weight in policy.engine.module.named_parameters():
            if name.endswith("mlp.gate.weight"):
                weight.copy_(weight.flip(0))
    for each in with_old_scores(policy, minibatch).micro_batches:
        own = policy.logprobs(each.pack).logprobs
        assert not torch.allclose(own, each.old.logprobs, atol=1e-4)
        with policy.routing.replay(policy.routing.by_router(each.engine_routes)):
            again = policy.logprobs(each.pack).logprobs
        assert torch.equal(again, each.old.logprobs)
    seen = update(policy, minibatch, gates=TaskGates(cfg.AlgorithmConfig(routing_replay="r3"), MIX))
    assert seen.totals[Key("policy/abs_log_ratio")].value == 0
