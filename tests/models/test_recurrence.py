"""Group packing through recurrent layers: a prompt's state computed once, each response from a fork of it."""

import json
import shutil
from dataclasses import replace
from itertools import chain
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

import vlrl.models.cuda_wheels  # noqa: F401 (before transformers)

# isort: split
from transformers import AutoModelForImageTextToText

from tests.conftest import SMALL_IMAGES, slow_but
from tests.models.helpers import message, parts_of
from tests.models.recurrent import KINDS, stand_in_fla, write_recurrent
from tests.trainer.replay import SGD, UNCLIPPED, open_policy, weights_of
from vlrl.models import packed_model, recurrence
from vlrl.models.attention import row_spans
from vlrl.models.checkpoint_io import load_encoder, load_model
from vlrl.models.delta_rule import Varlen, kernel_fault
from vlrl.models.packed_model import PackedModel
from vlrl.models.packing import pack_groups
from vlrl.models.recurrence import recurrence_plan
from vlrl.models.tensor_check import check_tensors


@pytest.fixture(scope="module", params=slow_but(KINDS, ("qwen3_5_moe",)))
def model(request, tmp_path_factory) -> str:
    return write_recurrent(tmp_path_factory.mktemp("models") / request.param, request.param)


def made_up(*lengths, seed=0):
    numbers = torch.Generator().manual_seed(seed)
    return [torch.randint(20, 250, (length,), generator=numbers).tolist() for length in lengths]


def groups_of(encoder, pictures):
    """Text; several images; a lone response; a group that is split over its responses."""
    text = encoder.encode(message("What is 12 + 34? Explain it step by step, please, and then check your answer once more."))
    images = encoder.encode(message("Compare them.", *pictures[:2]))
    return [(text, made_up(3, 70, 1, 20)), (images, made_up(5, 130)), (encoder.encode(message("Hi")), made_up(40)),
            (images, made_up(9, 2, 33, seed=1))]  # fmt: skip


def weighted(logprobs):
    return (logprobs * torch.randn(len(logprobs), generator=torch.Generator().manual_seed(1))).sum()


def gradients_of(module):
    found = {name.removeprefix("qwen."): p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    return found


def plain_logprobs(plain, banned, prompt, response):
    """Of a response after its prompt, by transformers alone."""
    tokens = torch.cat([prompt.tokens, torch.tensor(response)])[None]
    images = {"pixel_values": prompt.pixels, "image_grid_thw": prompt.grid} if len(prompt.grid) else {}
    kinds = (tokens == plain.config.image_token_id).int()
    logits = plain(input_ids=tokens, attention_mask=torch.ones_like(tokens), mm_token_type_ids=kinds, **images).logits
    logits = logits[0, len(prompt.tokens) - 1 : -1].masked_fill(banned, -torch.inf)
    return logits.log_softmax(1)[range(len(response)), response]


def distance(ours, theirs):
    """Of all gradients together, over their length."""
    difference, length = (
        torch.cat([each.flatten() for each in tensors]).norm()
        for tensors in ((ours[name] - theirs[name] for name in theirs), theirs.values())
    )
    return float(difference / length)


def test_a_packed_row_equals_separate_sequences_in_log_probs_and_gradients(model, pictures):
    encoder, packed = parts_of(model)
    groups = groups_of(encoder, pictures)
    together = packed(pack_groups(groups, encoder.filler()))[0]
    weighted(together).backward()
    plain = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32).train()
    separate = torch.cat([plain_logprobs(plain, packed.banned, p, r) for p, responses in groups for r in responses])
    weighted(separate).backward()
    torch.testing.assert_close(together, separate, rtol=0, atol=1e-5)
    assert distance(gradients_of(packed), gradients_of(plain)) < 1e-5


def test_a_response_s_content_leaves_its_siblings_log_probs_bit_equal(model, pictures):
    encoder, packed = parts_of(model)
    groups = groups_of(encoder, pictures)
    prompt, responses = groups[1]
    edited = [groups[0], (prompt, [responses[0], made_up(130, seed=7)[0]]), *groups[2:]]
    with torch.no_grad():
        before, after = (packed(pack_groups(each, encoder.filler()))[0] for each in (groups, edited))
    lengths = [len(r) for _, responses in groups for r in responses]
    changed = [not torch.equal(a, b) for a, b in zip(before.split(lengths), after.split(lengths), strict=True)]
    assert changed == [number == 5 for number in range(len(lengths))]


def test_text_alone_and_prompts_alone_are_computed_too(model):
    encoder, packed = parts_of(model)
    prompt = encoder.encode(message("What is 12 + 34?"))
    response = made_up(30)
    alone = packed(pack_groups([(prompt, response)], encoder.filler()))[0]
    beside = packed(pack_groups([(prompt, []), (prompt, response), (prompt, [])], encoder.filler()))[0]
    torch.testing.assert_close(beside, alone, rtol=0, atol=1e-5)


def test_a_state_that_is_not_forked_would_show_in_every_response(model, pictures, monkeypatch):
    def without_states(groups, **settings):
        plan = recurrence_plan(groups, **settings)
        rule = plan.forked.rule
        lost = SimpleNamespace(index=plan.forked.index, rule=lambda *x, states, last: rule(*x, states=None, last=last))
        return replace(plan, forked=lost)

    encoder, packed = parts_of(model)
    groups = groups_of(encoder, pictures)
    with torch.no_grad():
        kept = packed(pack_groups(groups, encoder.filler()))[0]
        monkeypatch.setattr(packed_model, "recurrence_plan", without_states)
        changed = packed(pack_groups(groups, encoder.filler()))[0]
    lengths = [len(r) for _, responses in groups for r in responses]
    shared = [len(responses) > 1 for _, responses in groups for _ in responses]
    for difference, is_shared in zip((kept - changed).abs().split(lengths), shared, strict=True):
        assert difference[0] == 0  # the prompt predicts it
        assert difference[1:].max() > 1e-3 if is_shared and len(difference) > 1 else difference.max() == 0


def test_checkpointing_changes_no_bit(model, pictures):
    results = []
    for gradient_checkpointing in (False, True):
        encoder, packed = parts_of(model, gradient_checkpointing=gradient_checkpointing)
        logprobs = packed(pack_groups(groups_of(encoder, pictures), encoder.filler()))[0]
        weighted(logprobs).backward()
        results.append({"logprobs": logprobs.detach(), **gradients_of(packed)})
    kept, again = results
    assert kept.keys() == again.keys() and all(torch.equal(kept[name], again[name]) for name in kept)


@pytest.mark.parametrize("stage", slow_but([1, 2, 3], [3]))
def test_a_step_moves_the_weights_alike_under_every_zero_stage(model, pictures, ranks, stage):
    def step(stage):
        sharded = {"zero_optimization": {"stage3_param_persistence_threshold": 0}} if stage == 3 else {}
        policy = open_policy(model, ranks, zero_stage=stage, gradient_clipping=UNCLIPPED, deepspeed=SGD | sharded)
        before = weights_of(policy)
        scores = policy.forward(pack_groups(groups_of(encoder, pictures), encoder.filler()))
        policy.backward(scores.zero + weighted(scores.logprobs) / 100)
        policy.step()
        return {name: weight - before[name] for name, weight in weights_of(policy).items()}

    encoder = load_encoder(model, SMALL_IMAGES)
    assert distance(step(stage), step(0)) < 1e-4


def test_a_row_through_flash_linear_attention_s_calls_equals_the_cpu_s(model, pictures, monkeypatch):
    calls = stand_in_fla(monkeypatch)
    encoder, packed = parts_of(model)
    pack = pack_groups(groups_of(encoder, pictures), encoder.filler())
    results = []
    for rule in (recurrence.delta_rule, Varlen.of):
        monkeypatch.setattr(recurrence, "delta_rule", rule)
        logprobs = packed(pack)[0]
        weighted(logprobs).backward()
        results.append((logprobs.detach(), gradients_of(packed)))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=0, atol=1e-5)
    assert distance(results[1][1], results[0][1]) < 1e-5
    assert len(calls) == 2 * 3 and calls[:2] == [(4, False), (9, True)]  # two calls in each of three layers


def test_transformers_own_recurrent_layers_are_refused_in_a_packed_model(model):
    encoder, packed = parts_of(model)
    del packed.qwen.model.language_model.layers[1].linear_attn.forward  # transformers' own again
    with pytest.raises(ValueError, match="2 of this model's 3 recurrent layers"):
        PackedModel(packed.qwen, temperature=1.0, banned=[])


def test_a_gpu_without_the_kernel_is_refused_by_name_before_any_weight_is_read(model):
    if not kernel_fault(torch.device("cuda")):
        pytest.fail("flash-linear-attention is installed here: this test shows what happens without it")
    with pytest.raises(ValueError, match=f"model '{model}': its Gated DeltaNet layers need flash-linear-attention"):
        load_model(model, dtype=torch.float32, freeze_vision=False, gradient_checkpointing=False, device="cuda")


GROUPS = st.lists(st.tuples(st.integers(1, 9), st.lists(st.integers(1, 7), max_size=4).map(tuple)), min_size=1, max_size=5)


def sequence_before(groups):
    """For each token of a row, the tokens that it sees before itself: its prompt's, then its response's."""
    found = {}
    for (start, end), responses in row_spans(groups):
        found |= {token: list(range(start, token)) for token in range(start, end)}
        for first, last in responses:
            found |= {token: [*range(start, end), *range(first, token)] for token in range(first, last)}
    return found


@given(GROUPS, st.integers(1, 5))
def test_the_convolution_sees_each_token_s_last_inputs(groups, width):
    plan = recurrence_plan(groups, width=width, device=torch.device("cpu"))
    seen, total = sequence_before(groups), len(plan.outputs)
    for token, place in enumerate(plan.outputs.tolist()):
        expected = ([total] * width + seen[token] + [token])[-width:]
        assert plan.inputs[place : place + width].tolist() == expected


@given(GROUPS)
def test_a_forked_sequence_starts_from_its_own_prompt_and_every_token_is_computed_once(groups):
    plan = recurrence_plan(groups, width=4, device=torch.device("cpu"))
    parts = [part for part in (plan.first, plan.forked) if part]
    order = torch.cat([part.index for part in parts])
    assert order[plan.order].tolist() == list(range(len(order)))
    spans = row_spans(groups)
    firsts = [list(range(p[0], p[1] if len(rs) > 1 or not rs else rs[0][1])) for p, rs in spans]
    assert plan.first.index.tolist() == list(chain.from_iterable(firsts))
    forked = [(number, list(range(*r))) for number, (_, rs) in enumerate(spans) for r in rs if len(rs) > 1]
    assert plan.forks.tolist() == [number for number, _ in forked]
    if plan.forked:
        assert plan.forked.index.tolist() == list(chain.from_iterable(tokens for _, tokens in forked))


def test_a_checkpoint_may_have_a_head_that_transformers_lacks_and_the_export_says_so(model, tmp_path, ranks, caplog):
    shutil.copytree(model, tmp_path / "whole")
    save_file({"mtp.layers.0.mlp.gate.weight": torch.ones(8, 2)}, tmp_path / "whole" / "mtp.safetensors")
    index = json.loads((tmp_path / "whole" / "model.safetensors.index.json").read_text())
    index["weight_map"]["mtp.layers.0.mlp.gate.weight"] = "mtp.safetensors"
    (tmp_path / "whole" / "model.safetensors.index.json").write_text(json.dumps(index))
    whole = str(tmp_path / "whole")
    policy = open_policy(whole, ranks)
    policy.export(tmp_path / "exported", whole, parts_of(whole)[0])
    assert check_tensors(str(tmp_path / "exported")).keys() == policy.parameter_names
    assert f"exported lacks 1 tensors of {whole}, such as mtp.layers.0.mlp.gate.weight" in caplog.text
