"""The runs of the fault matrix: their data and models, their processes, and what makes two of them equal."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from tests.conftest import PATIENCE_S, TEXTS
from tests.faults.injection import DISK, FLAG, Injection
from tests.loop import ROOT, Loop, finished, free_port, python, same_weights
from tests.warm import WarmProcess

STEPS = 3
DISK_MB = 120

# A random model finds no right answer to a digit. This reward splits its responses, so that every step has a gradient.
_EVEN_LENGTH = '''"""even_length: a response of an even number of characters. A file that the environment names makes it fail."""

import os
import time
from pathlib import Path

from vlrl.types import Row, Score


def prompt(row):
    images = [{"type": "image", "image": image} for image in row.images]
    return [{"role": "user", "content": [*images, {"type": "text", "text": row.question}]}]


def verify(response, row):
    if (flag := Path(os.environ.get("FAULTS_FLAG", "none"))).exists():
        fail(flag)
    return Score(reward=float(len(response) % 2 == 0 or response == row.response))


def fail(flag):
    how = flag.read_text()
    if how == "hang once":
        flag.unlink(missing_ok=True)
        time.sleep(1e6)
    if how == "die":
        os._exit(7)
    if how == "raise":
        raise RuntimeError("the verifier broke (injected)")


EXAMPLES = [("ab", Row(), 1.0), ("abc", Row(), 0.0)]
'''


@dataclass(frozen=True, slots=True)
class Configuration:
    """A column of the matrix."""

    moe: bool = False
    ranks: int = 1
    zero_stage: int = 1

    def __str__(self) -> str:
        return f"{'MoE' if self.moe else 'dense'}, {self.ranks} rank{'s' * (self.ranks > 1)}, ZeRO-{self.zero_stage}"


SETUPS: dict[str, tuple[dict[str, Any], tuple[Injection, ...]]] = {
    "": ({}, ()),
    "cold start": ({"coldstart.steps": 2, "coldstart.batch_size": 4}, ()),
    "rollback": (
        {"on_collapse": "rollback", "checkpoints.keep": 5},
        (Injection(point="collapse watch", action="alarm", call=0, rank=-1),),
    ),
    "budget chosen by the run": ({"policy.max_tokens_per_micro_batch": "auto"}, ()),
    "no grace": ({"checkpoints.signal_grace_s": 1e-9}, ()),
}
"""What some faults need besides a configuration: settings, and injections that belong to the run, such as a collapse."""

_starting = Lock()


class Runs:
    """A folder with data sets, models and runs. Runs that nothing interrupts are made once, when they are first needed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._straight: dict[tuple[Configuration, str], Loop] = {}
        self._locks: dict[tuple[Configuration, str], Lock] = {}
        for recipe in ("digits", "counting"):
            if (root / recipe).exists():
                continue
            sizes = ("--train", "24", "--eval", "4")
            finished(python("-m", "vlrl.cli", "data", "build", f"data_recipes/{recipe}.py", "--out", root / recipe, *sizes))
        (root / "tasks").mkdir(exist_ok=True)
        (root / "tasks/even_length.py").write_text(_EVEN_LENGTH)

    def loop(self, configuration: Configuration, setup: str, name: str, *, disk: Path | None = None) -> Loop:
        """A run of this name, yet to be started; in the folder `disk` if there is one."""
        rows, weights = {"digits": "digits", "even_length": "counting"}, {"digits": 1, "even_length": 3}
        mixture = {
            task: {"weight": weights[task], "rows": self.root / recipe / "train", "eval_rows": self.root / recipe / "eval"}
            for task, recipe in rows.items()
        }
        settings = {"runs": disk or self.root / "runs", "name": name, "model": self._model(configuration.moe)}
        settings |= {"task_folders": ["tasks", self.root / "tasks"], "mixture": mixture, "images.max_pixels": 4096}
        settings |= {"steps": STEPS, "prompts_per_step": 4, "sampling.group_size": 4, "sampling.max_new_tokens": 8}
        settings |= {"policy.max_tokens_per_micro_batch": 512, "policy.warmup_steps": 1, "coldstart.steps": 0}
        settings |= {"evaluation.rows": 2, "evaluation.samples": 1, "wandb.mode": "disabled", "scoring.timeout_s": 20}
        settings |= {"checkpoints.every": 1, "checkpoints.keep": 2, "policy.zero_stage": configuration.zero_stage}
        settings |= {"engine.vllm": {"kv_cache_memory_bytes": 64 << 20}}  # so that several runs fit into a small machine
        settings |= {"algorithm.routing_replay": "r2"} if configuration.moe else {}
        return Loop(overrides=settings | SETUPS[setup][0])

    def straight(self, configuration: Configuration, setup: str) -> Loop:
        """The run of this configuration that nothing interrupts, finished."""
        with _starting:
            lock = self._locks.setdefault((configuration, setup), Lock())
        with lock:
            if (configuration, setup) not in self._straight:
                loop = self.loop(configuration, setup, slug(f"straight {configuration} {setup}"))
                ends = start(loop, configuration.ranks, SETUPS[setup][1])
                assert [end.exit_code for end in ends] == [0] * configuration.ranks, ends
                assert any(line.get("policy/grad_norm/minibatch_1") for line in loop.metrics), "no step has a gradient"
                self._straight[configuration, setup] = loop
        return self._straight[configuration, setup]

    def _model(self, moe: bool) -> Path:
        folder = self.root / ("moe" if moe else "dense")
        with _starting:
            if not folder.exists():
                from vlrl.models.config_json import FAMILIES
                from vlrl.models.tiny import build_tiny

                build_tiny(folder, TEXTS, family=FAMILIES["qwen3_vl_moe" if moe else "qwen3_vl"])
        return folder


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """How a rank's process ended, and what it printed."""

    exit_code: int | None
    printed: str


def start(
    loop: Loop, ranks: int, injections: Iterable[Injection] = (), *, disk: Path | None = None, lost: int | None = None
) -> list[End]:
    """Runs the command on its ranks until all have ended, and returns their ends; an exit code of None is of one that hangs.

    If a rank is killed, the others are killed too, as a machine that fails takes all of its processes. lost: the rank that the
    injections kill or stop for good; the others must end by themselves.
    """
    settings = [f"{key}={json.dumps(value, default=str)}" for key, value in loop.overrides.items()]
    arguments = [json.dumps([each.as_json() for each in injections]), "train", "configs/cpu.yaml", *settings]
    env = {"GOMP_SPINCOUNT": "20000"} | os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "400", FLAG: str(flag(loop))}
    env |= {DISK: str(disk)} if disk else {}
    with _starting:
        processes = [WarmProcess("tests.faults.launcher", arguments, env=env | each, cwd=ROOT) for each in _places(ranks)]
    until = time.monotonic() + PATIENCE_S
    others = [each for rank, each in enumerate(processes) if rank != lost]
    while any(each.poll() is None for each in others) and time.monotonic() < until:
        if lost is None and any(each.poll() == -signal.SIGKILL for each in processes):
            break
        time.sleep(0.02)
    hangs = time.monotonic() >= until
    for each in processes:
        each.kill()
    printed = [each.communicate(timeout=PATIENCE_S)[0] for each in processes]
    return [
        End(exit_code=None if hangs else each.returncode, printed=text) for each, text in zip(processes, printed, strict=True)
    ]


def flag(loop: Loop) -> Path:
    """The file that makes the verifier of this run fail."""
    return Path(loop.overrides["model"]).parent / f"{loop.overrides['name']}.flag"


def _places(ranks: int) -> list[dict[str, str]]:
    """What a launcher would put into each rank's environment; nothing for a run alone."""
    if ranks == 1:
        return [{}]
    size, port = str(ranks), str(free_port())
    group = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [group | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]


def mount_disk(folder: Path) -> bool:
    """Mounts a small file system; False where this process may not."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(folder)]
    return os.geteuid() == 0 and not subprocess.run(command, check=False, capture_output=True).returncode


def unmount_disk(folder: Path) -> None:
    subprocess.run(["umount", str(folder)], check=True)


def difference(loop: Loop, straight: Loop) -> str:
    """What differs first between what two finished runs left; empty if nothing does."""
    return _metrics_difference(loop, straight, range(1, STEPS + 1)) or _rest_difference(loop, straight)


def difference_but_for_lost_metrics(loop: Loop, straight: Loop) -> str:
    """The same for a run that has lost the first step's metrics."""
    return _metrics_difference(loop, straight, range(2, STEPS + 1)) or _rest_difference(loop, straight)


def difference_but_for_timeouts(loop: Loop, straight: Loop) -> str:
    """The same for a run that continued after timeouts: of the step that they hit all but their rollouts, of earlier ones all."""
    hit = min((line["step"] for line in loop.rollouts if line["status"] == "timeout"), default=0)
    if not hit:
        return "no rollout has the status timeout"
    for one, other in zip(loop.rollouts, straight.rollouts, strict=True):
        sampled = [name for name in one if name not in ("advantage", "reward", "verifier_reward", "parts", "status", "detail")]
        names = list(one) if one["step"] < hit else sampled
        names += ["verifier_reward"] * (one["step"] == hit and one["status"] != "timeout")
        if one["step"] <= hit and any(one[name] != other[name] for name in names):
            return f"a rollout of step {one['step']}"
    return ""


def _metrics_difference(loop: Loop, straight: Loop, steps: Iterable[int]) -> str:
    if [line["step"] for line in loop.metrics] != list(steps):
        return f"metrics.jsonl has the steps {[line['step'] for line in loop.metrics]}"
    expected = {line["step"]: line for line in straight.steady_metrics}
    for line in loop.steady_metrics:
        other = expected[line["step"]]
        if names := [name for name in line | other if line.get(name) != other.get(name)]:
            return f"metrics of step {line['step']}: {', '.join(names[:5])}"
    return ""


def _rest_difference(loop: Loop, straight: Loop) -> str:
    """What differs first between two finished runs' rollouts, traces, models, summaries and last checkpoints."""
    for name in ("rollouts.jsonl", "histograms.jsonl", "tokens.jsonl"):
        if (loop.folder / name).read_bytes() != (straight.folder / name).read_bytes():
            return name
    if not same_weights(loop.weights(), straight.weights()):
        return "the exported model"
    if loop.summary != straight.summary:
        return "summary.json"
    return _checkpoint_difference(*(each.folder / f"checkpoints/step-{STEPS:06d}" for each in (loop, straight)))


def _checkpoint_difference(one: Path, other: Path) -> str:
    names = [sorted(path.name for path in folder.rglob("*.pt")) for folder in (one, other)]
    if names[0] != names[1] or not names[0]:
        return f"the last checkpoint has {names[0]}, not {names[1]}"
    if json.loads((one / "state.json").read_text()) != json.loads((other / "state.json").read_text()) | _own(one):
        return "state.json of the last checkpoint"
    for path in sorted(one.rglob("*.pt")):
        same = other / path.relative_to(one)
        if where := next(_unequal(*(torch.load(each, weights_only=False) for each in (path, same))), ""):
            return f"{path.name} of the last checkpoint: {where}"
    return ""


def _own(checkpoint: Path) -> dict[str, Any]:
    """What the state of a run's checkpoint says about where the run is, and about the memory that it measured."""
    state = json.loads((checkpoint / "state.json").read_text())
    own = ("name", "runs", "checkpoints", "max_tokens_per_micro_batch", "tokens_per_patch")
    return {name: state[name] for name in own if name in state}


def _unequal(one: Any, other: Any, where: str = "") -> Iterator[str]:
    """Names each place at which two nests of values and tensors differ in a bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if not (one.dtype == other.dtype and torch.equal(one, other)):
            yield where
    elif isinstance(one, Mapping) and isinstance(other, Mapping):
        if list(one) != list(other):
            yield where
        else:
            for key, value in one.items():
                yield from _unequal(value, other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
        if len(one) != len(other):
            yield where
        for number, (each, same) in enumerate(zip(one, other, strict=False)):
            yield from _unequal(each, same, f"{where}.{number}")
    elif type(one) is not type(other) or (hasattr(one, "__dict__") and vars(one).keys() != vars(other).keys()):
        yield where
    elif hasattr(one, "__dict__") and not callable(one):
        yield from _unequal(vars(one), vars(other), where)
    elif not callable(one) and one != other:
        yield where


def slug(text: str) -> str:
    """The text as a run's name."""
    return re.sub(r"\W+", "-", text).strip("-")


def remove(loop: Loop) -> None:
    """Frees the disk of a run whose cell is done."""
    shutil.rmtree(loop.folder, ignore_errors=True)
    flag(loop).unlink(missing_ok=True)
