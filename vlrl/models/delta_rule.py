"""The gated delta rule over sequences of any lengths that lie end to end, each from a state of its own.

A head's state is a matrix [key, value]. A token decays it by exp(g), moves what it holds under the token's key towards the
token's value by a share beta, and reads it with the token's query (arXiv 2412.06464). On a GPU flash-linear-attention computes
it, elsewhere PyTorch, chunk by chunk.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from vlrl.models.counted_delta_rule import CountedDeltaRule
from vlrl.models.kernels import kernels_of

_PACKAGE = "fla"
_CHUNKS = (1, 8, 16, 32, 64)  # tokens
# What chunks take, roughly, in units of a token's work: a token's grows with its chunk, and each chunk of the longest sequence
# is a step for itself.
_TOKEN, _STEP = 64, 2500


def kernel_fault(device: torch.device) -> str:
    """One sentence if the device has no kernel for the rule; empty if it has."""
    if device.type == "cpu" or find_spec(_PACKAGE):
        return ""
    return (
        "its Gated DeltaNet layers need flash-linear-attention on a GPU, which is not installed; "
        "run `pip install flash-linear-attention==0.5.2`"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunked:
    """The rule in PyTorch, in fp32. Chunks of all sequences are computed together, then each sequence's in turn.

    size: tokens of a chunk; places: [T] where a token stands among the chunks, whose order is first chunks, second chunks, ...,
    the longest sequence's first; active: how many sequences have a first chunk, a second, ...; ranks: [N] the longest sequence's
    number, then the next one's; numbers: [N] the inverse.
    """

    size: int
    places: Tensor
    active: tuple[int, ...]
    ranks: Tensor
    numbers: Tensor

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> "Chunked":
        """Of sequences of these lengths, each at least 1."""
        sizes = np.array(lengths)
        size = min(_CHUNKS, key=lambda size: _cost(sizes, size))
        ranks = np.argsort(-sizes, kind="stable")
        numbers = np.argsort(ranks)
        chunks = -(-sizes // size)
        active = (chunks[:, None] > np.arange(chunks.max())).sum(0)
        place = np.arange(sizes.sum()) - np.repeat(sizes.cumsum() - sizes, sizes)  # in its sequence
        chunk = (active.cumsum() - active)[place // size] + np.repeat(numbers, sizes)
        return cls(
            size=size,
            places=torch.from_numpy(chunk * size + place % size).to(device),
            active=tuple(active.tolist()),
            ranks=torch.from_numpy(ranks).to(device),
            numbers=torch.from_numpy(numbers).to(device),
        )

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, g: Tensor, beta: Tensor, *, states: Tensor | None, last: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Outputs [T, heads, value], and with `last` each sequence's state after its last token, [N, heads, key, value] in fp32.

        query, key: [T, key heads, key], each for as many of the heads; value: [T, heads, value]; g, beta: [T, heads]; states:
        [N, heads, key, value] from which the sequences start, None for zeros.
        """
        scale = key.shape[-1] ** -0.5
        shared = value.shape[1] // key.shape[1]
        query, key = (_unit(x.float()).repeat_interleave(shared, dim=1) for x in (query, key))
        q, k, v, g, b = (self._in_chunks(x) for x in (query * scale, key, value.float(), g.float(), beta.float()))
        g = g.cumsum(-1)  # [chunks, heads, C], logs of the decay since the chunk's start
        since = g.exp()[..., None]
        to_end = (g[..., -1:] - g).exp()[..., None]
        later = torch.ones(self.size, self.size, dtype=torch.bool, device=g.device).triu(1)
        decay = (g[..., :, None] - g[..., None, :]).masked_fill(later, -torch.inf).exp()
        # Each token corrects the state that the chunk's earlier tokens left: a triangular system (the WY form of the paper).
        system = (k @ k.mT) * decay * b[..., None]
        solved = torch.linalg.solve_triangular(
            system, torch.cat([v, k * since], dim=-1) * b[..., None], upper=False, unitriangular=True
        )
        new, read = solved.split([v.shape[-1], k.shape[-1]], dim=-1)
        steps = [x.split(self.active) for x in (new, read, q * since, (q @ k.mT) * decay, k * to_end, since[:, :, -1:])]
        state = v.new_zeros(len(self.ranks), *v.shape[1:2], k.shape[-1], v.shape[-1])
        if states is not None:
            state = states.float().index_select(0, self.ranks)
        outputs, ended = [], []
        for new, read, asked, within, kept, decayed in zip(*steps, strict=True):
            ended.append(state[len(new) :])
            state = state[: len(new)]
            corrected = new - read @ state
            outputs.append(asked @ state + within @ corrected)
            state = state * decayed + kept.mT @ corrected
        out = torch.cat(outputs).transpose(1, 2).flatten(0, 1).index_select(0, self.places).to(value.dtype)
        return out, torch.cat([state, *reversed(ended)]).index_select(0, self.numbers) if last else None

    def _in_chunks(self, x: Tensor) -> Tensor:
        """[T, heads, ...] as [chunks, heads, C, ...]. Zeros fill a sequence's last chunk up: they leave the state as it is."""
        laid = x.new_zeros(sum(self.active) * self.size, *x.shape[1:]).index_copy_(0, self.places, x)
        return laid.unflatten(0, (-1, self.size)).transpose(1, 2)


def _cost(lengths: np.ndarray, size: int) -> int:
    """Of sequences of these lengths in chunks of this size, whose last ones are filled up."""
    chunks = -(-lengths // size)
    return int(chunks.sum() * size * (size + _TOKEN) + chunks.max() * _STEP)


def next_token(query: Tensor, key: Tensor, value: Tensor, g: Tensor, beta: Tensor, state: Tensor) -> Tensor:
    """The rule for one more token of each of N sequences, whose fp32 `state` [N, heads, key, value] it changes in place.

    query, key: [N, key heads, key], each for as many of the heads; value: [N, heads, value]; g, beta: [N, heads]. Returns the
    outputs, [N, heads, value].
    """
    scale, shared = key.shape[-1] ** -0.5, value.shape[1] // key.shape[1]
    query, key = (_unit(x.float()).repeat_interleave(shared, dim=1) for x in (query, key))
    state *= g.float().exp()[..., None, None]
    correction = (value.float() - (key[..., None, :] @ state)[..., 0, :]) * beta.float()[..., None]
    state += key[..., :, None] * correction[..., None, :]
    return ((query * scale)[..., None, :] @ state)[..., 0, :].to(value.dtype)


def _unit(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().sum(dim=-1, keepdim=True) + 1e-6)  # as the models were trained


@dataclass(frozen=True, kw_only=True, slots=True)
class Varlen:
    """The rule by flash-linear-attention. ends: [N + 1] int64, each sequence's start and the last one's end, on the device;
    ends_on_cpu: the same there, where the kernels' grids are planned without a wait for the device."""

    ends: Tensor
    ends_on_cpu: Tensor

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> "Varlen":
        ends = torch.tensor([0, *accumulate(lengths)])
        return cls(ends=ends.to(device), ends_on_cpu=ends)

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, g: Tensor, beta: Tensor, *, states: Tensor | None, last: bool
    ) -> tuple[Tensor, Tensor | None]:
        """As Chunked."""
        if kernels_of(query.device) != query.device.type:
            out, state = CountedDeltaRule.apply(query, key, value, g, beta, states, self.ends.diff().tolist())
            return out, state if last else None
        from fla.ops.gated_delta_rule import chunk_gated_delta_rule

        out, state = chunk_gated_delta_rule(
            *(x[None] for x in (query, key, value)),
            g=g[None],
            beta=beta[None],
            initial_state=states,
            output_final_state=last,
            use_qk_l2norm_in_kernel=True,
            cu_seqlens=self.ends,
            cu_seqlens_cpu=self.ends_on_cpu,
        )
        return out[0], state


def delta_rule(lengths: Sequence[int], device: torch.device) -> Chunked | Varlen:
    """The rule for sequences of these lengths on the device."""
    return Chunked.of(lengths, device) if kernels_of(device) == "cpu" else Varlen.of(lengths, device)
