"""Packs groups into one row of tokens, without padding: each prompt with its images once, then its responses.

A Pack is the input of one forward. DeepSpeed's ZeRO needs every rank to run the same parts of the model, images or not; so a pack
without an image ends in a filler, an image of zero pixels that takes no part in the loss.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from vlrl.models.attention import GroupSizes, row_spans
from vlrl.models.processor import EncodedPrompt


@dataclass(frozen=True, kw_only=True, slots=True)
class Pack:
    """One row of T tokens holding whole groups, and the N response tokens whose log-probs are asked for.

    tokens: [T]; positions: [3, T] MRoPE; pixels: [patches, patch size]; grid: [images, 3]; groups: their sizes, in order.
    predictors: [N] index of the hidden state that predicts each response token; targets: [N] those tokens.
    sequence: [N] which of the num_sequences responses a token belongs to, in the order of the groups.
    filler: the last `filler` of the N tokens are not responses. A Policy's TokenScores leave them out.
    """

    tokens: Tensor
    positions: Tensor
    pixels: Tensor
    grid: Tensor
    groups: tuple[GroupSizes, ...]
    predictors: Tensor
    targets: Tensor
    sequence: Tensor
    num_sequences: int
    filler: int = 0

    def to(self, device: torch.device) -> "Pack":
        moved = {name: getattr(self, name).to(device) for name in _TENSORS}
        return replace(self, **moved)


_TENSORS = ("tokens", "positions", "pixels", "grid", "predictors", "targets", "sequence")

PackedGroup = tuple[EncodedPrompt, Sequence[Sequence[int]]]
"""A prompt and the tokens of each of its responses."""


def pack_groups(items: Sequence[PackedGroup], filler: EncodedPrompt) -> Pack:
    """Packs the groups into one row. An empty list gives the filler alone, a forward that costs and changes nothing."""
    has_image = any(len(prompt.grid) for prompt, _ in items)
    row = list(items) if has_image else [*items, (filler, [[0]])]
    groups = tuple((len(prompt.tokens), tuple(map(len, responses))) for prompt, responses in row)
    tokens, positions, predictors, targets = [], [], [], []
    for (prompt, responses), ((_, end_of_prompt), spans) in zip(row, row_spans(groups), strict=True):
        tokens.append(prompt.tokens)
        positions.append(prompt.positions)
        for response, (start, end) in zip(responses, spans, strict=True):
            assert end > start, "a response has at least its end token"
            tokens.append(torch.tensor(response))
            positions.append((prompt.next_position + torch.arange(end - start)).expand(3, end - start))
            predictors.append(torch.cat([torch.tensor([end_of_prompt - 1]), torch.arange(start, end - 1)]))
            targets.append(tokens[-1])
    lengths = [len(response) for response in targets]
    return Pack(
        tokens=_joined(tokens),
        positions=_joined(positions, axis=1),
        pixels=_joined([prompt.pixels for prompt, _ in row]),
        grid=_joined([prompt.grid for prompt, _ in row]),
        groups=groups,
        predictors=_joined(predictors),
        targets=_joined(targets),
        sequence=torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths)),
        num_sequences=len(lengths) - (not has_image),
        filler=0 if has_image else 1,
    )


def _joined(parts: Sequence[Tensor], axis: int = 0) -> Tensor:
    """torch.cat without torch's thread pool: packs are made in a background thread, where torch would start a second pool, and
    with more OpenMP threads than cores every operation takes longer (an update took a quarter longer)."""
    return torch.from_numpy(np.concatenate([part.numpy() for part in parts], axis))


def prompt_cost(prompt: EncodedPrompt, tokens_per_patch: float) -> int:
    """The prompt's share of a token budget: its tokens, and tokens_per_patch for each patch of its images, rounded up."""
    return len(prompt.tokens) + math.ceil(tokens_per_patch * len(prompt.pixels))


def split_to_budget(groups: Sequence[tuple[int, Sequence[int]]], budget: int) -> list[list[tuple[int, slice]]]:
    """Splits groups, in order, into micro-batches of at most `budget` tokens; a group too large for one is split by responses.

    groups: (cost of the prompt, tokens of each response), see `prompt_cost`. Returns, for each micro-batch, (number of the
    group, its responses). A split group's prompt is repeated, which leaves the gradient as it is. A single response that exceeds
    the budget with its prompt still gets a micro-batch of its own.

    >>> split_to_budget([(4, [3, 3, 3]), (2, [5])], budget=10)
    [[(0, slice(0, 2, None))], [(0, slice(2, 3, None))], [(1, slice(0, 1, None))]]
    """
    micro_batches: list[list[tuple[int, slice]]] = []
    room = 0
    for number, (prompt, responses) in enumerate(groups):
        for piece in _split_group(prompt, responses, budget):
            cost = prompt + sum(responses[piece])
            if not micro_batches or cost > room:
                micro_batches.append([])
                room = budget
            micro_batches[-1].append((number, piece))
            room -= cost
    return micro_batches


def _split_group(prompt: int, responses: Sequence[int], budget: int) -> list[slice]:
    starts: list[int] = []
    room = 0
    for number, response in enumerate(responses):
        if not starts or response > room:
            starts.append(number)
            room = budget - prompt
        room -= response
    return [slice(first, last) for first, last in zip(starts, [*starts[1:], len(responses)], strict=True)]
