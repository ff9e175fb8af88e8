"""Group attention: a prompt once, then its G responses, in one row of tokens.

The prompt attends to itself causally; each response attends to the prompt and, causally, to itself, never to another
response or group. Linear layers and the vision tower then see each prompt once, and attention does no more work than G
separate sequences would. Registered with transformers as `vlrl_group`; the layout reaches it as the keyword `groups`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

GROUP_ATTENTION = "vlrl_group"


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupLayout:
    """Where one group lies in a packed row of T tokens.

    start, prompt: the prompt is [start, start + prompt).
    rows: [G, R] index in the row of each response's tokens; short responses are filled up with a repeated index.
    valid: [G, R] False on that filling.
    visible: [R, prompt + R] what a response's token sees: all of the prompt, and its own response up to itself.
    """

    start: int
    prompt: int
    rows: Tensor
    valid: Tensor
    visible: Tensor

    @classmethod
    def of(cls, start: int, prompt: int, responses: Sequence[int]) -> "GroupLayout":
        """The layout of a prompt of `prompt` tokens at `start`, followed by responses of the given lengths."""
        lengths = torch.tensor(list(responses), dtype=torch.long)
        longest = max(responses, default=0)
        offsets = torch.arange(longest)
        starts = start + prompt + lengths.cumsum(0) - lengths
        valid = offsets < lengths[:, None]
        own = torch.ones(longest, longest, dtype=torch.bool).tril()
        return cls(
            start=start,
            prompt=prompt,
            rows=torch.where(valid, starts[:, None] + offsets, starts[:, None]),
            valid=valid,
            visible=torch.cat([torch.ones(longest, prompt, dtype=torch.bool), own], dim=1),
        )

    def to(self, device: torch.device) -> "GroupLayout":
        return GroupLayout(
            start=self.start,
            prompt=self.prompt,
            rows=self.rows.to(device),
            valid=self.valid.to(device),
            visible=self.visible.to(device),
        )


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
    pieces = [piece for group in groups for piece in _attend(group, query, key, value, scaling)]
    return torch.cat(pieces, dim=1).transpose(0, 1)[None], None


def _attend(group: GroupLayout, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> list[Tensor]:
    """[heads, prompt, d] and [heads, sum of responses, d]: the group's outputs in the order of the row."""
    prompt = slice(group.start, group.start + group.prompt)
    q, k, v = query[:, :, prompt], key[:, :, prompt], value[:, :, prompt]
    pieces = [F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling)[0]]
    if group.rows.numel():
        count = group.rows.shape[0]
        own_q, own_k, own_v = (x[0][:, group.rows].transpose(0, 1) for x in (query, key, value))  # [G, heads, R, d]
        keys = torch.cat([k.expand(count, -1, -1, -1), own_k], dim=2)
        values = torch.cat([v.expand(count, -1, -1, -1), own_v], dim=2)
        out = F.scaled_dot_product_attention(own_q, keys, values, attn_mask=group.visible, scale=scaling)
        pieces.append(out.transpose(0, 1)[:, group.valid])
    return pieces


AttentionInterface.register(GROUP_ATTENTION, group_attention)
