"""Checks of single kernels: the patch embedding, attention of both kinds, the loss head, the optimizer."""

from collections.abc import Callable
from functools import partial
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.gpu.checking import Scale, Tell, clear, gigabytes, milliseconds, normal, off
from vlrl.models.attention import AttentionCall, AttentionPlan, GroupAttention, GroupSizes, TokenSelection, attention_plan
from vlrl.models.flash_attention import Varlen, has_varlen
from vlrl.models.logprob_head import LogProbs


def patch_embedding(scale: Scale, tell: Tell) -> None:
    """A convolution over patches that do not overlap, against the same as a linear map: what either costs."""
    for width, count in product(scale.patch_embeddings, scale.patches):
        conv = nn.Conv3d(3, width, kernel_size=(2, 16, 16), stride=(2, 16, 16)).to(scale.device, scale.dtype)
        pixels = normal(scale, count, 3, 2, 16, 16)
        name = f"{count} patches to {width}"
        try:
            for kind, embed in (("linear", _embed_linearly), ("conv", _embed)):
                tell(f"{name}, {kind}, forward ms", milliseconds(scale, partial(embed, conv, pixels)))
                both = partial(_backward, embed, conv, pixels)
                tell(f"{name}, {kind}, both ms", milliseconds(scale, both))
                tell(f"{name}, {kind}, GB", gigabytes(both))
        except RuntimeError as error:
            tell.fault(f"{name}: {str(error).splitlines()[0]}")
        tell(f"{name}, off by", off(_embed(conv, pixels), _embed_linearly(conv, pixels)))
        clear(scale)


def _embed(conv: nn.Conv3d, pixels: Tensor) -> Tensor:
    return conv(pixels).flatten(1)


def _embed_linearly(conv: nn.Conv3d, pixels: Tensor) -> Tensor:
    return F.linear(pixels.flatten(1), conv.weight.flatten(1), conv.bias)


def _backward(embed: Callable[[nn.Conv3d, Tensor], Tensor], conv: nn.Conv3d, pixels: Tensor) -> None:
    embed(conv, pixels).sum().backward()


GROUPS: tuple[GroupSizes, ...] = ((37, (5, 1, 64)), (1, (9, 2)), (200, (130,)), (64, (1,)), (3, (300, 17, 1, 1)))
"""Groups with every shape that matters: lone responses, prompts and responses of one token, responses longer than a block."""


def group_attention(scale: Scale, tell: Tell) -> None:
    """Group attention against each response behind its own prompt in fp32, and what a long row costs."""
    varlen = has_varlen(scale.device, scale.dtype)
    tell("kernel", "varlen" if varlen else "dense")
    for heads, key_heads in scale.heads:
        inputs = _rows(scale, heads, key_heads, sum(prompt + sum(responses) for prompt, responses in GROUPS))
        plan = attention_plan(GROUPS, device=scale.device, varlen=varlen)
        found = _with_gradients(lambda *x, plan=plan: GroupAttention.apply(*x, plan, scale.head_dim**-0.5), inputs)
        exact = _with_gradients(partial(_separately, scale.head_dim**-0.5), [x.float() for x in inputs])
        for part, one, other in zip(("out", "dq", "dk", "dv"), found, exact, strict=True):
            tell(f"{heads}/{key_heads} heads, {part} off by", error := off(one, other))
            if not error < (1e-2 if scale.dtype is torch.bfloat16 else 1e-4):
                tell.fault(f"group attention of {heads}/{key_heads} heads: {part} is off by {error:.1e}")
    heads, key_heads = scale.heads[0]
    prompt, response = scale.many_tokens // 16, scale.many_tokens // 32
    many: list[GroupSizes] = [(prompt // 4, (response // 4,) * 30)] * 4
    inputs = _rows(scale, heads, key_heads, sum(p + sum(r) for p, r in many))
    plan = attention_plan(many, device=scale.device, varlen=varlen)
    work = partial(_with_gradients, lambda *x: GroupAttention.apply(*x, plan, scale.head_dim**-0.5), inputs)
    tell(f"{len(inputs[0])} tokens, ms", milliseconds(scale, work))
    tell(f"{len(inputs[0])} tokens, GB", gigabytes(work))


def _rows(scale: Scale, heads: int, key_heads: int, tokens: int) -> list[Tensor]:
    return [normal(scale, tokens, count, scale.head_dim, seed=n) for n, count in enumerate((heads, key_heads, key_heads))]


def _with_gradients(attention, inputs: list[Tensor]) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = attention(*leaves)
    weights = torch.linspace(-1, 1, out.numel(), device=out.device).view_as(out).to(out.dtype)
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), leaves)]


def _separately(scale: float, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Plain attention of GROUPS, a response at a time, the prompt's own outputs first."""
    pieces, start = [], 0
    for prompt, responses in GROUPS:
        pieces.append(_plain(*(x[start : start + prompt] for x in (query, key, value)), scale))
        place = start + prompt
        for size in responses:
            rows = [torch.cat([x[start : start + prompt], x[place : place + size]]) for x in (query, key, value)]
            pieces.append(_plain(*rows, scale)[prompt:])
            place += size
        start = place
    return torch.cat(pieces)


def _plain(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    repeat = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(repeat, dim=1) for x in (key, value))
    scores = torch.einsum("qhd,khd->hqk", query, key) * scale
    unseen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(unseen, -torch.inf).softmax(-1), value)


def loss_head(scale: Scale, tell: Tell) -> None:
    """Log-probs and gradients of the loss head against fp64 on a part, and what many tokens cost beside their bare products."""
    for size in scale.hidden:
        hidden, weight = normal(scale, scale.head_tokens, size), normal(scale, scale.vocabulary, size, seed=1) * size**-0.5
        targets = torch.randint(scale.vocabulary, (scale.head_tokens,), generator=torch.Generator().manual_seed(2))
        targets = targets.to(scale.device)
        few = max(8, scale.head_tokens // 128)
        found, exact = (head(hidden[:few], weight, targets[:few]) for head in (_head, _exact_head))
        for part, one, other in zip(("log-probs", "entropies", "d hidden", "d weight"), found, exact, strict=True):
            tell(f"H {size}, {part} off by", off(one, other))
        del found, exact
        clear(scale)
        work = partial(_head, hidden, weight, targets)
        tell(f"H {size}, {scale.head_tokens} tokens, ms", spent := milliseconds(scale, work))
        products = milliseconds(scale, partial(_products, hidden, weight))
        tell(f"H {size}, {scale.head_tokens} tokens, of the bare products", spent / products)
        tell(f"H {size}, {scale.head_tokens} tokens, GB", gigabytes(work))
        clear(scale)


def _head(hidden: Tensor, weight: Tensor, targets: Tensor) -> list[Tensor]:
    h, w = (x.detach().requires_grad_() for x in (hidden, weight))
    banned = torch.zeros(len(weight), dtype=torch.bool, device=weight.device)
    logp, entropy = LogProbs.apply(h, w, targets, torch.ones(len(targets), device=weight.device), banned)
    return [logp, entropy, *torch.autograd.grad(logp.mean(), (h, w))]


def _exact_head(hidden: Tensor, weight: Tensor, targets: Tensor) -> list[Tensor]:
    h, w = (x.double().requires_grad_() for x in (hidden, weight))
    logprobs = (h @ w.T).log_softmax(dim=1)
    chosen = logprobs.gather(1, targets[:, None])[:, 0]
    entropy = torch.special.entr(logprobs.exp()).sum(dim=1)
    return [chosen, entropy, *torch.autograd.grad(chosen.mean(), (h, w))]


def _products(hidden: Tensor, weight: Tensor) -> None:
    """The four products that no head with recompute can do without, a few tokens at a time."""
    for h in hidden.split(4096):
        logits = h @ weight.T
        torch.mm(h, weight.T, out=logits)
        logits @ weight
        logits.T @ h


def vision_attention(scale: Scale, tell: Tell) -> None:
    """Attention within images, one after another and all in one call, for a few large ones and many small ones."""
    for count, patches in (scale.big_images, scale.small_images):
        inputs = [normal(scale, count * patches, 16, 64, seed=seed) for seed in range(3)]
        name = f"{count} images of {patches} patches"
        tell(f"{name}, one by one, ms", milliseconds(scale, partial(_one_by_one, patches, inputs)))
        if not has_varlen(scale.device, scale.dtype):
            tell(f"{name}, together", "no kernel here")
            continue
        tell(f"{name}, together, ms", milliseconds(scale, partial(_together, patches, inputs)))
        for part, one, other in zip(
            ["out", "dq", "dk", "dv"], _together(patches, inputs), _one_by_one(patches, inputs), strict=True
        ):
            tell(f"{name}, {part} off by", off(one, other))
        clear(scale)


def _one_by_one(patches: int, inputs: list[Tensor]) -> list[Tensor]:
    def attention(*inputs: Tensor) -> Tensor:
        parts = zip(*(x.split(patches) for x in inputs), strict=True)
        outs = [F.scaled_dot_product_attention(*(x.transpose(0, 1)[None] for x in part)) for part in parts]
        return torch.cat([out[0].transpose(0, 1) for out in outs])

    return _with_gradients(attention, inputs)


def _together(patches: int, inputs: list[Tensor]) -> list[Tensor]:
    tokens = len(inputs[0])
    ends = torch.arange(0, tokens + 1, patches, dtype=torch.int32, device=inputs[0].device)
    kernel = Varlen(query_ends=ends, key_ends=ends, longest=(patches, patches), causal=False)
    plan = AttentionPlan(
        own=(AttentionCall(queries=TokenSelection(index=slice(None)), keys=TokenSelection(index=slice(None)), kernel=kernel),),
        others=(),
    )
    return _with_gradients(lambda *x: GroupAttention.apply(*x, plan, inputs[0].shape[-1] ** -0.5), inputs)


def optimizer(scale: Scale, tell: Tell) -> None:
    """One AdamW step on a flat fp32 partition, by torch's two ways."""
    for kind in ("foreach", "fused"):
        weights = nn.Parameter(torch.zeros(scale.optimizer_size, device=scale.device))
        weights.grad = torch.ones_like(weights)
        adam = torch.optim.AdamW([weights], lr=1e-6, **{kind: True})
        tell(f"{kind}, ms", milliseconds(scale, adam.step))
        tell(f"{kind}, GB beside the states", gigabytes(adam.step))
        del weights, adam
        clear(scale)
