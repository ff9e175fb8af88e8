"""Exact attention piece by piece: what some queries get from some keys, and how pieces of the same queries are put together.

A piece gives its output and the log of its sum of exponentials, with which outputs over different keys add up to the one over
all of them (arXiv 2205.14135, section 3.1). Backward needs no more than the whole's output and log-sum: each piece's gradient
follows from those alone, as in ring attention (arXiv 2310.01889).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from vlrl.models.kernels import kernels_of

_cpu_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_cpu_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
_gpu_forward = torch.ops.aten._flash_attention_forward
_gpu_backward = torch.ops.aten._flash_attention_backward

Gradients = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Dense:
    """Equally long sequences side by side: query [B, Q, heads, d]; key, value [B, K, key heads, d].

    causal: a query sees the keys up to its own place, Q and K being equal.
    """

    causal: bool

    def forward(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Output [B, Q, heads, d] and log-sums [B, Q, heads]."""
        q, k, v = (x.transpose(1, 2) for x in (query, key, value))
        if kernels_of(q.device) == "cpu":
            out, log_sums = _cpu_forward(q, k, v, 0.0, self.causal, scale=scale)
        else:
            out, log_sums = self._plain_forward(q, k, v, scale)
        return out.transpose(1, 2), log_sums.transpose(1, 2)

    def backward(
        self, gradient: Tensor, query: Tensor, out: Tensor, log_sums: Tensor, key: Tensor, value: Tensor, scale: float
    ) -> Gradients:
        """Gradients of query, key and value. out, log_sums: over all keys, of which `key` may be a part."""
        g, q, k, v, o = (x.transpose(1, 2) for x in (gradient, query, key, value, out))
        if kernels_of(q.device) == "cpu":
            found = _cpu_backward(g, q, k, v, o, log_sums.transpose(1, 2), 0.0, self.causal, scale=scale)
        else:
            found = self._plain_backward(g, q, k, v, o, log_sums.transpose(1, 2), scale)
        d_query, d_key, d_value = (x.transpose(1, 2) for x in found)
        return d_query, d_key, d_value

    def _scores(self, q: Tensor, k: Tensor, scale: float) -> Tensor:
        """[B, key heads, heads a key head, Q, K], in fp32."""
        scores = torch.einsum("bghqd,bgkd->bghqk", _by_key_head(q, k), k.float()) * scale
        if self.causal:
            unseen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
            scores = scores.masked_fill(unseen, -torch.inf)
        return scores

    def _plain_forward(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        log_sums = (scores := self._scores(q, k, scale)).logsumexp(dim=-1)
        out = torch.einsum("bghqk,bgkd->bghqd", (scores - log_sums[..., None]).exp(), v.float())
        return out.flatten(1, 2).to(q.dtype), log_sums.flatten(1, 2)

    def _plain_backward(self, g: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, log_sums: Tensor, scale: float) -> Gradients:
        grouped_g, grouped_q = _by_key_head(g, k), _by_key_head(q, k)
        shares = (self._scores(q, k, scale) - log_sums.unflatten(1, (k.shape[1], -1))[..., None]).exp()
        d_shares = torch.einsum("bghqd,bgkd->bghqk", grouped_g, v.float())
        d_scores = shares * (d_shares - (grouped_g * _by_key_head(o, k)).sum(-1, keepdim=True)) * scale
        return (
            torch.einsum("bghqk,bgkd->bghqd", d_scores, k.float()).flatten(1, 2).to(q.dtype),
            torch.einsum("bghqk,bghqd->bgkd", d_scores, grouped_q).to(k.dtype),
            torch.einsum("bghqk,bghqd->bgkd", shares, grouped_g).to(v.dtype),
        )


def _by_key_head(x: Tensor, k: Tensor) -> Tensor:
    """[B, heads, Q, d] as [B, key heads, heads a key head, Q, d], in fp32."""
    return x.float().unflatten(1, (k.shape[1], -1))


def has_varlen(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether there is a kernel for sequences of any lengths: FlashAttention's, on GPUs, in half precision."""
    return kernels_of(device) == "cuda" and dtype in (torch.float16, torch.bfloat16)


@dataclass(frozen=True, kw_only=True, slots=True)
class Varlen:
    """Sequences of any lengths end to end: query [Q, heads, d]; key, value [K, key heads, d].

    query_ends, key_ends: [B + 1] int32, each sequence's start and the last one's end; longest: of queries and of keys.
    """

    query_ends: Tensor
    key_ends: Tensor
    longest: tuple[int, int]
    causal: bool

    def forward(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Output [Q, heads, d] and log-sums [Q, heads]."""
        out, log_sums, *_ = _gpu_forward(
            query, key, value, self.query_ends, self.key_ends, *self.longest, 0.0, self.causal, False, scale=scale
        )
        return out, log_sums.T

    def backward(
        self, gradient: Tensor, query: Tensor, out: Tensor, log_sums: Tensor, key: Tensor, value: Tensor, scale: float
    ) -> Gradients:
        """Gradients of query, key and value. out, log_sums: over all keys, of which `key` may be a part."""
        no_dropout = torch.zeros(2, dtype=torch.uint64, device=query.device)
        return _gpu_backward(
            gradient, query, key, value, out, log_sums.T.contiguous(), self.query_ends, self.key_ends, *self.longest, 0.0,
            self.causal, no_dropout, torch.empty(0, device=query.device), scale=scale,
        )  # fmt: skip
