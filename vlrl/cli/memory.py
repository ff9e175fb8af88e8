"""Prints what a run will hold in memory, on disk and in its logs: `vlrl plan RUN.yaml --memory`.

It needs the model's config.json, but neither weights nor a GPU.
"""

import os
from collections.abc import Iterator, Sequence

from vlrl.config import Config
from vlrl.memory.plan import ESTIMATED, GIB, Machine, MemoryPlan, shortages
from vlrl.memory.remedies import remedy
from vlrl.memory.storage import bytes_needed, log_bytes
from vlrl.models.sizes import ModelSizes

_NUMBERS, _CARDS, _A_HOST = (8, 16, 64, 256), (80, 141), 8


def machine_of(*, gpus_per_host: int | None, hosts: int | None, gpu_gb: float | None, host_gb: float | None = None) -> Machine:
    """The machine that is planned for: as the options say, or else as torchrun's environment does, or else one process.

    gpu_gb: a GPU's memory as its name says, in GiB; None or 0 for CPUs. host_gb: a host's memory in GiB; None or 0 if it is
    unknown, or this machine's on CPUs.
    """
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    each = gpus_per_host or local
    number = hosts or max(1, int(os.environ.get("WORLD_SIZE", "1")) // local)
    if each < 1 or number < 1:
        raise ValueError(f"--gpus-per-host {each} and --hosts {number} must be at least 1")
    if gpu_gb:
        return Machine(
            device="cuda",
            ranks_per_host=each,
            hosts=number,
            memory=int(gpu_gb * GIB),
            host_memory=int((host_gb or 0) * GIB) or None,
        )
    total = int((host_gb or 0) * GIB) or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(device="cpu", ranks_per_host=each, hosts=number, memory=total)


def memory_lines(config: Config, sizes: ModelSizes, machine: Machine) -> Iterator[str]:
    """The plan as lines of text: a table of parts and phases, the engine's cache, host, disk, logs, a verdict, other machines."""
    plan = MemoryPlan(config=config, sizes=sizes, machine=machine)
    unit = "GPU" if machine.on_gpus else "rank"
    yield f"{config.model}: {_counts(sizes, config)}"
    where = f"{_several(machine.ranks, unit)} on {_several(machine.hosts, 'host')}"
    yield f"{where}, all alike, {machine.memory_of_rank / GIB:.1f} GiB each. GiB of a {unit}, by phase (* estimated):"
    yield ""
    yield from _parts_table(plan)
    yield ""
    tokens, patches = plan.smallest
    yield f"The smallest micro-batch has {tokens:,} tokens with {patches:,} image patches; {_micro_batch(plan)}."
    yield (
        f"The engine's cache holds {plan.kv_tokens:,} tokens at {plan.kv_token / 1024:.1f} KiB a token and {unit}: "
        f"{plan.sequences(plan.longest)} sequences of the longest {plan.longest:,} tokens, {plan.sequences(plan.typical)} of "
        f"a typical {plan.typical:,}{_with_states(plan)}."
    )
    if plan.replicas and machine.on_gpus:
        parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in plan.engine.items())
        number = plan.replicas * config.engine.tensor_parallel
        yield f"{_several(plan.replicas, 'replica')} of the engine on {_several(number, 'more GPU')}, GiB of each: {parts}."
    if host := {name: size for name, size in plan.host.items() if size}:
        parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in host.items())
        room = f" of {machine.host_memory / GIB:.1f}" if machine.host_memory else ""
        yield f"Memory of each host, GiB: {parts}; together {sum(host.values()) / GIB:.1f}{room}."
    disk = bytes_needed(config, sizes.total, sizes.adapters)
    yield (
        f"Disk: checkpoints and models up to {disk / GIB:.1f} GiB; the logs grow by up to "
        f"{log_bytes(config) / 2**20:.1f} MiB a step, {config.steps * log_bytes(config) / GIB:.1f} GiB in {config.steps} steps."
    )
    yield ""
    yield verdict(plan)
    if machine.on_gpus:
        yield ""
        yield from _other_machines(config, sizes)


def verdict(plan: MemoryPlan) -> str:
    """One line: it fits, it is tight, or it does not fit, and then what would help."""
    found = shortages(plan)
    if not found:
        return f"It fits: at most {plan.needed / GIB:.1f} of {plan.machine.memory_of_rank / GIB:.1f} GiB."
    change = remedy(plan)
    says = "It does not fit" if found[0].certain else "It is tight"
    return f"{says}: {found[0].sentence}. " + (f"To make it fit, {change}." if change else "No setting alone makes it fit.")


def _counts(sizes: ModelSizes, config: Config) -> str:
    parts = {
        "experts": sizes.experts,
        "other layers": sizes.layers,
        "embedding": sizes.embedding,
        "head": sizes.head,
        "vision tower": sizes.vision,
    }
    named = ", ".join(f"{name} {_billions(size)}" for name, size in parts.items() if size)
    frozen = "; the vision tower is frozen" if config.policy.freeze_vision else ""
    return f"{_billions(sizes.total)} parameters ({named}){frozen}"


def _several(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number > 1 else ''}"


def _billions(number: int) -> str:
    return f"{number / 1e9:.2f} B" if number >= 1e8 else f"{number / 1e6:.2f} M"


def _parts_table(plan: MemoryPlan) -> Iterator[str]:
    phases = plan.phases
    names = list(dict.fromkeys(name for parts in phases.values() for name in parts))
    rows = [
        [name + (" *" if name in ESTIMATED else ""), *(_gib(parts.get(name, 0)) for parts in phases.values())]
        for name in names
        if any(parts.get(name) for parts in phases.values())
    ]
    yield from _table(["", *phases], [*rows, ["together", *(_gib(sum(parts.values())) for parts in phases.values())]])


def _micro_batch(plan: MemoryPlan) -> str:
    if plan.config.policy.max_tokens_per_micro_batch != "auto":
        return "policy.max_tokens_per_micro_batch sets it"
    if tokens := plan.micro_batch_tokens:
        return f"max_tokens_per_micro_batch: auto will find about {tokens:,} tokens of text *"
    return "max_tokens_per_micro_batch: auto will not find one that fits *"


def _with_states(plan: MemoryPlan) -> str:
    state = plan.recurrent_state
    return f", each with {state / 2**20:.1f} MiB of states of the recurrent layers" if state else ""


def _other_machines(config: Config, sizes: ModelSizes) -> Iterator[str]:
    yield f"On other GPUs, {_A_HOST} a host: the most GiB of a GPU, or what is short"
    rows = []
    for number in _NUMBERS:
        cells = []
        for memory in _CARDS:
            machine = Machine(device="cuda", ranks_per_host=_A_HOST, hosts=number // _A_HOST, memory=memory * GIB)
            cells.append(_cell(MemoryPlan(config=config, sizes=sizes, machine=machine)))
        rows.append([str(number), *cells])
    yield from _table(["GPUs", *(f"{memory} GiB" for memory in _CARDS)], rows)


def _cell(plan: MemoryPlan) -> str:
    found = shortages(plan)
    if not found:
        return f"fits, {plan.needed / GIB:.1f}"
    return f"{'no' if found[0].certain else 'tight'}, {found[0].needed / GIB:.1f} for {found[0].place}"


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}" if size else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns with the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        yield "  ".join(
            cell.ljust(wide) if not n else cell.rjust(wide) for n, (cell, wide) in enumerate(zip(row, widths, strict=True))
        ).rstrip()


def sizes_of(config: Config) -> ModelSizes:
    """The sizes of the run's model. Raises ValueError if it is not found or vlrl does not train it."""
    from vlrl.models.checkpoint_io import check_model
    from vlrl.models.tensor_check import empty_model

    check_model(config.model)
    return ModelSizes.of(empty_model(config.model), config.lora)
