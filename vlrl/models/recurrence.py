"""Group packing through recurrent layers (Gated DeltaNet): a prompt's state once, each response from a fork of it.

A recurrent layer passes a state from token to token, in place of attention. In a packed row the prompts start without one; each
response starts from the state after its prompt. Likewise the layer's short convolution: a response's first tokens see the last
inputs of its prompt, not those of the response before it in the row. The projections run over the whole row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, pad, silu, softplus

from vlrl.models.attention import GroupSizes, Span, row_spans
from vlrl.models.delta_rule import Chunked, Varlen, delta_rule


@dataclass(frozen=True, kw_only=True, slots=True)
class Sequences:
    """Sequences of a row's tokens: index: [t] which tokens, end to end; rule: the delta rule for their lengths."""

    index: Tensor
    rule: Chunked | Varlen


@dataclass(frozen=True, kw_only=True, slots=True)
class RecurrencePlan:
    """How a recurrent layer computes one packed row of T tokens.

    inputs: [T'] tokens that the convolution takes, T for zeros; outputs: [T] which of its outputs is each token's.
    first: sequences that start without a state, forked: those that start from the state after one of the first; forks: [forked]
    which one. order: [T] where each of the row's tokens is among the tokens of first, then forked.
    """

    inputs: Tensor
    outputs: Tensor
    first: Sequences
    forked: Sequences | None
    forks: Tensor
    order: Tensor


def recurrence_plan(groups: Sequence[GroupSizes], *, width: int, device: torch.device) -> RecurrencePlan:
    """Plans a row of these groups. width: inputs that the convolution sees, a token's own among them.

    A lone response continues its prompt.
    """
    first: list[Span] = []
    forked: list[tuple[Span, int]] = []
    for (start, end), responses in row_spans(groups):
        if len(responses) > 1:
            forked += [(response, len(first)) for response in responses]
            first.append((start, end))
        else:
            first.append((start, responses[0][1] if responses else end))
    total = max([first[-1][1], *(end for (_, end), _ in forked)])
    inputs, outputs = _convolution([*((span, None) for span in first), *((span, first[n]) for span, n in forked)], width, total)
    index = _index([*first, *(span for span, _ in forked)])
    return RecurrencePlan(
        inputs=_on(inputs, device),
        outputs=_on(outputs, device),
        first=_sequences(first, device),
        forked=_sequences([span for span, _ in forked], device) if forked else None,
        forks=_on(np.array([number for _, number in forked], np.int64), device),
        order=_on(np.argsort(index), device),
    )


def _convolution(sequences: Sequence[tuple[Span, Span | None]], width: int, total: int) -> tuple[np.ndarray, np.ndarray]:
    """inputs, outputs of a plan. sequences: each with the one that comes before it."""
    inputs: list[np.ndarray] = []
    outputs = np.empty(total, np.int64)
    laid = 0
    for (start, end), prompt in sequences:
        before = np.arange(max(prompt[0], prompt[1] - width + 1), prompt[1]) if prompt else np.empty(0, np.int64)
        nothing = np.full(width - 1 - len(before), total)
        inputs += [nothing, before, np.arange(start, end)]
        outputs[start:end] = np.arange(laid, laid + end - start)  # output i is of inputs i to i + width - 1
        laid += width - 1 + end - start
    return np.concatenate(inputs), outputs


def _sequences(spans: Sequence[Span], device: torch.device) -> Sequences:
    return Sequences(index=_on(_index(spans), device), rule=delta_rule([end - start for start, end in spans], device))


def _index(spans: Sequence[Span]) -> np.ndarray:
    return np.concatenate([np.arange(*span) for span in spans])


def _on(index: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(index).to(device)


def gated_delta_net(layer: Any, hidden_states: Tensor, *, recurrence: RecurrencePlan, **_: object) -> Tensor:
    """The forward of transformers' Gated DeltaNet `layer` for a packed row. hidden_states: [1, T, hidden], as the result."""
    x = hidden_states[0]
    mixed, z = layer.in_proj_qkv(x), layer.in_proj_z(x).unflatten(-1, (-1, layer.head_v_dim))
    g = -layer.A_log.float().exp() * softplus(layer.in_proj_a(x).float() + layer.dt_bias)
    beta = layer.in_proj_b(x).sigmoid()
    laid = pad(mixed, (0, 0, 0, 1)).index_select(0, recurrence.inputs).T[None]
    mixed = silu(conv1d(laid, layer.conv1d.weight, layer.conv1d.bias, groups=layer.conv_dim))[0].T
    mixed = mixed.index_select(0, recurrence.outputs)
    query, key, value = mixed.split([layer.key_dim, layer.key_dim, layer.value_dim], dim=-1)
    query, key = (y.unflatten(-1, (-1, layer.head_k_dim)) for y in (query, key))
    inputs = (query, key, value.unflatten(-1, (-1, layer.head_v_dim)), g, beta)

    def run(sequences: Sequences, states: Tensor | None, last: bool) -> tuple[Tensor, Tensor | None]:
        return sequences.rule(*(y.index_select(0, sequences.index) for y in inputs), states=states, last=last)

    out, states = run(recurrence.first, None, recurrence.forked is not None)
    if recurrence.forked is not None:
        assert states is not None
        out = torch.cat([out, run(recurrence.forked, states.index_select(0, recurrence.forks), False)[0]])
    out = out.index_select(0, recurrence.order)
    return layer.out_proj(layer.norm(out.flatten(0, 1), z.flatten(0, 1)).view(len(x), -1))[None]


def fork_states(model: nn.Module, kind: type[nn.Module]) -> None:
    """Gives the model's recurrent layers, the modules of class `kind`, the forward for packed rows."""
    layers: list[Any] = [module for module in model.modules() if isinstance(module, kind)]
    for layer in layers:
        layer.forward = partial(gated_delta_net, layer)


def convolution_width(model: Any) -> int | None:
    """The width of the recurrent layers' convolution; None for a model that has none.

    Raises ValueError if one of its layers is not prepared for packed rows: there responses would see one another.
    """
    ready = [m for m in model.modules() if getattr(m.forward, "func", None) is gated_delta_net]
    recurrent = sum(kind == "linear_attention" for kind in getattr(model.config.text_config, "layer_types", None) or ())
    if recurrent != len(ready):
        raise ValueError(
            f"{len(ready)} of this model's {recurrent} recurrent layers compute a packed row with a state for each response; "
            "in the others responses would see one another: load the model with vlrl.models.checkpoint_io.load_model"
        )
    return ready[0].conv_kernel_size if ready else None
