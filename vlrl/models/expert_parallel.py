"""Expert parallelism of MoE models by DeepSpeed's AutoEP, and the gathering of all experts for weight sync and export.

DeepSpeed replaces each sparse block by one that holds a rank's share of the experts and sends tokens to their ranks and back.
Its presets do not cover transformers' fused experts; the settings here do.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vlrl.models.config_json import family_of

Named = tuple[str, nn.Parameter]

_EXPERTS = re.compile(r"(.*\.experts\.)w([123])")
_DEEPSPEED_NAMES = {
    ".router.gate.": ".gate.",
    ".shared_experts.": ".shared_expert.",
    ".shared_experts_gate.": ".shared_expert_gate.",
}
"""Its names for modules of a sparse block, to transformers'."""


def expert_parallel_settings(config: Any, ranks: int) -> dict[str, Any]:
    """DeepSpeed's expert_parallel block for a MoE model whose experts are divided over `ranks`. config: of transformers."""
    experts = family_of(config.model_type).experts
    assert experts, "preflight refuses expert parallelism for a dense model"
    return {
        "enabled": True,
        "autoep_size": ranks,
        "top_k": config.text_config.num_experts_per_tok,
        **experts.expert_parallel,
    }


def expert_parallel_size(parameter: nn.Parameter) -> int:
    """The number of ranks that share a parameter's experts; 1 if each rank has all of it."""
    if getattr(parameter, "allreduce", True):
        return 1
    return dist.get_world_size(_group(parameter))


def gather_experts(named: Iterable[Named]) -> Iterator[tuple[str, Tensor]]:
    """The parameters under transformers' names, experts gathered from all ranks. All ranks call it, with whole blocks."""
    halves: dict[str, Tensor] = {}
    for name, parameter in named:
        found = _EXPERTS.fullmatch(name)
        if found is None:
            yield released_name(name), parameter.detach()
            continue
        halves[found[2]] = _gather(parameter)
        if len(halves) == 3:
            yield f"{found[1]}gate_up_proj", torch.cat([halves.pop("1"), halves.pop("3")], dim=1)
            yield f"{found[1]}down_proj", halves.pop("2")


def released_name(name: str) -> str:
    """The name that transformers has for a parameter, or for the one that it becomes a part of.

    >>> released_name("model.language_model.layers.1.mlp.router.gate.weight")
    'model.language_model.layers.1.mlp.gate.weight'
    >>> released_name("model.language_model.layers.1.mlp.shared_experts_gate.weight")
    'model.language_model.layers.1.mlp.shared_expert_gate.weight'
    """
    if found := _EXPERTS.fullmatch(name):
        return found[1] + ("down_proj" if found[2] == "2" else "gate_up_proj")
    for theirs, released in _DEEPSPEED_NAMES.items():
        name = name.replace(theirs, released)
    return name


def merged_parts(name: str, parameter: Any, first: int, numel: int) -> Iterator[tuple[str, int, int, int]]:
    """Where elements of a parameter lie in the parameter of transformers that it is a part of.

    parameter: this rank's share of the experts, or any other parameter, of which `numel` elements count, from `first` on. Yields
    for each piece its name and first element there, how many elements come before it, and how many it has.
    """
    found = _EXPERTS.fullmatch(name)
    shape = getattr(parameter, "ds_shape", parameter.shape)
    if found is None:
        yield released_name(name), first, 0, numel
        return
    expert = shape[1] * shape[2]
    first += _expert_rank(parameter) * shape[0] * expert
    if found[2] == "2":
        yield released_name(name), first, 0, numel
        return
    done = 0
    while done < numel:  # an expert's gate_up_proj is its w1, then its w3
        number, place = divmod(first + done, expert)
        length = min(expert - place, numel - done)
        yield released_name(name), (2 * number + (found[2] == "3")) * expert + place, done, length
        done += length


def _expert_rank(parameter: Any) -> int:
    return 0 if getattr(parameter, "allreduce", True) else dist.get_rank(_group(parameter))


def _gather(parameter: nn.Parameter) -> Tensor:
    """[E, ...] of the ranks' [E / ranks, ...], in the order of the ranks, which is that of the experts."""
    share = parameter.detach().contiguous()
    experts = share.new_empty((len(share) * expert_parallel_size(parameter), *share.shape[1:]))
    dist.all_gather_into_tensor(experts, share, group=_group(parameter))
    return experts


def _group(parameter: Any) -> Any:
    from deepspeed.utils import groups

    return groups._get_expert_parallel_group(parameter.group_name)
