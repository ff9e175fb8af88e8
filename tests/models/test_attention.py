"""Group attention equals attention under the dense mask, whatever the lengths; images together equal images one by one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrl.models import flash_attention as flash
from vlrl.models.attention import GroupAttention, attention_plan, image_attention, image_plan
from vlrl.models.checkpoint_io import load_model
from vlrl.models.flash_attention import Dense, has_varlen

HEADS, KEY_HEADS, WIDTH = 4, 2, 8


def made_up(tokens, dtype=torch.float32):
    numbers = torch.Generator().manual_seed(tokens)
    shapes = [(tokens, heads, WIDTH) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]
    return [torch.randn(shape, generator=numbers).to(dtype).requires_grad_() for shape in shapes]


def mask_of(groups):
    """[T, T] what each token sees."""
    segments: list[tuple[int, int]] = []
    for number, (prompt, responses) in enumerate(groups):
        segments += [(number, -1)] * prompt
        for response, size in enumerate(responses):
            segments += [(number, response)] * size
    group = torch.tensor([g for g, _ in segments])
    response = torch.tensor([r for _, r in segments])
    together = (group[:, None] == group) & ((response[:, None] == response) | (response == -1))
    return together & torch.ones(len(segments), len(segments), dtype=torch.bool).tril()


def by_mask(query, key, value, mask, scale):
    """Attention with all scores, in fp64."""
    q, k, v = (x.double().transpose(0, 1) for x in (query, key, value))
    k, v = (x.repeat_interleave(HEADS // KEY_HEADS, dim=0) for x in (k, v))
    scores = (q @ k.mT * scale).masked_fill(~mask, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(0, 1)


def grouped(groups, *inputs, scale=WIDTH**-0.5, varlen=False):
    plan = attention_plan(groups, device=inputs[0].device, varlen=varlen)
    return GroupAttention.apply(*inputs, plan, scale)


def with_gradients(out, inputs):
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return [out.detach().double(), *(g.double() for g in torch.autograd.grad((out.double() * weights).sum(), inputs))]


sizes = st.tuples(st.integers(1, 90), st.lists(st.integers(1, 90), min_size=1, max_size=5).map(tuple))


@given(st.lists(sizes, min_size=1, max_size=4))
@settings(max_examples=40)
def test_output_and_gradients_equal_those_under_the_dense_mask(groups):
    inputs = made_up(sum(prompt + sum(responses) for prompt, responses in groups))
    found = with_gradients(grouped(groups, *inputs), inputs)
    expected = with_gradients(by_mask(*inputs, mask_of(groups), WIDTH**-0.5), inputs)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("groups", [[(700, (600, 1, 300))], [(5, (513,))], [(256, (257, 256)), (1, (1, 1))]])
def test_sequences_longer_than_a_block_are_exact_too(groups):
    inputs = made_up(sum(prompt + sum(responses) for prompt, responses in groups))
    found = with_gradients(grouped(groups, *inputs), inputs)
    expected = with_gradients(by_mask(*inputs, mask_of(groups), WIDTH**-0.5), inputs)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-5)


def test_scores_that_would_overflow_stay_finite():
    groups = [(40, (30, 7, 3)), (3, (90, 2))]
    inputs = [(30 * x.detach()).requires_grad_() for x in made_up(175)]
    assert all(x.isfinite().all() for x in with_gradients(grouped(groups, *inputs, scale=1.0), inputs))


def test_half_precision_is_as_near_as_its_rounding():
    groups = [(40, (30, 7, 3)), (3, (90, 2))]
    inputs = made_up(175, torch.bfloat16)
    found = with_gradients(grouped(groups, *inputs), inputs)
    expected = with_gradients(by_mask(*inputs, mask_of(groups), WIDTH**-0.5), inputs)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).norm() / theirs.norm() < 2e-2


@pytest.mark.parametrize("causal", [False, True])
def test_the_plain_kernel_equals_the_cpu_s(causal):
    kernel, numbers = Dense(causal=causal), torch.Generator().manual_seed(0)
    gradient, query = (torch.randn(3, 20, HEADS, WIDTH, generator=numbers) for _ in range(2))
    key, value = (torch.randn(3, 20 if causal else 11, KEY_HEADS, WIDTH, generator=numbers) for _ in range(2))
    out, log_sums = kernel.forward(query, key, value, 0.3)
    heads_first = [x.transpose(1, 2) for x in (query, key, value)]
    plain_out, plain_sums = kernel._plain_forward(*heads_first, 0.3)
    torch.testing.assert_close(out, plain_out.transpose(1, 2))
    torch.testing.assert_close(log_sums, plain_sums.transpose(1, 2))
    g, o, sums = (x.transpose(1, 2) for x in (gradient, out, log_sums))
    for ours, theirs in zip(
        kernel.backward(gradient, query, out, log_sums, key, value, 0.3),
        kernel._plain_backward(g, *heads_first, o, sums, 0.3),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs.transpose(1, 2), rtol=1e-4, atol=1e-5)


GROUPS = [[(9, (4, 70, 3)), (5, (2,)), (60, (8, 8))], [(5, (2,))]]


def sequences(query_ends, key_ends):
    """The rows of each sequence's queries, and those of its keys."""
    return [tuple(slice(a, b) for a, b in zip(x[:-1], x[1:], strict=True)) for x in (query_ends.tolist(), key_ends.tolist())]


def stand_in_forward(query, key, value, query_ends, key_ends, _, __, ___, causal, ____, *, scale):
    """FlashAttention's kernel, sequence by sequence on a CPU."""
    out, log_sums = torch.empty_like(query), torch.empty(query.shape[:2])
    for q, k in zip(*sequences(query_ends, key_ends), strict=True):
        piece, sums = Dense(causal=causal).forward(query[q][None], key[k][None], value[k][None], scale)
        out[q], log_sums[q] = piece[0], sums[0]
    return out, log_sums.T, None, None, None


def stand_in_backward(
    gradient, query, key, value, out, log_sums, query_ends, key_ends, _, __, ___, causal, ____, _____, *, scale
):
    found = [torch.empty_like(x) for x in (query, key, value)]
    for q, k in zip(*sequences(query_ends, key_ends), strict=True):
        of_queries = (x[q][None] for x in (gradient, query, out, log_sums.T))
        pieces = Dense(causal=causal).backward(*of_queries, key[k][None], value[k][None], scale)
        for whole, rows, piece in zip(found, (q, k, k), pieces, strict=True):
            whole[rows] = piece[0]
    return found


@pytest.mark.parametrize("groups", GROUPS)
def test_a_kernel_of_any_lengths_is_given_the_right_sequences(groups, monkeypatch):
    monkeypatch.setattr(flash, "_gpu_forward", stand_in_forward)
    monkeypatch.setattr(flash, "_gpu_backward", stand_in_backward)
    inputs = made_up(sum(prompt + sum(responses) for prompt, responses in groups))
    found = with_gradients(grouped(groups, *inputs, varlen=True), inputs)
    for ours, theirs in zip(found, with_gradients(grouped(groups, *inputs), inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("groups", GROUPS)
def test_flash_attention_s_operators_take_what_they_are_given(groups):
    tokens = sum(prompt + sum(responses) for prompt, responses in groups)
    inputs = [x.detach().to("meta", torch.bfloat16).requires_grad_() for x in made_up(tokens)]
    out = grouped(groups, *inputs, varlen=True)
    assert out.shape == inputs[0].shape and out.dtype is torch.bfloat16
    assert [g.shape for g in torch.autograd.grad(out.sum(), inputs)] == [x.shape for x in inputs]


def test_on_a_gpu_half_precision_has_a_kernel_of_any_lengths_and_a_cpu_has_none():
    assert has_varlen(torch.device("cuda"), torch.bfloat16)
    assert not has_varlen(torch.device("cuda"), torch.float32) and not has_varlen(torch.device("cpu"), torch.bfloat16)


GRIDS = [[(1, 4, 6)], [(1, 4, 6), (1, 2, 2), (1, 8, 4), (1, 2, 2)]]


@pytest.mark.parametrize("grid", GRIDS, ids=len)
def test_a_tower_that_takes_all_images_in_one_call_equals_sdpa_image_by_image(grid, tiny_dense, monkeypatch):
    monkeypatch.setattr(flash, "_gpu_forward", stand_in_forward)
    monkeypatch.setattr(flash, "_gpu_backward", stand_in_backward)
    qwen = load_model(tiny_dense, dtype=torch.float32, freeze_vision=False, gradient_checkpointing=True)
    grid = torch.tensor(grid)
    sizes = grid.prod(-1).tolist()
    pixels = torch.randn(sum(sizes), 3 * 2 * 16 * 16, generator=torch.Generator().manual_seed(0))

    def features_and_gradients():
        image_by_image = torch.tensor([0, *torch.tensor(sizes).cumsum(0)])
        for more in (image_plan(sizes, device=pixels.device, varlen=True), {"cu_seqlens": image_by_image, "plan": None}):
            found = qwen.model.get_image_features(pixels, grid, return_dict=True, **more)
            out = torch.cat([*found.pooler_output, *(layer for each in found.deepstack_features for layer in each)])
            yield with_gradients(out, [p for name, p in qwen.model.visual.named_parameters()])

    together, one_by_one = features_and_gradients()
    for ours, theirs in zip(together, one_by_one, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("width", [64, 72])
def test_flash_attention_s_operators_take_a_tower_s_heads(width):
    inputs = [torch.empty(1, 16, 300, width, dtype=torch.bfloat16, device="meta", requires_grad=True) for _ in range(3)]
    plan = image_plan([40, 256, 4], device=inputs[0].device, varlen=True)["plan"]
    out, _ = image_attention(torch.nn.Module(), *inputs, None, plan=plan, scaling=width**-0.5, dropout=0.0, is_causal=False)
    assert out.shape == (1, 300, 16, width)
    assert [g.shape for g in torch.autograd.grad(out.sum(), inputs)] == [x.shape for x in inputs]


def test_many_small_images_are_taken_in_one_call_and_few_large_ones_one_by_one():
    def splits(*sizes, varlen=True):
        found = image_plan(sizes, device=torch.device("cpu"), varlen=varlen)
        assert (found["plan"] is None) == (found["cu_seqlens"].tolist() != [0, sum(sizes)])
        return found["cu_seqlens"].tolist()

    assert splits(*[256] * 128) == [0, 128 * 256]
    assert splits(*[4096] * 3) == [0, 4096, 8192, 12288]
    assert splits(*[256] * 20, 4096) == [0, 20 * 256 + 4096]
    assert splits(256, 4, varlen=False) == [0, 256, 260]
