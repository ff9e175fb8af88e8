"""How far an update moved each part of the model: vision tower, merger, language model, router.

Gradients can't be read alike under every ZeRO stage; weights can. Each rank compares the fp32 weights that it keeps itself.
"""

import math
from collections.abc import Callable, Iterator

from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from vlrl.distributed.ranks import Ranks


class Changes:
    """Keeps a copy of this rank's share of the trained weights, 4 bytes each, to compare them with after the update.

    part_of: the part that a parameter belongs to, by its name.
    """

    def __init__(self, model: nn.Module, ranks: Ranks, *, part_of: Callable[[str], str], zero_stage: int) -> None:
        self._model, self._ranks, self._part_of, self._zero_stage = model, ranks, part_of, zero_stage
        self._before = {name: weights.clone() for name, weights in self._kept()}

    def since(self) -> dict[str, float]:
        """By part: the norm of its change over the norm that it had. All ranks call it."""
        moved: dict[str, list[Tensor]] = {}
        had: dict[str, list[Tensor]] = {}
        for name, weights in self._kept():
            part, before = self._part_of(name), self._before[name]
            moved.setdefault(part, []).append(weights - before)
            had.setdefault(part, []).append(before)
        moved_sum, had_sum = (
            self._ranks.sum({part: float(get_total_norm(weights)) ** 2 for part, weights in each.items()})
            for each in (moved, had)
        )
        return {part: math.sqrt(moved_sum[part] / had_sum[part]) for part in sorted(had_sum) if had_sum[part]}

    def _kept(self) -> Iterator[tuple[str, Tensor]]:
        """This rank's share of each trained parameter, so that each weight is some rank's once."""
        for name, parameter in self._model.named_parameters():
            if not parameter.requires_grad:
                continue
            share = _share(parameter, self._zero_stage, is_first=self._ranks.is_first)
            if share is not None:
                yield name, share.detach().float()


def _share(parameter: nn.Parameter, zero_stage: int, *, is_first: bool) -> Tensor | None:
    if zero_stage == 0:
        return parameter if is_first else None  # every rank has them all
    if zero_stage == 3:
        from deepspeed.utils import safe_get_local_fp32_param

        return safe_get_local_fp32_param(parameter)
    mapping = parameter._hp_mapping  # type: ignore[attr-defined]  # DeepSpeed's link from a weight to its piece of the fp32 copy
    return None if mapping is None else mapping.get_hp_fragment()
