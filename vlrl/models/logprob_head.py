"""The loss head: log-probs and entropies of given tokens from hidden states, without logits of [tokens, vocabulary].

Logits exist a tile at a time, of some tokens and some of the vocabulary, and are made again in backward. Products are summed in
fp32 and both gradients are accumulated in fp32 over all tiles: rounded tile by tile they would be biased, by little in each
step and by enough to drive a run's entropy.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from vlrl.models.kernels import kernels_of

_MOST_TOKENS = 4096  # of a tile
_TILE = {"cpu": 1 << 22, "cuda": 1 << 27}  # logits of a tile, 4 bytes each; on CPU it should stay near the cache
_LOWEST = torch.finfo(torch.float32).min


class LogProbHead(nn.Module):
    """A model's lm_head. A module of its own, since ZeRO-3 gathers weights around a module's forward and backward."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, hidden: Tensor, targets: Tensor, temperature: Tensor, banned: Tensor) -> tuple[Tensor, Tensor]:
        """[N] log-probs of the targets and [N] entropies (no gradient), in fp32.

        hidden: [N, H]; targets: [N]; temperature: [N]; banned: [V] True for ids that are never sampled.
        """
        return LogProbs.apply(hidden, self.weight, targets, temperature, banned)


class LogProbs(torch.autograd.Function):
    """log softmax(hidden @ weight.T / temperature) at the targets, and its entropy; see LogProbHead."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: Tensor, banned: Tensor
    ) -> tuple[Tensor, Tensor]:
        parts = [_forward(h, target, heat, weight, banned) for h, target, heat in _by_tokens(hidden, targets, temperature)]
        logprobs, entropies, log_sums = (torch.cat(each) for each in zip(*parts, strict=True))
        ctx.save_for_backward(hidden, targets, temperature, banned, log_sums)
        ctx.weight = weight  # by reference: under ZeRO-3 it is gathered anew for backward
        ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, targets, temperature, banned, log_sums = ctx.saved_tensors
        weight, gradient = ctx.weight, gradients[0]
        wanted_hidden, wanted_weight = ctx.needs_input_grad[:2]
        d_hidden = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device)
        d_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device) if wanted_weight else None
        parts = _by_tokens(hidden, targets, temperature, log_sums, gradient, d_hidden)
        for h, target, heat, log_sum, g, d_h in parts:
            for start, w, logits in _tiles(h, weight, heat, banned):
                d_logits = torch.exp_(logits.sub_(log_sum[:, None])).mul_(-g[:, None])
                inside, place = _within(target, start, len(w))
                d_logits[inside, place[inside]] += g[inside]
                d_logits = d_logits.div_(heat[:, None]).to(w.dtype)
                d_h += _product(d_logits, w)
                if d_weight is not None:
                    d_weight[start : start + len(w)] += _product(d_logits.T, h)
        hidden_grad = d_hidden.to(hidden.dtype) if wanted_hidden else None
        return hidden_grad, None if d_weight is None else d_weight.to(weight.dtype), None, None, None


def _forward(
    hidden: Tensor, targets: Tensor, temperature: Tensor, weight: Tensor, banned: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probs, entropies and log-sums of some tokens; the sums run over tiles, scaled by the largest logit so far."""
    largest = torch.full((len(hidden),), _LOWEST, device=hidden.device)
    mass, weighted, chosen = (torch.zeros(len(hidden), device=hidden.device) for _ in range(3))
    for start, w, logits in _tiles(hidden, weight, temperature, banned):
        inside, place = _within(targets, start, len(w))
        chosen = torch.where(inside, logits.gather(1, place[:, None])[:, 0], chosen)
        before, largest = largest, torch.maximum(largest, logits.amax(dim=1))
        rescale = torch.exp(before - largest)
        shares = torch.exp(logits - largest[:, None])
        mass = mass * rescale + shares.sum(dim=1)
        weighted = weighted * rescale + torch.linalg.vecdot(shares, logits.clamp_(min=_LOWEST))  # 0 * -inf would be nan
    log_sum = largest + mass.log()
    return chosen - log_sum, log_sum - weighted / mass, log_sum


def _by_tokens(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(tensor.split(_MOST_TOKENS) for tensor in tensors), strict=True)


def _tiles(hidden: Tensor, weight: Tensor, temperature: Tensor, banned: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(first id, rows of the weight, their logits in fp32), tile by tile; banned ids have -inf."""
    size = _tile_of(hidden)
    for start in range(0, len(weight), size):
        rows = weight[start : start + size]
        logits = _product(hidden, rows.T).div_(temperature[:, None])
        yield start, rows, logits.masked_fill_(banned[start : start + size], -torch.inf)


def _tile_of(hidden: Tensor) -> int:
    """How many of the vocabulary a tile of these tokens has."""
    return max(1024, _TILE[kernels_of(hidden.device)] // len(hidden))


def _within(targets: Tensor, start: int, size: int) -> tuple[Tensor, Tensor]:
    """Which targets lie in a tile, and their places in it, 0 for the others."""
    inside = (targets >= start) & (targets < start + size)
    return inside, torch.where(inside, targets - start, 0)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b with sums and result in fp32."""
    if a.dtype is torch.float32:
        return a @ b
    return torch.mm(a, b, out_dtype=torch.float32) if kernels_of(a.device) == "cuda" else a.float() @ b.float()
