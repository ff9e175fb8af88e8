"""Group attention: a prompt once, then its G responses, in one row of tokens.

The prompt attends to itself causally; each response attends to the prompt and, causally, to itself, never to another
response or group. Linear layers and the vision tower then see each prompt once, and attention does no more work than G
separate sequences would. Registered with transformers as `vlrl_group`; the keyword `plan` says which tokens attend to which.
The vision tower's images, each of which attends to itself, are registered as `vlrl_images`; and for blocks that attend within
windows of an image, the windows as `vlrl_windows`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, groupby, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

import vlrl.models.cuda_wheels  # noqa: F401 (before transformers)

# isort: split
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from vlrl.models.flash_attention import Dense, Varlen

GROUP_ATTENTION = "vlrl_group"
IMAGE_ATTENTION = "vlrl_images"
WINDOW_ATTENTION = "vlrl_windows"

GroupSizes = tuple[int, tuple[int, ...]]
"""The tokens of a prompt, and those of each of the responses that follow it in the row."""

Span = tuple[int, int]
"""Where a stretch of the row's tokens begins and ends."""

_SHORT = 64  # tokens; longer sequences gain nothing from being computed side by side
_BLOCK = 256  # tokens; the CPU's kernel takes all of the square's time for half of it beyond that
# Patches of an image, up to which one varlen call for all images is faster than a call of SDPA for each. Measured on an H100,
# forward and backward: an SDPA call takes .23 ms even for a small image, but 4.3e-8 ms a pair of patches for a large one, where
# varlen takes 6.2e-8. They meet at 1,900 patches (bench/RESULTS.md, attention within pictures).
_LARGE_IMAGE = 1900


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenSelection:
    """Selects tokens of a packed row by `index`.

    batch: (B, longest) if they are B sequences that a kernel takes side by side, padded with zeros; places: each token's position
    in those B x longest, if anything is padded.
    """

    index: slice | Tensor
    batch: tuple[int, int] | None = None
    places: Tensor | None = None

    def take(self, x: Tensor) -> Tensor:
        """These tokens of x [T, ...], as [B, longest, ...] or, without a batch, end to end."""
        taken = x[self.index] if isinstance(self.index, slice) else x.index_select(0, self.index)
        if self.batch is None:
            return taken
        if self.places is not None:
            count, longest = self.batch
            taken = x.new_zeros(count * longest, *x.shape[1:]).index_copy_(0, self.places, taken)
        return taken.unflatten(0, self.batch)

    def flat(self, y: Tensor) -> Tensor:
        """The tokens of what a kernel made of `take`, end to end."""
        if self.batch is None:
            return y
        return y.flatten(0, 1) if self.places is None else y.flatten(0, 1).index_select(0, self.places)


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionCall:
    """One kernel call: the queries of some tokens attend to the keys of some tokens."""

    queries: TokenSelection
    keys: TokenSelection
    kernel: Dense | Varlen


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionPlan:
    """The kernel calls for one packed row. own: each token with its own sequence; others: responses with their prompts."""

    own: tuple[AttentionCall, ...]
    others: tuple[AttentionCall, ...]


def attention_plan(groups: Sequence[GroupSizes], *, device: torch.device, varlen: bool) -> AttentionPlan:
    """Plans the attention of a row of these groups.

    A lone response continues its prompt's sequence. varlen: two calls of a kernel for sequences of any lengths serve all groups;
    otherwise each long sequence has its call, and short ones of similar length share one.
    """
    stretches, shared = _sequences(groups)
    if varlen:
        own = [_varlen(stretches, stretches, causal=True, device=device)]
        others = [_varlen([r for r, _ in shared], [p for _, p in shared], causal=False, device=device)] if shared else []
    else:
        blocks, rests = _blocks(stretches)
        own = [
            *(_dense(block, block, causal=True) for block in blocks if _size(block) > _SHORT),
            *_side_by_side([block for block in blocks if _size(block) <= _SHORT], device=device),
        ]
        others = [_dense(queries, keys, causal=False) for queries, keys in (*rests, *shared)]
    return AttentionPlan(own=tuple(own), others=tuple(others))


def image_plan(sizes: Sequence[int], *, device: torch.device, varlen: bool) -> dict[str, Any]:
    """The vision tower's keywords for images of these numbers of patches, which follow each other in one row.

    The tower splits its row at `cu_seqlens`, which stays on the CPU: on a GPU it would be read back in every layer. With a
    `plan` the row stays whole and one call serves all images. The choice is made for the whole row: a varlen call takes time by
    the sum of the squared sizes, a loop by the number of images too.
    """
    if varlen and sum(size * size for size in sizes) < _LARGE_IMAGE**2 * len(sizes):
        ends = list(accumulate(sizes, initial=0))
        images = list(pairwise(ends))
        own = TokenSelection(index=slice(None))
        kernel = _varlen_kernel(images, images, causal=False, device=device)
        plan = AttentionPlan(own=(AttentionCall(queries=own, keys=own, kernel=kernel),), others=())
        return {"cu_seqlens": torch.tensor([0, ends[-1]]), "plan": plan}
    return {"cu_seqlens": torch.tensor([0, *accumulate(sizes)]), "plan": None}


def window_plan(order: np.ndarray, ends: Sequence[int], *, device: torch.device, varlen: bool) -> dict[str, Any]:
    """The vision tower's keywords for its blocks that attend within windows; they are besides those of `image_plan`.

    order, ends: as a family's Windows gives them. The row stays whole: one call serves all windows, or each size of window has
    its call. An image's windows have four sizes at most, since those at its edges are smaller.
    """
    windows = list(pairwise(ends))
    if varlen:
        kernel = _varlen_kernel(windows, windows, causal=False, device=device)
        row = TokenSelection(index=slice(None))
        own = [AttentionCall(queries=row, keys=row, kernel=kernel)]
    else:
        own = [_together(list(alike), causal=False, device=device) for _, alike in groupby(sorted(windows, key=_size), key=_size)]
    return {
        "window_index": torch.from_numpy(order).to(device),
        "cu_window_seqlens": torch.tensor([0, ends[-1]]),
        "window_plan": AttentionPlan(own=tuple(own), others=()),
    }


def row_spans(groups: Sequence[GroupSizes]) -> list[tuple[Span, list[Span]]]:
    """Each group's place in the row: its prompt, and its responses right after it, in order. The one place that knows the order.

    >>> row_spans([(3, (2, 1)), (4, (5,))])
    [((0, 3), [(3, 5), (5, 6)]), ((6, 10), [(10, 15)])]
    """
    spans = []
    start = 0
    for prompt, responses in groups:
        ends = list(accumulate(responses, initial=start + prompt))
        spans.append(((start, start + prompt), list(pairwise(ends))))
        start = ends[-1]
    return spans


def _sequences(groups: Sequence[GroupSizes]) -> tuple[list[Span], list[tuple[Span, Span]]]:
    """The sequences that attend to themselves, in order; and, for each group of several responses, these and the prompt."""
    alone: list[Span] = []
    shared: list[tuple[Span, Span]] = []
    for prompt, responses in row_spans(groups):
        end = responses[-1][1] if responses else prompt[1]
        if len(responses) > 1:
            alone += [prompt, *responses]
            shared.append(((prompt[1], end), prompt))
        else:
            alone.append((prompt[0], end))
    return alone, shared


def _blocks(stretches: Sequence[Span]) -> tuple[list[Span], list[tuple[Span, Span]]]:
    """Sequences cut into blocks; and of each block after a sequence's first the keys that it has before itself."""
    blocks: list[Span] = []
    rests: list[tuple[Span, Span]] = []
    for start, end in stretches:
        cut = list(pairwise([*range(start, end, _BLOCK), end]))
        blocks += cut
        rests += [(block, (start, block[0])) for block in cut[1:]]
    return blocks, rests


def _dense(queries: Span, keys: Span, *, causal: bool) -> AttentionCall:
    rows = [TokenSelection(index=slice(*span), batch=(1, _size(span))) for span in (queries, keys)]
    return AttentionCall(queries=rows[0], keys=rows[1], kernel=Dense(causal=causal))


def _side_by_side(spans: Sequence[Span], *, device: torch.device) -> Iterator[AttentionCall]:
    """Short sequences, those of like length together: none is filled up to more than twice its length."""
    for _, alike in groupby(sorted(spans, key=_size), key=lambda span: _size(span).bit_length()):
        yield _together(list(alike), causal=True, device=device)


def _together(spans: Sequence[Span], *, causal: bool, device: torch.device) -> AttentionCall:
    """One call for these sequences, the longest last. Unless causal they are of one length: else filling would be attended to."""
    longest = _size(spans[-1])
    places = None
    if _size(spans[0]) < longest:
        places = torch.cat([torch.arange(_size(span)) + number * longest for number, span in enumerate(spans)]).to(device)
    rows = TokenSelection(index=_index(spans).to(device), batch=(len(spans), longest), places=places)
    return AttentionCall(queries=rows, keys=rows, kernel=Dense(causal=causal))


def _varlen(queries: Sequence[Span], keys: Sequence[Span], *, causal: bool, device: torch.device) -> AttentionCall:
    kernel = _varlen_kernel(queries, keys, causal=causal, device=device)
    rows = [slice(None), slice(None)] if causal else [_index(spans).to(device) for spans in (queries, keys)]
    return AttentionCall(queries=TokenSelection(index=rows[0]), keys=TokenSelection(index=rows[1]), kernel=kernel)


def _varlen_kernel(queries: Sequence[Span], keys: Sequence[Span], *, causal: bool, device: torch.device) -> Varlen:
    ends = [torch.tensor([0, *accumulate(map(_size, spans))], dtype=torch.int32).to(device) for spans in (queries, keys)]
    longest = (max(map(_size, queries)), max(map(_size, keys)))
    return Varlen(query_ends=ends[0], key_ends=ends[1], longest=longest, causal=causal)


def _index(spans: Sequence[Span]) -> Tensor:
    return torch.cat([torch.arange(*span) for span in spans])


def _size(span: Span) -> int:
    return span[1] - span[0]


class GroupAttention(torch.autograd.Function):
    """query [T, heads, d] and key, value [T, key heads, d] of a packed row to [T, heads, d]."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, scale: float) -> Tensor:
        out = torch.empty_like(query)
        log_sums = torch.empty(query.shape[:2], dtype=torch.float32, device=query.device)
        for call in plan.own:
            rows = call.queries.index
            out[rows], log_sums[rows] = _forward(call, query, key, value, scale)
        for call in plan.others:
            rows = call.queries.index
            piece, sums = _forward(call, query, key, value, scale)
            both = torch.logaddexp(log_sums[rows], sums)
            kept, added = (torch.exp(part - both)[..., None] for part in (log_sums[rows], sums))
            out[rows] = (out[rows] * kept + piece * added).to(out.dtype)
            log_sums[rows] = both
        ctx.save_for_backward(query, key, value, out, log_sums)
        ctx.plan, ctx.scale = plan, scale
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, log_sums = ctx.saved_tensors
        found = [torch.empty_like(x) for x in (query, key, value)]

        def pieces(call: AttentionCall) -> Iterator[tuple[Tensor, slice | Tensor, Tensor]]:
            q, k = call.queries, call.keys
            gradient, taken, of_all, sums = (q.take(x) for x in (gradients[0], query, out, log_sums))
            parts = call.kernel.backward(gradient, taken, of_all, sums, k.take(key), k.take(value), ctx.scale)
            for whole, rows, part in zip(found, (q, k, k), parts, strict=True):
                yield whole, rows.index, rows.flat(part)

        for whole, rows, part in chain.from_iterable(map(pieces, ctx.plan.own)):
            whole[rows] = part
        for whole, rows, part in chain.from_iterable(map(pieces, ctx.plan.others)):
            whole[rows] += part
        return (*found, None, None)


def _forward(call: AttentionCall, query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    out, sums = call.kernel.forward(call.queries.take(query), call.keys.take(key), call.keys.take(value), scale)
    return call.queries.flat(out), call.queries.flat(sums)


def group_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    plan: AttentionPlan,
    scaling: float,
    dropout: float = 0.0,
    **_: object,
) -> tuple[Tensor, None]:
    """Attention of a packed row.

    query: [1, heads, T, d]; key, value: [1, key heads, T, d]. Returns [1, T, heads, d], as transformers' attention does.
    """
    assert attention_mask is None and dropout == 0.0, "a packed row carries its mask in `plan` and knows no dropout"
    return GroupAttention.apply(*(x[0].transpose(0, 1) for x in (query, key, value)), plan, scaling)[None], None


def image_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    plan: AttentionPlan | None,
    scaling: float,
    **more: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention of images: of all of them by `plan`, or of one image without a plan. Shapes as in `group_attention`."""
    if plan is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **more)
    return group_attention(module, query, key, value, attention_mask, plan=plan, scaling=scaling, **more)


def window_attention(*states: Any, window_plan: AttentionPlan, plan: AttentionPlan | None, **more: Any) -> tuple[Tensor, None]:
    """Attention of a row of images, each patch with its window's. Arguments and shapes as in `group_attention`."""
    return group_attention(*states, plan=window_plan, **more)


AttentionInterface.register(GROUP_ATTENTION, group_attention)
AttentionInterface.register(WINDOW_ATTENTION, window_attention)
AttentionInterface.register(IMAGE_ATTENTION, image_attention)
