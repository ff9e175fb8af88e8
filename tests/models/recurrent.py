"""Tiny models with recurrent layers, and the delta rule token by token, also as flash-linear-attention would be called."""

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

import vlrl.models.cuda_wheels  # noqa: F401 (before transformers)

# isort: split
from transformers.models.qwen3_5.modeling_qwen3_5 import torch_recurrent_gated_delta_rule

from tests.conftest import TEXTS
from vlrl.models.config_json import FAMILIES
from vlrl.models.tiny import build_tiny

KINDS = ("qwen3_5", "qwen3_5_moe")


def write_recurrent(folder: Path, kind: str) -> str:
    """A model whose faults show: weights twice the initialiser's and more, norms and biases away from 1 and 0."""
    family = FAMILIES[kind]

    def louder(name: str, weight: Any) -> None:
        if weight.ndim > 1:
            weight.mul_(5.0 if "conv1d" in name else 2.0)
        elif not name.endswith("A_log"):
            weight.add_(0.1 * torch.randn_like(weight))
        family.set_random(name, weight)

    build_tiny(folder, TEXTS, family=replace(family, set_random=louder))
    return str(folder)


def delta_rule_one_by_one(lengths, query, key, value, g, beta, states):
    """Outputs and last states, each sequence for itself and token by token."""
    shared = value.shape[1] // key.shape[1]
    query, key = (x.repeat_interleave(shared, dim=1) for x in (query, key))
    outputs, last = [], []
    pieces = zip(*(x.split(lengths) for x in (query, key, value, g, beta)), strict=True)
    for (q, k, v, decay, b), state in zip(pieces, states.split(1), strict=True):
        out, end = torch_recurrent_gated_delta_rule(
            *(x[None] for x in (q, k, v)), g=decay[None], beta=b[None], initial_state=state, output_final_state=True,
            use_qk_l2norm_in_kernel=True,
        )  # fmt: skip
        outputs.append(out[0])
        last.append(end)
    return torch.cat(outputs), torch.cat(last)


def stand_in_fla(monkeypatch: Any) -> list[tuple[int, bool]]:
    """flash-linear-attention's function by its keywords and shapes, on a CPU. Returns the list of its calls to come: how many
    sequences each has, and whether they start from states."""
    calls: list[tuple[int, bool]] = []

    def chunk_gated_delta_rule(
        q, k, v, g, beta, *, initial_state, output_final_state, use_qk_l2norm_in_kernel, cu_seqlens, cu_seqlens_cpu
    ):
        assert len(q) == len(k) == len(v) == len(g) == len(beta) == 1 and use_qk_l2norm_in_kernel
        assert cu_seqlens.dtype == torch.int64 and cu_seqlens[-1] == q.shape[1] and cu_seqlens.equal(cu_seqlens_cpu)
        lengths = cu_seqlens.diff().tolist()
        calls.append((len(lengths), initial_state is not None))
        states = torch.zeros(len(lengths), v.shape[2], k.shape[3], v.shape[3]) if initial_state is None else initial_state
        assert len(states) == len(lengths)
        out, last = delta_rule_one_by_one(lengths, q[0], k[0], v[0], g[0], beta[0], states)
        return out[None], last if output_final_state else None

    for name in ("fla", "fla.ops", "fla.ops.gated_delta_rule"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(sys.modules["fla.ops.gated_delta_rule"], "chunk_gated_delta_rule", chunk_gated_delta_rule, raising=False)
    return calls
