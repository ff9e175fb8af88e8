"""The cells of the matrix: each fault, how the run ends at it, what is damaged besides, and the configurations that have it."""

import signal
from collections.abc import Callable
from dataclasses import dataclass

from tests.faults.damage import (
    Damage,
    change,
    empty,
    flipped,
    folder_gone,
    gone,
    left_lock,
    other_host_holds_it,
    torn,
    torn_in_last_line,
    without_first_line,
)
from tests.faults.injection import Injection
from tests.faults.runs import Configuration, difference, difference_but_for_lost_metrics, difference_but_for_timeouts
from tests.loop import Loop

KILLED, REFUSED, OTHER_FAILED = -signal.SIGKILL, 2, 3
TERMINATED, INTERRUPTED = 128 + signal.SIGTERM, 128 + signal.SIGINT

DENSE = Configuration()
DENSE_Z3 = Configuration(zero_stage=3)
DENSE_2 = Configuration(ranks=2)
DENSE_2_Z3 = Configuration(ranks=2, zero_stage=3)
MOE = Configuration(moe=True)
MOE_2 = Configuration(moe=True, ranks=2)
MOE_2_Z3 = Configuration(moe=True, ranks=2, zero_stage=3)
COLUMNS = (DENSE, DENSE_Z3, DENSE_2, DENSE_2_Z3, MOE, MOE_2, MOE_2_Z3)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """A row of the matrix.

    starts: the run is started once with each of these injections. ends: the exit codes that a start may have. says: what the last
    of them prints, as a pattern. damage: what is spoilt afterwards; it returns the cure. refused: what the next start then
    prints, as a pattern, before the cure. warns: what the last start prints, which must end well. compare: names what differs
    from the straight run, but for what the fault touched. lost: the rank that is lost. quick:
    among the cells that a test runs.
    """

    name: str
    kind: str
    starts: tuple[tuple[Injection, ...], ...] = ()
    ends: tuple[int, ...] = (KILLED,)
    says: str = ""
    damage: Damage | None = None
    refused: str = ""
    warns: str = ""
    setup: str = ""
    on_small_disk: bool = False
    compare: Callable[[Loop, Loop], str] = difference
    lost: int | None = None
    columns: tuple[Configuration, ...] = (DENSE,)
    quick: bool = False


def at(point: str, action: str, call: int = 1, *, before: bool = False, rank: int = 0) -> tuple[Injection, ...]:
    return (Injection(point=point, action=action, call=call, before=before, rank=rank),)


def kill(when: str, point: str, call: int = 1, *more: Configuration, before: bool = False, **settings) -> Fault:
    """kill -9 of the whole run at a call of a point."""
    starts = (at(point, "kill", call, before=before),)
    return Fault(name=when, kind="kill -9", starts=starts, columns=(DENSE, *more), **settings)


LATE = (at("checkpoint renamed", "kill", 2),)
"""Killed in the third step, as soon as the second checkpoint is whole. A checkpoint is written while the next step runs, so an
update of the third step may come before it."""


def kills() -> list[Fault]:
    def of_setup(setup: str) -> Callable[..., Fault]:
        return lambda when, point, call=1, *more, **how: kill(f"{setup}: {when}", point, call, *more, setup=setup, **how)

    cold, rollback = of_setup("cold start"), of_setup("rollback")
    twice = (
        ("while its checkpoint is loaded", at("checkpoint loaded", "kill", before=True)),
        ("before its logs are cut", at("logs cut", "kill", before=True)),
        ("after its logs are cut", at("logs cut", "kill")),
        ("after its first step", at("optimizer step", "kill", 2)),
    )
    return [
        kill("before the first evaluation", "first evaluation", before=True),
        kill("after the first evaluation", "first evaluation", 1, DENSE_2),
        kill("before the first sampling", "sampling", before=True),
        kill("before sampling", "sampling", 3, MOE_2_Z3, before=True),
        kill("while the engine samples", "engine step", 28, DENSE_2, MOE, before=True),
        kill("before scoring", "scoring", 4, before=True),
        kill("after scoring", "scoring", 4, DENSE_Z3),
        kill("after sampling", "sampling", 3, DENSE_2, MOE),
        kill("after a backward pass", "backward", 5),
        kill("before the first optimizer step", "optimizer step", 3, MOE, before=True),
        kill("after the first optimizer step", "optimizer step", 3, DENSE_Z3, MOE, MOE_2_Z3, quick=True),
        kill("before the last optimizer step", "optimizer step", 4, before=True),
        kill("after the last optimizer step", "optimizer step", 4, DENSE_2, DENSE_2_Z3),
        kill("before the sync", "sync", 2, MOE, before=True),
        kill("while the engine takes the weights", "loading into the engine", 2, MOE, MOE_2_Z3, before=True),
        kill("after the sync", "sync", 2, DENSE_2, MOE),
        kill("before the metrics are logged", "metrics", 2, before=True),
        kill("after the metrics are logged", "metrics", 3, DENSE_2, MOE_2_Z3, quick=True),
        kill("after the rollouts are logged", "rollouts", 3, DENSE_Z3, MOE),
        kill("before the first checkpoint's folder is made", "checkpoint folder", before=True),
        kill("after a checkpoint's folder is made", "checkpoint folder", 2, MOE),
        kill("before a checkpoint's files are written", "checkpoint files", 2, DENSE_2_Z3, before=True),
        kill("after a checkpoint's files are written", "checkpoint files", 2, DENSE_2, MOE_2_Z3, quick=True),
        kill("before a checkpoint's manifest is written", "manifest", 2, before=True),
        kill("with an empty manifest", "manifest", 2, MOE, DENSE_2),
        kill("before a checkpoint's folder is renamed", "checkpoint renamed", 2, DENSE_Z3, DENSE_2_Z3, before=True),
        kill("after a checkpoint's folder is renamed", "checkpoint renamed", 2, MOE_2_Z3),
        kill("before an old checkpoint is removed", "checkpoint pruned", before=True),
        kill("with an old checkpoint half removed", "file of a pruned checkpoint", 1, DENSE_2, MOE),
        kill("after an old checkpoint is removed", "checkpoint pruned"),
        kill("before the last evaluation", "first evaluation", 2, before=True),
        kill("after the last evaluation", "first evaluation", 2, DENSE_2, MOE),
        kill("before the export", "export", 1, DENSE_2_Z3, before=True),
        kill("before a shard is exported", "exported shard", before=True),
        kill("after a shard is exported", "exported shard", 1, DENSE_Z3, MOE, MOE_2_Z3),
        kill("before the summary is written", "summary", 1, MOE, before=True),
        kill("after the summary is written", "summary"),
        kill("budget chosen by the run: before the first checkpoint", "save", setup="budget chosen by the run", before=True),
        kill("budget chosen by the run: after a checkpoint", "metrics", 2, setup="budget chosen by the run"),
        cold("after an optimizer step", "optimizer step", 1, DENSE_2),
        cold("after a shard is exported", "exported shard", 1, MOE_2_Z3),
        cold("before it is marked as done", "cold start marked as done", before=True),
        cold("after it is marked as done", "cold start marked as done", 1, MOE),
        rollback("before its record is written", "rollback record", before=True),
        rollback("after its record is written", "rollback record", 1, DENSE_2, MOE),
        rollback("after the logs are set aside", "logs set aside", 1, MOE_2_Z3),
        rollback("after the checkpoints are dropped", "checkpoints dropped", 1, DENSE_2_Z3),
        rollback("after its checkpoint is loaded", "checkpoint loaded", 1, MOE),
        rollback("after the logs are cut", "logs cut", 2),
        rollback("after its first optimizer step", "optimizer step", 7, DENSE_2),
        *(
            Fault(name=f"and once more when it resumes, {when}", kind="kill -9", starts=(*LATE, second), columns=columns)
            for (when, second), columns in zip(twice, ((DENSE, MOE_2_Z3), (DENSE,), (DENSE, DENSE_2), (DENSE, MOE)), strict=True)
        ),
    ]


def signals() -> list[Fault]:
    def stopped(when: str, point: str, call: int = 1, *more: Configuration, action="terminate", **how) -> Fault:
        kind, code = ("SIGTERM", TERMINATED) if action == "terminate" else ("Ctrl-C", INTERRUPTED)
        start = at(point, action, call, before=how.pop("before", False), rank=how.pop("rank", 0))
        how = {"columns": (DENSE, *more), "ends": (code, TERMINATED)} | how  # a rank that got no signal itself says SIGTERM
        says = rf"vlrl: stopped by SIG\w+; .*same command {how.pop('same', 'continues from')}"
        return Fault(name=when, kind=kind, starts=(*how.pop("first", ()), start), **({"says": says} | how))

    again = {"same": "begins again"}
    return [
        stopped("in the first evaluation", "first evaluation", before=True, **again),
        stopped("while the engine samples", "engine step", 28, DENSE_2, MOE, quick=True),
        stopped("on the second rank alone, while the engine samples", "engine step", 28, rank=1, columns=(DENSE_2,)),
        stopped("while scores are awaited", "scoring", 4, MOE_2_Z3, before=True),
        stopped("between two optimizer steps", "optimizer step", 3, DENSE_Z3, DENSE_2_Z3, MOE),
        stopped("in the sync", "loading into the engine", 2),
        stopped("in a checkpoint", "checkpoint files", 2, DENSE_2),
        stopped("while a checkpoint is sealed", "checkpoint renamed", 2, before=True),
        stopped("in the last evaluation", "first evaluation", 2, MOE_2_Z3, before=True),
        stopped("in the export", "exported shard", ends=(0, TERMINATED), says=""),
        stopped("no grace: a save that would come too late is left out", "optimizer step", 4, setup="no grace"),
        stopped("in the cold start", "optimizer step", setup="cold start", same="begins the cold start again"),
        stopped("in a rollback", "checkpoint loaded", 1, DENSE_2, setup="rollback"),
        stopped("while the engine samples", "engine step", 28, MOE_2_Z3, action="interrupt"),
        stopped("while scores are awaited", "scoring", 4, action="interrupt", before=True),
        stopped("while it loads the checkpoint", "checkpoint loaded", first=LATE, action="interrupt", ends=(KILLED, INTERRUPTED)),
    ]


def damages() -> list[Fault]:
    def spoilt(name: str, damage: Damage, *more: Configuration, **how) -> Fault:
        how = {"starts": LATE} | how
        return Fault(name=name, kind="damaged file", damage=damage, columns=(DENSE, *more), **how)

    falls_back = {"warns": r"checkpoint step-000002 is damaged: .*; falling back to step-000001"}
    finished = {"starts": ((),), "ends": (0,)}
    shard, manifest, state = (
        "checkpoints/step-*/policy/rank-*.pt",
        "checkpoints/step-*/*manifest*",
        "checkpoints/step-*/state.json",
    )
    logged = {"starts": (at("rollouts", "kill", 3),)}
    return [
        spoilt("the last line of metrics.jsonl is torn", change("metrics.jsonl", torn_in_last_line), DENSE_2, **logged),
        spoilt("the last line of rollouts.jsonl is torn", change("rollouts.jsonl", torn_in_last_line), MOE, **logged),
        spoilt("a shard of the newest checkpoint is truncated", change(shard, torn), DENSE_2, MOE_2_Z3, **falls_back, quick=True),
        spoilt("a bit of the newest checkpoint is flipped", change(shard, flipped), DENSE_Z3, DENSE_2_Z3, MOE, **falls_back),
        spoilt("a shard of the newest checkpoint is gone", change(shard, gone), MOE_2, **falls_back),
        spoilt("the newest checkpoint's manifest is torn", change(manifest, torn), DENSE_2, **falls_back),
        spoilt("the newest checkpoint's manifest is gone", change(manifest, gone), **falls_back),
        spoilt("the newest checkpoint's state.json is torn", change(state, torn), MOE, **falls_back),
        spoilt(
            "every checkpoint is damaged",
            change(shard, flipped, newest=False),
            DENSE_2,
            refused=r"no checkpoint in .* is whole",
        ),
        spoilt("all checkpoints are gone", folder_gone("checkpoints")),
        spoilt("evaluated_before.json is gone", change("evaluated_before.json", gone), MOE, refused="evaluated_before.json"),
        spoilt("evaluated_before.json is torn", change("evaluated_before.json", torn), refused="evaluated_before.json"),
        spoilt("config.yaml is gone", change("config.yaml", gone)),
        spoilt("config.yaml is empty", change("config.yaml", empty)),
        spoilt(
            "the log has lost a step from before the checkpoint",
            change("metrics.jsonl", without_first_line),
            warns="metrics.jsonl has lost 1 of the 2 steps",
            compare=difference_but_for_lost_metrics,
        ),
        spoilt("the finished run's summary.json is torn", change("summary.json", torn), refused="summary.json", **finished),
        spoilt("the finished run's model is gone", folder_gone("model"), **finished),
        spoilt(
            "cold start: its model is truncated",
            change("coldstart/*.safetensors", torn),
            setup="cold start",
            refused="coldstart",
        ),
        spoilt("cold start: its model is gone", change("coldstart/*.safetensors", gone), setup="cold start", refused="coldstart"),
        spoilt(
            "cold start: coldstart.json is torn",
            change("coldstart/coldstart.json", torn),
            setup="cold start",
            refused="coldstart",
        ),
        spoilt(
            "rollback: rollbacks.json is torn",
            change("rollbacks.json", torn),
            setup="rollback",
            starts=(at("logs cut", "kill", 2),),
            refused="rollbacks.json",
        ),
        Fault(name="left by a killed process", kind="stale lock", starts=LATE, damage=lambda loop: left_lock(loop)),
        Fault(
            name="held for a host that vanished",
            kind="stale lock",
            starts=LATE,
            damage=other_host_holds_it,
            warns="trained by process 1 on a-host-that-vanished, which shows no sign of life; its lock is taken over",
            columns=(DENSE, MOE_2),
        ),
    ]


def failures() -> list[Fault]:
    def fails(name: str, kind: str, point: str, action: str, call: int, says: str, *more: Configuration, **how) -> Fault:
        start = at(point, action, call, before=how.pop("before", False), rank=how.pop("rank", 0))
        return Fault(
            name=name, kind=kind, starts=(start,), says=says, columns=(DENSE, *more), **({"ends": (REFUSED, OTHER_FAILED)} | how)
        )

    full = {"on_small_disk": True}
    verdict = r"rollouts of task even_length have no verdict"
    return [
        fails("before a checkpoint", "full disk", "save", "fill the disk", 2, "free; make room", before=True, **full, quick=True),
        fails("in a checkpoint's files", "full disk", "checkpoint folder", "fill the disk", 2, "No space left", MOE, **full),
        fails(
            "in a checkpoint's manifest", "full disk", "checkpoint files", "fill the disk", 2, "No space left", DENSE_2, **full
        ),
        fails(
            "in the log", "full disk", "sync", "fill the disk", 2, "cannot write .*metrics.jsonl: No space left", MOE_2, **full
        ),
        fails("in the export", "full disk", "export", "fill the disk", 1, "model: No space left", before=True, **full),
        fails("in an exported shard", "full disk", "exported shard", "fill the disk", 1, "No space left", before=True, **full),
        fails("in the summary", "full disk", "export", "fill the disk", 1, "cannot write .*summary.json", **full),
        fails(
            "the loss", "not a number", "loss", "nan loss", 4, r"the loss of this micro-batch is nan", DENSE_2, MOE, quick=True
        ),
        fails("the gradient", "not a number", "loss", "nan gradient", 4, r"the gradient's norm is (nan|inf)", MOE),
        fails(
            "the engine's step raises",
            "dead engine",
            "engine step",
            "raise",
            28,
            r"the engine core died",
            DENSE_2,
            MOE,
        ),
        fails(
            "the engine raises while it takes the weights",
            "dead engine",
            "loading into the engine",
            "raise",
            2,
            "engine core died",
        ),
        fails("dies at every response", "verifier", "sync", "kill verifiers", 1, verdict, MOE, DENSE_2),
        fails("raises at every response", "verifier", "sync", "raise in verifiers", 1, verdict),
        fails(
            "hangs once",
            "verifier",
            "sync",
            "hang a verifier",
            1,
            rf"step 2: \d+ of the last \d+ {verdict}.*verify returned no score",
            ends=(0,),
            compare=difference_but_for_timeouts,
        ),
    ]


def lost_ranks() -> list[Fault]:
    """A rank alone is killed or stopped; the others must end by themselves, with a sentence."""

    def lost(name: str, action: str, point: str, call: int, rank: int, *columns: Configuration) -> Fault:
        starts = (at(point, action, call, before=True, rank=rank),)
        says = rf"vlrl: .*rank {rank}"
        return Fault(name=name, kind="vanished rank", starts=starts, ends=(REFUSED, 3), says=says, lost=rank, columns=columns)

    return [
        lost("the second is killed while the engine samples", "kill", "engine step", 28, 1, DENSE_2),
        lost("the second is killed in an optimizer step", "kill", "optimizer step", 3, 1, DENSE_2, MOE_2_Z3),
        lost("the first is killed in an optimizer step", "kill", "optimizer step", 3, 0, DENSE_2, DENSE_2_Z3),
        lost("the second is killed in a checkpoint", "kill", "checkpoint files", 2, 1, DENSE_2_Z3),
        lost("the second stops in an optimizer step", "stop", "optimizer step", 3, 1, DENSE_2, MOE_2_Z3),
        lost("the first stops in an optimizer step", "stop", "optimizer step", 3, 0, DENSE_2),
    ]


FAULTS: list[Fault] = [*kills(), *signals(), *damages(), *failures(), *lost_ranks()]


@dataclass(frozen=True, slots=True)
class Cell:
    """One fault in one configuration."""

    fault: Fault
    configuration: Configuration

    def __str__(self) -> str:
        return f"{self.fault.kind}: {self.fault.name} [{self.configuration}]"


CELLS = [Cell(fault, configuration) for fault in FAULTS for configuration in fault.columns]
