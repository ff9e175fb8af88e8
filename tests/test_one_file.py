"""examples/sapo_in_one_file.py makes the library's updates, on the same rollouts; it is short, and it stands alone."""

import random
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch

from tests.conftest import PATIENCE_S, SMALL_IMAGES
from tests.models.helpers import message
from tests.trainer.replay import group_of
from vlrl import config as cfg
from vlrl.models.checkpoint_io import check_model, load_encoder
from vlrl.rollout.groups import with_advantages
from vlrl.telemetry.metrics import Key
from vlrl.trainer.micro_batch import make_minibatch, with_old_scores
from vlrl.trainer.policy import Policy
from vlrl.trainer.update import TaskGates, update
from vlrl.types import Prompt, Rollout, Row, Score

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples/sapo_in_one_file.py"
TEMPERATURE = 0.7
STEPS = 2  # of two updates each: the first at π_old, the second away from it
# AdamW as the example has it, and with an eps far above the gradients. The usual small eps magnifies rounding errors in gradients
# near 0, so the weights can only be compared less closely.
USUAL, SMOOTH = {"lr": 1e-3}, {"lr": 0.5, "eps": 1.0}

# Each mini-batch's groups: the task, the lengths of the responses, their rewards. One group has no advantage.
PLAN = [
    [("sum", [5, 1, 7], [1.0, 0.0, 0.5]), ("counting", [3, 8, 2, 6], [0.0, 1.0, 0.0, 0.25])],
    [("counting", [4, 4, 7], [0.5, 1.0, 0.0]), ("sum", [2, 6], [0.5, 0.5]), ("sum", [8, 3, 5], [0.0, 0.0, 1.0])],
]


@pytest.fixture(scope="module")
def example():
    """The example as a module."""
    spec = spec_from_file_location("sapo_in_one_file", EXAMPLE)
    module = sys.modules[spec.name] = module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def rollouts(example, tiny_dense, tmp_path_factory):
    """The plan's groups as plain data. The engine's log-probs are far enough from the policy's for some weights to be capped."""
    numbers, rng = torch.Generator().manual_seed(0), random.Random(0)
    folder, minibatches = tmp_path_factory.mktemp("pictures"), []
    for number, plan in enumerate(PLAN):
        groups = []
        for place, (task, lengths, rewards) in enumerate(plan):
            row = example.sum_row(rng) if task == "sum" else example.counting_row(rng)
            pictures = []
            if row.image:
                pictures.append(str(folder / f"{number}-{place}.png"))
                row.image.save(pictures[0])
            tokens = [torch.randint(20, 250, (length,), generator=numbers).tolist() for length in lengths]
            logps = [(-5.8 + 0.6 * torch.randn(length, generator=numbers)).tolist() for length in lengths]
            groups.append({"row": row, "pictures": pictures, "tokens": tokens, "logps": logps, "rewards": rewards})
        minibatches.append(groups)
    return minibatches


def by_the_example(example, model, rollouts, patched, optimizer):
    """Losses, and weights before and after."""
    from transformers import AutoProcessor

    patched.setattr(example, "TEMPERATURE", TEMPERATURE)
    patched.setitem(example.OPTIMIZER, "params", example.OPTIMIZER["params"] | optimizer)
    policy, processor = example.load_policy(model), AutoProcessor.from_pretrained(model)
    banned = example.banned_tokens(processor, policy)
    minibatches = []
    for groups in rollouts:
        samples = []
        for group in groups:
            _, prompt = example.encode(processor, group["row"])
            advantages = example.advantages(group["rewards"])
            for tokens, logps, reward, advantage in zip(
                group["tokens"], group["logps"], group["rewards"], advantages, strict=True
            ):
                samples.append(example.Sample(prompt, torch.tensor(tokens), torch.tensor(logps), reward, advantage))
        minibatches.append(samples)
    before = flat(policy.module.named_parameters())
    losses = []
    for _ in range(STEPS):
        with torch.no_grad():
            old = [[example.logprobs(policy, sample, banned) for sample in samples] for samples in minibatches]
        losses += [example.update(policy, *each, banned) for each in zip(minibatches, old, strict=True)]
    return losses, before, flat(policy.module.named_parameters())


def by_the_library(model, rollouts, ranks, optimizer):
    """The same by vlrl. All that this file needs of vlrl's trainer is here."""
    encoder = load_encoder(model, SMALL_IMAGES)
    settings = cfg.PolicyConfig(dtype="float32", zero_stage=1, **optimizer)
    banned = encoder.banned_tokens(check_model(model)["text_config"]["vocab_size"])
    policy = Policy(settings, model, ranks=ranks, updates=2 * STEPS, temperature=TEMPERATURE, banned=banned)
    algorithm = cfg.AlgorithmConfig()
    gates = TaskGates(algorithm, {"any": cfg.TaskConfig(weight=1, rows=Path("none"))})
    minibatches = []
    for plan in rollouts:
        groups = []
        for slot, each in enumerate(plan):
            encoded = encoder.encode(message(each["row"].question, *each["pictures"]))
            drawn = [
                Rollout(slot=slot, sample=n, tokens=tokens, logprobs=logps, text="", finish_reason="stop", weight_versions=())
                for n, (tokens, logps) in enumerate(zip(each["tokens"], each["logps"], strict=True))
            ]
            prompt = Prompt(slot=slot, task="any", row=Row(), messages=(), encoded=encoded)
            groups.append(
                with_advantages(group_of(prompt, drawn, [Score(reward=reward) for reward in each["rewards"]]), algorithm)
            )
        minibatches.append(make_minibatch(groups, filler=encoder.filler(), budget=4096, keep_zero=False, ranks=ranks))
    before = flat(policy.named_weights())
    losses = []
    for _ in range(STEPS):
        for minibatch in [minibatches[0], *(with_old_scores(policy, each) for each in minibatches[1:])]:
            stats = update(policy, minibatch, gates=gates)
            losses.append(stats.totals[Key("policy/loss")].total / minibatch.num_scored)
    return losses, before, flat(policy.named_weights())


def flat(weights):
    """All weights as one vector, in the order of their names."""
    return torch.cat([weight.detach().flatten() for _, weight in sorted(weights)])


@pytest.mark.parametrize(("optimizer", "closeness"), [(USUAL, 1e-4), (SMOOTH, 1e-5)], ids=["usual", "smooth"])
def test_the_example_makes_the_library_s_updates(example, tiny_dense, rollouts, ranks, monkeypatch, optimizer, closeness):
    losses, before, after = by_the_example(example, tiny_dense, rollouts, monkeypatch, optimizer)
    expected_losses, expected_before, expected_after = by_the_library(tiny_dense, rollouts, ranks, optimizer)
    assert losses == pytest.approx(expected_losses, rel=1e-5)
    assert before.equal(expected_before)
    assert (after - expected_after).norm() <= closeness * (expected_after - before).norm()


def test_the_example_is_short_and_stands_alone():
    lines = EXAMPLE.read_text().splitlines()
    assert len(lines) <= 250
    assert not [line for line in lines if line.split()[:2] in (["import", "vlrl"], ["from", "vlrl"]) or "vlrl." in line]


@pytest.mark.slow
def test_the_example_runs(tiny_dense):
    command = [sys.executable, str(EXAMPLE), "--model", tiny_dense, "--steps", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [line.split(":")[0] for line in done.stdout.splitlines() if line.startswith("step")] == ["step 0", "step 1"]
