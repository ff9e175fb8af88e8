"""The check of a whole run, by the command that a user types: vLLM and DeepSpeed in one process, two steps, and a resume."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from bench.gpu.checking import Scale, Tell
from bench.gpu.models import checkpoint

# A random model finds no right answer. This reward tells its responses apart, so that every step has a gradient.
_TASK = """from vlrl.tasks import gold
from vlrl.types import Row, Score


def prompt(row):
    images = [{"type": "image", "image": image} for image in row.images]
    return [{"role": "user", "content": [*images, {"type": "text", "text": row.question}]}]


def verify(response, row):
    return Score(reward=float(len(response) % 2 == 0 or response == gold(row)))


EXAMPLES = [("ab", Row(), 1.0), ("abc", Row(), 0.0)]
"""
_TASKS = ("digits", "functions")
"""One with pictures, one of text: their rows are made by recipes that need no network."""


def whole_run(scale: Scale, tell: Tell) -> None:
    """Two steps with sleep, wake, weight sync and canary, then a third from the checkpoint. Rollouts differ in length alone."""
    run_file = _prepare(scale)
    _finish(tell, "train", run_file, "steps=2")
    lines = _metrics(scale.folder)
    _finish(tell, "train", run_file, "steps=3")
    resumed = _metrics(scale.folder)
    for name, value in resumed[-1].items():
        if name.startswith(("time/", "sync/", "engine/abs_log_ratio/", "rollout/tokens/")):
            tell(name, value)
    if resumed[:2] != lines or [line["step"] for line in resumed] != [1, 2, 3]:
        tell.fault(f"the resumed run logged steps {[line['step'] for line in resumed]}, or changed the lines of steps 1 and 2")
    if idle := [line["step"] for line in resumed if not any(line[f"policy/grad_norm/minibatch_{number}"] for number in (1, 2))]:
        tell.fault(f"no gradient in steps {idle}")


def _prepare(scale: Scale) -> Path:
    """Writes task, rows and run file. Returns the run file."""
    folder = scale.folder
    (folder / "tasks").mkdir(exist_ok=True)
    mixture = {}
    for name in _TASKS:
        (folder / "tasks" / f"even_{name}.py").write_text(_TASK)
        _command("data", "build", f"data_recipes/{name}.py", "--out", folder / "data" / name, "--train", 64, "--eval", 8)
        mixture[f"even_{name}"] = {"weight": 1, "rows": str(folder / "data" / name / "train")}
    settings: dict[str, Any] = {
        "name": "whole",
        "runs": str(folder / "runs"),
        "model": checkpoint(scale),
        "steps": 2,
        "prompts_per_step": 8 if scale.on_gpu else 4,
        "task_folders": ["tasks", str(folder / "tasks")],
        "mixture": mixture,
        "sampling": {"group_size": 8, "max_new_tokens": 256 if scale.on_gpu else 80},
        "policy": {"dtype": str(scale.dtype).removeprefix("torch."), "lr": 1e-6, "gradient_checkpointing": scale.on_gpu},
        "engine": {"max_model_len": 2048, "gpu_memory_utilization": 0.3},
        "scoring": {"isolation": "limits"},  # no code is scored
        "checkpoints": {"every": 2, "keep": 1},
        "wandb": {"mode": "disabled"},
    }
    path = folder / "whole.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def _finish(tell: Tell, *arguments: str | Path) -> None:
    printed = _command(*arguments)
    for line in printed.splitlines():
        if "Largest micro-batch" in line:
            tell("largest micro-batch", line.rpartition(": ")[2])


def _command(*arguments: Any) -> str:
    """What a vlrl command printed. RuntimeError with its end if it failed."""
    done = subprocess.run(_vlrl(arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        print(done.stdout)
        last = [line for line in done.stdout.splitlines() if line.strip()][-1:]
        raise RuntimeError(f"vlrl {arguments[0]} ended with {done.returncode}: {''.join(last)}")
    return done.stdout


def _vlrl(arguments: Sequence[Any]) -> list[str]:
    return [sys.executable, "-m", "vlrl.cli", *map(str, arguments)]


def _metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "runs" / "whole" / "metrics.jsonl").read_text().splitlines()]
