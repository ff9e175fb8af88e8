"""A finished run's folder without a run: the files that training leaves, at a path that would give its owner away."""

import json
import shutil
from pathlib import Path
from typing import Any

from vlrl.data.shards import NewRow, write_dataset
from vlrl.run_file import dump_config, parse_config
from vlrl.telemetry.made_with import MADE_WITH
from vlrl.telemetry.metrics import step_metrics
from vlrl.telemetry.run_log import RunLog

OWNER = "telltale-kim"
QUESTION = "Which secret row is this?"
SERVICE = "telltale-judge.example"
STEPS = 12


def make_run(folder: Path, export: str, **settings) -> Path:
    """folder/telltale-kim/runs/sums, with a tiny model, the folder `export`, as its model. settings: more of the run file."""
    home = folder / OWNER
    data, run = home / "data" / "sums", home / "runs" / "sums"
    about: dict[str, Any] = {"licence": "CC BY 4.0", "recipe": "sums", "recipe_version": 2}
    about |= {"source": f"hub:made/sums@{'1f' * 20}; eval from {home}/more.jsonl (sha256 12ab)"}
    rows = [NewRow(question=f"{QUESTION} {number}", answer=str(number)) for number in range(12)]
    fingerprint = write_dataset(data / "train", rows[:7], **about).fingerprint
    write_dataset(data / "eval", rows[7:], **about)
    raw = {"name": "sums", "model": "made/base", "steps": STEPS, "prompts_per_step": 4, "runs": str(home / "runs")}
    raw |= {"mixture": {"sums": {"weight": 3, "rows": str(data / "train"), "eval_rows": str(data / "eval")}}}
    raw["mixture"]["logic"] = {"weight": 1, "rows": str(home / "data/gone"), "system": "Think in ``` fences, /no_think."}
    raw |= {"mlflow": {"uri": f"http://{OWNER}:password@{SERVICE}"}, "task_folders": [str(home / "tasks")]}
    raw |= {"scoring": {"judges": {"one": {"url": f"http://{SERVICE}/v1", "model": "judge", "key_env": "TELLTALE_KEY"}}}}
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(dump_config(parse_config(raw | settings, "here")))
    shutil.copytree(export, run / "model")
    origin = {"data": {"sums": fingerprint, "logic": "9f" * 8}, "task_files": {"sums": "sums.py 12ab", "logic": "logic.py 34cd"}}
    before = {"mean": 0.25, "interval": 0.1, "rows": 5}
    (run / "evaluated_before.json").write_text(json.dumps({"of": {"origin": origin}, "tasks": {"sums": {"average": before}}}))
    made_with = {"versions": {"vlrl": "1.0", "torch": "2.13.0"}, "ranks": 16, "ranks_per_host": 8, "device": "NVIDIA H200"}
    made_with |= {"model_is_a_folder": False, "arguments": ["train", f"{home}/run.yaml", "steps=12", f"runs={home}/runs"]}
    (run / MADE_WITH).write_text(json.dumps(made_with))
    log = RunLog(run)
    for step in range(1, STEPS + 1):
        metrics = {"reward/sums": step / STEPS, "reward/logic": 0.1, "time/step": 2.0} | ({"eval/sums": 0.3} if step == 6 else {})
        log.step(step, step_metrics(metrics))
        log.rollouts(step, [{"step": step, "messages": [{"role": "user", "content": QUESTION}]}])
    values = {"before": 0.25, "after": 0.5, "before_interval": 0.1, "after_interval": float("nan"), "rows": 5}
    log.summary({"steps": STEPS, "tasks": {"sums": values | {"failed_before": 0, "failed_after": 0}}, "mean": None})
    return run
