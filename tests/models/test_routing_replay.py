"""Routing replay on the tiny mixture of experts: the old policy's experts, the router's gradient, and every ZeRO stage."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.conftest import SMALL_IMAGES
from tests.trainer.replay import MIX, SGD, UNCLIPPED, fixed_groups, fixed_minibatches, open_policy, weights_of
from vlrl import config as cfg
from vlrl.models.checkpoint_io import load_encoder
from vlrl.models.packing import pack_groups
from vlrl.models.routing_replay import Routing
from vlrl.trainer.update import TaskGates, make_minibatch, old_logprobs, update

LARGE = {"lr": 0.05, "gradient_clipping": UNCLIPPED}  # a step after which some tokens would change their experts


def gates(replay: bool) -> TaskGates:
    return TaskGates(cfg.AlgorithmConfig(routing_replay="r2" if replay else "none"), MIX)


def moved(model, pictures, ranks, *, replay: bool, **settings):
    """A policy after a large first mini-batch, the second one with its old pass, and the routers' gradients of its update."""
    policy = open_policy(model, ranks, **LARGE | settings)
    first, second = fixed_minibatches(model, pictures, ranks)
    old = old_logprobs(policy, second)
    update(policy, first, None, gates=gates(replay))
    return policy, second, old


@pytest.fixture
def one_step(tiny_moe, pictures, ranks):
    return lambda **settings: moved(tiny_moe, pictures, ranks, **{"replay": True} | settings)


def test_at_the_old_policy_a_replay_changes_nothing(tiny_moe, pictures, ranks):
    policy = open_policy(tiny_moe, ranks)
    minibatch = fixed_minibatches(tiny_moe, pictures, ranks)[1]
    (old,) = old_logprobs(policy, minibatch)
    with policy.routing.replay(old.routes):
        replayed, _ = policy.logprobs(minibatch.passes[0].pack)
    assert torch.equal(replayed, old.logp)
    assert policy.routing.changed(old.routes) == 0.0


def test_after_an_update_tokens_change_experts_and_a_replay_sends_them_to_the_old_ones(one_step):
    policy, second, (old,) = one_step()
    plain, _ = policy.logprobs(second.passes[0].pack)
    assert policy.routing.changed(old.routes) > 0.01
    used = {}
    for name, module in policy.engine.module.named_modules():
        if name in old.routes:
            module.register_forward_hook(lambda module, args, output, name=name: used.update({name: output[1:]}))
    with policy.routing.replay(old.routes):
        replayed, _ = policy.logprobs(second.passes[0].pack)
    assert not torch.equal(plain, replayed)
    for name, (scores, chosen) in used.items():
        assert torch.equal(chosen, old.routes[name])
        assert torch.allclose(scores.sum(-1), torch.ones(len(scores)), atol=1e-6)
    assert used.keys() == old.routes.keys()


def test_a_replayed_update_has_a_router_gradient_and_another_step_than_a_plain_one(one_step):
    steps = []
    for replay in (True, False):
        policy, second, old = one_step(deepspeed=SGD, replay=replay)
        before = weights_of(policy)
        seen = update(policy, second, old, gates=gates(replay))
        after = weights_of(policy)
        steps.append({name: after[name] - before[name] for name in after})
        assert seen.totals["router/changed"][0] > 0 and seen.totals["router/load_max"][0] >= 1
    routers = [name for name in steps[0] if name.endswith("mlp.gate.weight")]
    assert routers and all(steps[0][name].abs().max() > 0 for name in routers)
    assert any(not torch.equal(steps[0][name], steps[1][name]) for name in routers)


@pytest.mark.parametrize("settings", [{"zero_stage": stage} for stage in (1, 2, 3)] + [{"gradient_checkpointing": True}], ids=str)
def test_a_replayed_update_is_the_same_at_every_stage_and_with_recomputation(one_step, settings):
    steps = []
    for more in ({}, settings):
        policy, second, old = one_step(deepspeed=SGD, **more)
        before = weights_of(policy)
        update(policy, second, old, gates=gates(True))
        after = weights_of(policy)
        steps.append(torch.cat([(after[name] - before[name]).double().flatten() for name in sorted(after)]))
    assert (steps[0] - steps[1]).norm() <= 1e-4 * steps[0].norm()


def test_a_dense_model_has_nothing_to_replay(tiny_dense, pictures, ranks):
    policy = open_policy(tiny_dense, ranks)
    minibatch = fixed_minibatches(tiny_dense, pictures, ranks)[0]
    (old,) = old_logprobs(policy, minibatch)
    assert old.routes == {} and policy.routing.load() is None and policy.routing.changed(old.routes) is None
    assert isinstance(policy.routing, Routing)
    assert "router/changed" not in update(policy, minibatch, [old], gates=gates(True)).totals


def told_by_an_engine(policy, ranks, pictures, model):
    """Fixed groups whose rollouts have the experts of a policy, told as vLLM tells them, each rollout by itself."""
    encoder = load_encoder(model, SMALL_IMAGES)
    groups, encoded = fixed_groups(encoder, pictures)
    return (
        encoder,
        encoded,
        [
            replace(
                group, rollouts=tuple(told(policy, encoder, encoded[group.prompt.slot], rollout) for rollout in group.rollouts)
            )
            for group in groups
        ],
    )


def told(policy, encoder, prompt, rollout):
    policy.logprobs(pack_groups([(prompt, [rollout.tokens])], encoder.filler()))
    seen = len(prompt.tokens) + len(rollout.tokens) - 1
    layers = [policy.routing.choices[name][:seen].numpy().astype(np.uint8) for name in sorted(policy.routing.choices)]
    return replace(rollout, routes=np.stack(layers, axis=1))


@pytest.mark.parametrize("budget", [60, 4096])
def test_an_engine_s_routes_are_replayed_token_by_token_in_old_log_probs_and_update(tiny_moe, pictures, ranks, budget):
    engine = open_policy(tiny_moe, ranks)
    encoder, encoded, groups = told_by_an_engine(engine, ranks, pictures, tiny_moe)
    chosen = [group for group in groups if group.prompt.minibatch == 1]
    minibatch = make_minibatch(chosen, encoded, filler=encoder.filler(), budget=budget, keep_zero=False, ranks=ranks)
    assert len(minibatch.passes) > 1 or budget > 60
    plain = replace(minibatch, passes=tuple(replace(each, engine_routes=None) for each in minibatch.passes))

    # The engine's own weights: its routes are those that the trainer takes by itself, whatever the packing.
    for each, other in zip(old_logprobs(engine, minibatch), old_logprobs(engine, plain), strict=True):
        assert torch.allclose(each.logp, other.logp, atol=1e-6)

    # Other routers: tokens still go where they went in the engine.
    policy = open_policy(tiny_moe, ranks)
    with torch.no_grad():
        for name, weight in policy.engine.module.named_parameters():
            if name.endswith("mlp.gate.weight"):
                weight.copy_(weight.flip(0))
    for each in minibatch.passes:
        own = policy.logprobs(each.pack)[0]
        (old,) = old_logprobs(policy, replace(minibatch, passes=(each,)))
        assert not torch.allclose(own, old.logp, atol=1e-4)
        with policy.routing.replay(policy.routing.of_layers(each.engine_routes)):
            again, _ = policy.logprobs(each.pack)
        assert torch.equal(again, old.logp)
    seen = update(policy, minibatch, None, gates=TaskGates(cfg.AlgorithmConfig(routing_replay="r3"), MIX))
    assert seen.totals["policy/ratio"][0] == pytest.approx(seen.totals["policy/ratio"][1])
