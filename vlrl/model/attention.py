"""Group attention: a prompt once, then its G responses, in one row of tokens.

The prompt attends to itself causally; each response attends to the prompt and, causally, to itself, never to another
response or group. Linear layers and the vision tower then see each prompt once, and attention does no more work than G
separate sequences would. Registered with transformers as `vlrl_group`; the layout reaches it as the keyword `groups`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

GROUP_ATTENTION = "vlrl_group"


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupLayout:
    """One group of a packed row: its prompt's tokens, then those of its G responses.

    sizes: the lengths of the stretches that it is cut into: (prompt, all responses), or one stretch where a single response
    makes it a plain causal sequence.
    rows: [G, R] index among the responses' tokens; short responses are filled up with a repeated index.
    valid: [G, R] False on that filling.
    visible: [R, prompt + R] what a response's token sees: all of the prompt, and its own response up to itself.
    """

    sizes: tuple[int, ...]
    rows: Tensor
    valid: Tensor
    visible: Tensor

    @classmethod
    def of(cls, prompt: int, responses: Sequence[int]) -> "GroupLayout":
        """The layout of a prompt of `prompt` tokens followed by responses of the given lengths."""
        lengths = torch.tensor(responses, dtype=torch.long)
        longest = max(responses)
        offsets = torch.arange(longest)
        starts = lengths.cumsum(0) - lengths
        valid = offsets < lengths[:, None]
        own = torch.ones(longest, longest, dtype=torch.bool).tril()
        return cls(
            sizes=(prompt, sum(responses)) if len(responses) > 1 else (prompt + longest,),
            rows=torch.where(valid, starts[:, None] + offsets, starts[:, None]),
            valid=valid,
            visible=torch.cat([torch.ones(longest, prompt, dtype=torch.bool), own], dim=1),
        )

    def to(self, device: torch.device) -> "GroupLayout":
        moved = {name: getattr(self, name).to(device) for name in ("rows", "valid", "visible")}
        return replace(self, **moved)


def group_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    groups: Sequence[GroupLayout],
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: object,
) -> tuple[Tensor, None]:
    """Attention of a packed row.

    query: [1, heads, T, d]; key, value: [1, key heads, T, d]. Returns [1, T, heads, d], as transformers' attention does.
    """
    assert attention_mask is None and dropout == 0.0, "a packed row carries its mask in `groups` and knows no dropout"
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    # Cut once: a slice for each group would give backward a gradient of the whole row for each.
    sizes = [size for group in groups for size in group.sizes]
    stretches: Iterator[tuple[Tensor, ...]] = zip(*(x[0].split(sizes, dim=1) for x in (query, key, value)), strict=True)
    pieces: list[Tensor] = []
    for group in groups:
        prompt = next(stretches)
        pieces.append(F.scaled_dot_product_attention(prompt[0], prompt[1], prompt[2], is_causal=True, scale=scaling))
        if len(group.sizes) > 1:
            pieces.append(_responses(group, prompt, next(stretches), scaling))
    return torch.cat(pieces, dim=1).transpose(0, 1)[None], None


def _responses(group: GroupLayout, prompt: tuple[Tensor, ...], responses: tuple[Tensor, ...], scale: float | None) -> Tensor:
    """[heads, sum of responses, d] for query, key and value of the prompt and of the responses, each [heads, tokens, d]."""
    count = len(group.rows)
    query, key, value = (x[:, group.rows].transpose(0, 1) for x in responses)  # [G, heads, R, d]
    keys = torch.cat([prompt[1].expand(count, -1, -1, -1), key], dim=2)
    values = torch.cat([prompt[2].expand(count, -1, -1, -1), value], dim=2)
    out = F.scaled_dot_product_attention(query, keys, values, attn_mask=group.visible, scale=scale)
    return out.transpose(0, 1)[:, group.valid]


AttentionInterface.register(GROUP_ATTENTION, group_attention)
