"""What a checkpoint holds of the policy: DeepSpeed's weights, moments and counters, in a form that any ranks and ZeRO stage read.

DeepSpeed's own checkpoint can only be loaded by as many ranks as wrote it. Its universal checkpoint can be loaded by others, but
one process has to convert it into a second copy on disk, and it leaves frozen parameters out and is bound to the ZeRO stage. So
the fp32 weights and their optimizer state are taken from where DeepSpeed keeps them; the attributes read here are its own.
Parameters have the names and the layout of transformers, in which experts that ranks share are one tensor. bf16 weights are not
saved: they are the rounded fp32 ones. Neither are frozen weights with LoRA, which are those of a model on disk.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain, repeat
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vlrl.distributed import reshape
from vlrl.distributed.reshape import Flat, Part
from vlrl.models.expert_parallel import expert_parallel_size, merged_parts, released_name

_COUNTERS = ("global_steps", "skipped_steps")  # global_samples counts backward passes, also those that try a token budget
_UNKNOWN = "policy.deepspeed: no checkpoint can be made of this optimizer"


class _Held(NamedTuple):
    """Elements of a parameter that this rank holds: `numel` from element `first` on, at `start` of a flat tensor."""

    parameter: Any
    first: int
    start: int
    numel: int


def save(engine: Any, folder: Path, rank: int, progress: Mapping[str, Any], *, with_frozen: bool = True) -> None:
    """Writes this rank's part into the folder. All ranks call it.

    progress: more plain values to keep; with_frozen: saves parameters that are not trained, too.
    """
    counters = {name: getattr(engine, name) for name in _COUNTERS}
    group = {key: value for key, value in _torch_optimizer(engine).param_groups[0].items() if key == "step"}  # of FusedAdam
    kept = {**progress, "counters": counters, "scheduled": engine.lr_scheduler.last_epoch, "group": group}
    reshape.save(folder, rank, list(flats_of(engine, with_frozen=with_frozen)), _sizes(engine, with_frozen), kept)


def load(engine: Any, folder: Path, rank: int, *, with_frozen: bool = True) -> dict[str, Any]:
    """Restores what `save` wrote, on any number of ranks and at any ZeRO stage; returns `progress`. All ranks call it."""
    optimizer = engine.optimizer
    if is_sharded := hasattr(optimizer, "fp32_partitioned_groups_flat"):
        optimizer.checkpoint_event_prologue()  # small parameters lie whole on each rank: their shards are filled first
    with torch.no_grad():
        progress = reshape.load(folder, rank, list(flats_of(engine, with_frozen=with_frozen)), _sizes(engine, with_frozen))
        _round_weights(optimizer)
    if is_sharded:
        optimizer.checkpoint_event_epilogue()
    for name in _COUNTERS:
        setattr(engine, name, progress["counters"][name])
    engine.lr_scheduler.last_epoch = progress["scheduled"]  # its rates are the run file's, for as many groups as there are now
    for group in _torch_optimizer(engine).param_groups:
        group.pop("step", None)
        group.update(progress["group"])
    return progress


def flats_of(engine: Any, *, with_frozen: bool = True) -> Iterator[Flat]:
    """All that this rank holds: the tensors that its optimizer steps, and, with_frozen, the frozen parameters.

    ValueError for an optimizer of DeepSpeed's whose layout is not known here.
    """
    names = {parameter: name for name, parameter in engine.module.named_parameters()}
    states = _torch_optimizer(engine).state
    for master, held, is_saved in _stepped(engine.optimizer):
        yield Flat(weight=master, parts=_parts(names, held), state=states[master], is_saved=is_saved)
    for parameter in names:
        if parameter.requires_grad or not with_frozen:
            continue
        if hasattr(parameter, "ds_tensor"):
            yield Flat(weight=parameter.ds_tensor, parts=_parts(names, [_shard(parameter)]))
        else:
            yield Flat(weight=parameter, parts=_parts(names, [_whole(parameter)]), is_saved=dist.get_rank() == 0)


def _stepped(optimizer: Any) -> Iterator[tuple[Tensor, list[_Held], bool]]:
    """Each tensor that the optimizer steps, what lies in it, and whether this rank saves it."""
    from deepspeed.runtime.bf16_optimizer import BF16_Optimizer
    from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    if getattr(optimizer, "swap_optimizer", False):
        raise ValueError(f"{_UNKNOWN}: optimizer state on NVMe; offload it to the CPU, or leave it on the device")
    match optimizer:
        case DeepSpeedZeroOptimizer_Stage3():  # each parameter in equal shards, the last one padded
            for group, master in zip(optimizer.fp16_groups, optimizer.fp32_partitioned_groups_flat, strict=True):
                starts = accumulate((parameter.partition_numel() for parameter in group), initial=0)
                yield master, [_shard(parameter, start) for parameter, start in zip(group, starts, strict=False)], True
        case DeepSpeedZeroOptimizer():  # all parameters in a row, the row in equal shards
            yield from zip(optimizer.single_partition_of_fp32_groups, map(_linked, optimizer.bit16_groups), repeat(True))
        case BF16_Optimizer():
            yield from zip(optimizer.fp32_groups_flat_partition, map(_linked, optimizer.bf16_groups), repeat(True))
        case torch.optim.Optimizer():  # ZeRO 0: each parameter whole on every rank
            for parameter in chain(*(group["params"] for group in optimizer.param_groups)):
                yield parameter, [_whole(parameter)], dist.get_rank() == 0
        case _:
            raise ValueError(f"{_UNKNOWN}: {type(optimizer).__name__}; leave policy.deepspeed.optimizer out")


def _linked(group: Iterable[Any]) -> list[_Held]:
    """What this rank's shard of a row of parameters holds of each of them."""
    links = [(parameter, parameter._hp_mapping) for parameter in group if parameter._hp_mapping]
    places = [(each, link.lp_fragment_address, link.hp_fragment_address) for each, link in links]
    return [_Held(each, first=here.start, start=there.start, numel=here.numel) for each, here, there in places]


def _shard(parameter: Any, start: int = 0) -> _Held:
    """This rank's shard of a parameter under ZeRO-3."""
    size = parameter.partition_numel()
    first = dist.get_rank(parameter.ds_process_group) * size
    return _Held(parameter, first=first, start=start, numel=min(size, parameter.ds_numel - first))


def _whole(parameter: nn.Parameter) -> _Held:
    return _Held(parameter, first=0, start=0, numel=parameter.numel())


def _parts(names: Mapping[nn.Parameter, str], held: Sequence[_Held]) -> list[Part]:
    return [
        Part(name=name, first=first, start=each.start + offset, numel=numel)
        for each in held
        if each.numel > 0
        for name, first, offset, numel in merged_parts(names[each.parameter], each.parameter, each.first, each.numel)
    ]


def _sizes(engine: Any, with_frozen: bool) -> dict[str, int]:
    """Elements of each parameter of the whole model, or of the trained ones, under transformers' names."""
    sizes: Counter[str] = Counter()
    for name, parameter in engine.module.named_parameters():
        if not (with_frozen or parameter.requires_grad):
            continue
        sizes[released_name(name)] += getattr(parameter, "ds_numel", parameter.numel()) * expert_parallel_size(parameter)
    return dict(sizes)


def _round_weights(optimizer: Any) -> None:
    """Makes the weights that the model computes with from the fp32 ones, as each update does."""
    if hasattr(optimizer, "update_lp_params"):  # ZeRO 1 and 2
        optimizer.update_lp_params()
        optimizer._hp_optimizer_states_linked = False  # the moments are new tensors
    elif hasattr(optimizer, "fp32_partitioned_groups_flat"):
        for master, held, _ in _stepped(optimizer):
            for each in held:
                shard = each.parameter.ds_tensor
                shard.data.copy_(master[each.start : each.start + shard.numel()])


def _torch_optimizer(engine: Any) -> Any:
    """The optimizer that DeepSpeed's wraps, or itself."""
    return getattr(engine.optimizer, "optimizer", engine.optimizer)
