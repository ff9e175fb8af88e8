"""Records, compares and replays the experts that an MoE model sends each token to.

Between the old policy and the updated one, and between engine and trainer, some tokens change experts, and their ratio jumps for
that alone. Replayed, a token goes to the experts of the old policy (R2, arXiv 2512.01374) or of the engine (R3, 2510.11370),
weighted by the probabilities that the router gives them now, through which its gradient flows. A dense model has no router and
nothing here acts.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vlrl.models.attention import row_spans
from vlrl.models.packing import Pack

Routes = dict[str, Tensor]
"""Each router's choices by its module's name: [tokens, experts a token] of a packed row, the filler's too. A choice below 0
leaves the token to its router."""


_LAYER = re.compile(r"layers\.(\d+)\.")


def engine_routes(pack: Pack, routes: Sequence[np.ndarray]) -> Tensor:
    """[tokens of the pack, layers, experts a token], -1 for tokens whose routes are unknown.

    routes: of each response in the pack's order, as Rollout has them. A prompt's are taken from its first response; a response's
    last token went through no layer; the filler has none.
    """
    found = torch.full((len(pack.tokens), *routes[0].shape[1:]), -1, dtype=torch.int32)
    remaining = [torch.from_numpy(each.astype(np.int32)) for each in reversed(routes)]
    for (start, end), responses in row_spans(pack.groups):
        if remaining:
            found[start:end] = remaining[-1][: end - start]
        for first, last in responses[: len(remaining)]:
            found[first : last - 1] = remaining.pop()[end - start :]
    return found


class Routing:
    """Hooks on a model's routers, the modules of class `router`; None for a dense model.

    choices: those of the last forward, which a recompute in the backward repeats.
    """

    def __init__(self, model: nn.Module, router: type[Any] | None) -> None:
        self.choices: Routes = {}
        self._replayed: Routes | None = None
        self._gaps: list[Tensor] | None = None
        self._num_experts = 0
        self._names: list[str] = []
        for name, module in model.named_modules():
            if router and isinstance(module, router):
                self._num_experts = module.num_experts
                self._names.append(name)
                module.register_forward_hook(self._hook(name))

    @contextmanager
    def replay(self, routes: Routes | None) -> Iterator[None]:
        """Sends tokens to these experts, in the forward and in a recompute: it must last until after the backward.

        None: to those that the routers choose.
        """
        self._replayed = routes
        try:
            yield
        finally:
            self._replayed = None

    @contextmanager
    def apart(self) -> Iterator[None]:
        """In the block routers choose for themselves, and nothing is recorded: `choices` stay those of the pass before."""
        kept = self.choices, self._replayed
        self.choices, self._replayed = {}, None
        try:
            yield
        finally:
            self.choices, self._replayed = kept

    @contextmanager
    def gaps(self) -> Iterator[list[Tensor]]:
        """In the block each router's forward adds [tokens] gaps between the probabilities of the last chosen expert and of the
        next one. Kernels whose rounding is larger than a gap may send the token to different experts.
        """
        self._gaps = []
        try:
            yield self._gaps
        finally:
            self._gaps = None

    def by_router(self, routes: Tensor | None) -> Routes | None:
        """[tokens, layers, experts a token] as each router's routes; None for None."""
        return None if routes is None else {name: routes[:, int(_LAYER.findall(name)[-1])] for name in self._names}

    def load(self) -> float | None:
        """The busiest expert's load in the last forward, as a multiple of the mean load of its router's experts."""
        if not self.choices:
            return None
        counts = torch.stack([self._counts(chosen.flatten()) for chosen in self.choices.values()])
        return float((counts.amax(1) / counts.sum(1)).amax()) * self._num_experts  # the one wait for the device

    def changed(self, routes: Routes) -> float | None:
        """The share of the last forward's choices that are not among these, those of the old policy."""
        if not routes:
            return None
        kept = [(self.choices[name][..., None] == routes[name][..., None, :]).any(-1) for name in routes]
        return 1.0 - float(torch.stack([each.sum() for each in kept]).sum()) / sum(each.numel() for each in kept)

    def _counts(self, chosen: Tensor) -> Tensor:
        """How many of the choices went to each expert. torch.bincount would wait for the device to learn its largest input."""
        return chosen.new_zeros(self._num_experts).scatter_add_(0, chosen, torch.ones_like(chosen))

    def _hook(self, name: str):
        def hook(module: nn.Module, _: object, output: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor] | None:
            logits, _, chosen = output
            self.choices[name] = chosen.detach()
            if self._gaps is not None and chosen.shape[-1] < self._num_experts:
                best = torch.softmax(logits.detach().float(), dim=-1).topk(chosen.shape[-1] + 1, dim=-1).values
                self._gaps.append((best[..., -2] - best[..., -1]).flatten())
            if self._replayed is None:
                return None
            old = self._replayed[name].to(chosen)
            old = torch.where(old < 0, chosen, old)
            kept = torch.softmax(logits, dim=-1, dtype=torch.float32).gather(-1, old)
            return logits, (kept / kept.sum(dim=-1, keepdim=True)).to(logits.dtype), old

        return hook
