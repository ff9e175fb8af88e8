"""The settings that would make a run fit: found by planning the run again with each, alone and then together with others."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

from vlrl.memory.plan import Machine, MemoryPlan, shortages

_MOST_CHANGES = 3
Change = tuple[str, MemoryPlan]


def remedy(plan: MemoryPlan) -> str:
    """The fewest changes with which the plan fits, as "set policy.zero_stage: 3 and use 16 GPUs"; "" if there are none."""
    for number in range(1, _MOST_CHANGES + 1):
        for names in combinations(_KINDS, number):
            for said, changed in _changed(plan, names):
                if not shortages(changed):
                    return said
    return ""


def _changed(plan: MemoryPlan, names: tuple[str, ...]) -> Iterator[Change]:
    if not names:
        yield "", plan
        return
    for said, changed in _KINDS[names[0]](plan):
        for more, all_changed in _changed(changed, names[1:]):
            yield f"{said} and {more}" if more else said, all_changed


def _with(plan: MemoryPlan, section: str, **settings: object) -> MemoryPlan:
    changed = getattr(plan.config, section).model_copy(update=settings)
    return MemoryPlan(config=plan.config.model_copy(update={section: changed}), sizes=plan.sizes, machine=plan.machine)


def _checkpointing(plan: MemoryPlan) -> Iterator[Change]:
    if not plan.config.policy.gradient_checkpointing:
        yield "set policy.gradient_checkpointing: true", _with(plan, "policy", gradient_checkpointing=True)


def _utilization(plan: MemoryPlan) -> Iterator[Change]:
    now = round(100 * plan.config.engine.gpu_memory_utilization)
    for share in (*range(now - 5, 15, -5), *range(now + 5, 95, 5)) if plan.machine.on_gpus else ():
        yield (
            f"set engine.gpu_memory_utilization: {share / 100:g}",
            _with(plan, "engine", gpu_memory_utilization=share / 100),
        )


def _sleep(plan: MemoryPlan) -> Iterator[Change]:
    if plan.machine.on_gpus and not plan.config.engine.sleep:
        yield "set engine.sleep: true", _with(plan, "engine", sleep=True)


def _awake(plan: MemoryPlan) -> Iterator[Change]:
    if plan.machine.on_gpus and plan.config.engine.sleep:
        yield "set engine.sleep: false", _with(plan, "engine", sleep=False)


def _zero_stage(plan: MemoryPlan) -> Iterator[Change]:
    highest = 3 if plan.config.policy.expert_parallel == 1 else 2
    for stage in range(plan.config.policy.zero_stage + 1, highest + 1):
        yield f"set policy.zero_stage: {stage}", _with(plan, "policy", zero_stage=stage)


def _offload(plan: MemoryPlan) -> Iterator[Change]:
    if plan.machine.on_gpus and plan.config.policy.zero_stage and not plan.config.policy.offload_optimizer:
        yield "set policy.offload_optimizer: true", _with(plan, "policy", offload_optimizer=True)


def _not_offloaded(plan: MemoryPlan) -> Iterator[Change]:
    if plan.config.policy.offload_optimizer:
        yield "set policy.offload_optimizer: false", _with(plan, "policy", offload_optimizer=False)


def _tensor_parallel(plan: MemoryPlan) -> Iterator[Change]:
    for size in (2, 4, 8):
        if size > plan.config.engine.tensor_parallel and plan.machine.ranks_per_host % size == 0:
            yield f"set engine.tensor_parallel: {size}", _with(plan, "engine", tensor_parallel=size)


def _more_hosts(plan: MemoryPlan) -> Iterator[Change]:
    for times in (2, 4, 8, 16, 32) if plan.machine.on_gpus else ():
        machine: Machine = replace(plan.machine, hosts=plan.machine.hosts * times)
        said = f"use {machine.ranks} GPUs on {machine.hosts} hosts"
        yield said, MemoryPlan(config=plan.config, sizes=plan.sizes, machine=machine)


_KINDS = {
    "checkpointing": _checkpointing,
    "sleep": _sleep,
    "utilization": _utilization,
    "zero stage": _zero_stage,
    "tensor parallel": _tensor_parallel,
    "offload": _offload,
    "no offload": _not_offloaded,
    "no sleep": _awake,
    "hosts": _more_hosts,
}
