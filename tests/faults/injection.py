"""Where a fault can be injected, and what it does there. The product has no hook for it: the launcher wraps these functions."""

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from functools import wraps
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

ALL_RANKS = -1
FLAG, DISK = "FAULTS_FLAG", "FAULTS_DISK"
"""Environment variables: the file that makes the verifier of tests/faults/runs.py fail, and the folder of a small disk."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A function by module and name. file: counts only calls whose first argument is a path of such a name."""

    function: str
    file: str = ""


POINTS = {
    # A step, in order.
    "sampling": Point(function="vlrl.trainer.trainer:Trainer.sample"),
    "engine step": Point(function="vllm.v1.engine.llm_engine:LLMEngine.step"),
    "scoring": Point(function="vlrl.scoring.scorer:Scorer.collect"),
    "update": Point(function="vlrl.trainer.trainer:Trainer.update"),
    "loss": Point(function="vlrl.trainer.update:policy_loss"),
    "backward": Point(function="vlrl.trainer.policy:Policy.backward"),
    "optimizer step": Point(function="vlrl.trainer.policy:Policy.step"),
    "sync": Point(function="vlrl.trainer.trainer:Trainer.sync_weights"),
    "loading into the engine": Point(function="vlrl.rollout.vllm_local:VllmEngine.load_weights"),
    "canary": Point(function="vlrl.rollout.canary:Canary.check"),
    # The log.
    "metrics": Point(function="vlrl.telemetry.run_log:RunLog.step"),
    "histograms": Point(function="vlrl.telemetry.run_log:RunLog.histograms"),
    "rollouts": Point(function="vlrl.telemetry.run_log:RunLog.rollouts"),
    "summary": Point(function="vlrl.telemetry.run_log:RunLog.summary"),
    # A checkpoint, by what it does on the disk: whoever seals it, and in whichever thread.
    "save": Point(function="vlrl.trainer.checkpointing:Checkpointing.save"),
    "checkpoint folder": Point(function="pathlib:Path.mkdir", file=".tmp-step-*"),
    "checkpoint files": Point(function="vlrl.trainer.policy:Policy.save"),
    "manifest": Point(function="pathlib:Path.open", file="manifest.json*"),
    "checkpoint renamed": Point(function="pathlib:Path.rename", file=".tmp-step-*"),
    "checkpoint pruned": Point(function="shutil:rmtree", file="step-*"),
    "file of a pruned checkpoint": Point(function="os:unlink", file="rank-*.pt"),
    # The start of a run, and its end.
    "first evaluation": Point(function="vlrl.train:evaluate"),
    "cold start marked as done": Point(function="vlrl.coldstart:write_atomically"),
    "export": Point(function="vlrl.trainer.policy:Policy.export"),
    "exported shard": Point(function="vlrl.models.checkpoint_io:save_file"),
    # A resume or a rollback.
    "resume": Point(function="vlrl.trainer.trainer:Trainer.resume"),
    "checkpoint loaded": Point(function="vlrl.trainer.policy:Policy.load"),
    "logs cut": Point(function="vlrl.telemetry.run_log:RunLog.truncate"),
    "collapse watch": Point(function="vlrl.telemetry.collapse_watch:CollapseWatch.see"),
    "rollback record": Point(function="vlrl.trainer.rollback:write_record"),
    "logs set aside": Point(function="vlrl.telemetry.run_log:RunLog.set_aside"),
    "checkpoints dropped": Point(function="vlrl.trainer.checkpointing:Checkpointing.drop_left_behind"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Injection:
    """An action at the `call`-th call of a point, or at every call if that is 0, on one rank, or on all for ALL_RANKS."""

    point: str
    action: str
    call: int = 1
    before: bool = False
    rank: int = 0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def inject(injection: Injection) -> None:
    """Wraps the point's function in this process."""
    point = POINTS[injection.point]
    module, _, qualified = point.function.partition(":")
    *owners, name = qualified.split(".")
    owner: Any = import_module(module)
    for each in owners:
        owner = getattr(owner, each)
    whole, calls, act = getattr(owner, name), count(1), ACTIONS[injection.action]
    mine = injection.rank in (ALL_RANKS, int(os.environ.get("RANK", "0")))

    @wraps(whole)
    def wrapped(*arguments: Any, **settings: Any) -> Any:
        counts = not point.file or fnmatch(Path(arguments[0]).name, point.file)
        due = counts and injection.call in (0, next(calls)) and mine
        if due and injection.before:
            act(arguments, None)
        result = whole(*arguments, **settings)
        return act(arguments, result) if due and not injection.before else result

    setattr(owner, name, wrapped)


def _signal(number: signal.Signals) -> Callable[[tuple, Any], Any]:
    def send(arguments: tuple, result: Any) -> Any:
        sys.stdout.flush()
        os.kill(os.getpid(), number)
        return result

    return send


def _interrupt(arguments: tuple, result: Any) -> Any:
    os.killpg(os.getpgrp(), signal.SIGINT)  # Ctrl-C reaches the verifiers' processes too
    return result


def _raise(arguments: tuple, result: Any) -> Any:
    raise RuntimeError("the engine core died (injected)")


def _nan_loss(arguments: tuple, result: Any) -> Any:
    loss, tokens = result
    return loss * float("nan"), tokens


def _nan_gradient(arguments: tuple, result: Any) -> Any:
    result[0].register_hook(lambda gradient: gradient * float("nan"))
    return result


def _break_verifier(how: str) -> Callable[[tuple, Any], Any]:
    def write(arguments: tuple, result: Any) -> Any:
        Path(os.environ[FLAG]).write_text(how)
        return result

    return write


def _fill_disk(arguments: tuple, result: Any) -> Any:
    with (Path(os.environ[DISK]) / "filler").open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass
    return result


def _alarm(arguments: tuple, result: Any) -> Any:
    """The collapse watch's result with an alarm at step 3: the weights after step 1 were surely well."""
    from vlrl.telemetry.collapse_watch import Alarm

    alarm = Alarm(signal="reward", of="even_length", sentence="reward of even_length fell (injected)", well_after=1)
    return [*result, alarm] if arguments[1] == 3 else result


ACTIONS: dict[str, Callable[[tuple, Any], Any]] = {
    "kill": _signal(signal.SIGKILL),
    "terminate": _signal(signal.SIGTERM),
    "stop": _signal(signal.SIGSTOP),
    "interrupt": _interrupt,
    "raise": _raise,
    "nan loss": _nan_loss,
    "nan gradient": _nan_gradient,
    "hang a verifier": _break_verifier("hang once"),
    "kill verifiers": _break_verifier("die"),
    "raise in verifiers": _break_verifier("raise"),
    "fill the disk": _fill_disk,
    "alarm": _alarm,
}
