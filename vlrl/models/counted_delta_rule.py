"""The tensors that flash-linear-attention makes for the gated delta rule, without their values, where its memory is counted only.

Its kernels run on GPUs alone. These are the tensors of its chunk_gated_delta_rule (version 0.5.2, ops/gated_delta_rule/chunk.py),
each as long alive as there.
"""

from typing import Any

import torch
from torch import Tensor

_CHUNK = 64  # tokens


class CountedDeltaRule(torch.autograd.Function):
    """query, key: [T, key heads, key]; value: [T, heads, value]; g, beta: [T, heads]; states: [N, heads, key, value] or None;
    lengths: [N] of the sequences. Returns outputs [T, heads, value] and last states [N, heads, key, value] in fp32."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, g: Tensor, beta: Tensor, states: Tensor | None, lengths: list[int]
    ) -> tuple[Tensor, Tensor]:
        size = (sum(-(-length // _CHUNK) for length in lengths), value.shape[1], key.shape[2], value.shape[2])
        unit_query, unit_key = (torch.empty_like(x) for x in (query, key))
        norms = [torch.empty(x.shape[:2]) for x in (query, key)]
        decays = torch.empty_like(g, dtype=torch.float32)
        solved = key.new_empty(*g.shape, _CHUNK)
        _kept = [*_new_values(key, value), key.new_empty(size), torch.empty_like(value)]  # states of chunks, corrected values
        ctx.save_for_backward(unit_query, unit_key, *norms, value, decays, beta, solved, states)
        ctx.size, ctx.g_dtype = size, g.dtype
        return torch.empty_like(value), torch.empty(len(lengths), *size[1:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, _, _, value, decays, beta, _, states = ctx.saved_tensors
        wide = (*value.shape[:2], key.shape[2])
        _kept = [*_new_values(key, value), key.new_empty(ctx.size), torch.empty_like(value)]
        _kept += [torch.empty_like(value), key.new_empty(ctx.size), torch.empty_like(value)]  # gradients of values and states
        d_states = None if states is None else torch.empty_like(states, dtype=torch.float32)
        d_query, d_key = (_of_key_heads(key.new_empty(wide), key) for _ in range(2))
        _kept += [key.new_empty(wide), torch.empty_like(decays)]
        _kept += [_of_key_heads(key.new_empty(wide), key)]
        d_value, d_beta, d_g = (torch.empty_like(x) for x in (value, beta, decays))
        _kept += [d_query, d_key]
        return torch.empty_like(query), torch.empty_like(key), d_value, d_g.to(ctx.g_dtype), d_beta, d_states, None


def _new_values(key: Tensor, value: Tensor) -> list[Tensor]:
    """The WY form of the chunks: what the tokens read from the state before theirs, and what they would write without it."""
    return [key.new_empty(*value.shape[:2], key.shape[2]), torch.empty_like(value)]


def _of_key_heads(x: Tensor, key: Tensor) -> Tensor:
    """The sum over the heads of each key head."""
    return x.unflatten(1, (key.shape[1], -1)).sum(2)
