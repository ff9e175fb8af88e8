"""The files of evaluations and filters: each row's rewards, and what they depend on. Needs neither a model nor torch."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vlrl.common.fingerprint import weights_fingerprint
from vlrl.common.jsonl import read_jsonl, write_atomically
from vlrl.config import Config, EvaluationConfig
from vlrl.data.shards import Dataset
from vlrl.evaluation.compare import SUMMARY
from vlrl.inputs import Inputs, heldout_folders, open_each
from vlrl.stats import EvalResult, eval_result
from vlrl.tasks import load_task
from vlrl.types import RowRewards


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """The rows to sample, the sampling settings, and the file of the rewards, from which a stopped measurement resumes.

    It covers the first settings.rows rows of the data set.
    """

    task: str
    dataset: Dataset
    settings: EvaluationConfig
    path: Path

    @property
    def num_rows(self) -> int:
        return min(len(self.dataset), self.settings.rows)


def heldout_rows(inputs: Inputs) -> dict[str, Dataset]:
    """The held-out rows of each task that names any."""
    return {task: Dataset(folder) for task, folder in heldout_folders(inputs.config).items()}


def evaluations(inputs: Inputs, out: Path) -> dict[str, list[Measurement]]:
    """What `vlrl eval` measures, by preset ("" for the run file's own settings): one file for each task that names held-out rows.

    The files are in OUT and OUT/PRESET.
    """
    return {name: _measurements_of(inputs, name, out / name) for name in inputs.config.evaluation.all_presets()}


def _measurements_of(inputs: Inputs, name: str, out: Path) -> list[Measurement]:
    """The measurements of one preset. A task's own eval_samples replaces the number of samples, unless the preset sets one."""
    evaluation, preset = inputs.config.evaluation, inputs.config.evaluation.presets.get(name)
    settings = evaluation.all_presets()[name]
    found = []
    for task, rows in heldout_rows(inputs).items():
        samples = (preset and preset.samples) or inputs.config.mixture[task].eval_samples or settings.samples
        of_task = settings.model_copy(update={"samples": samples})
        found.append(Measurement(task=task, dataset=rows, settings=of_task, path=out / f"{task}.jsonl"))
    return found


def origin(inputs: Inputs, weights: str, measurement: Measurement) -> dict[str, Any]:
    """What the rewards depend on. weights: the fingerprint of the model's weights."""
    config, task, settings = inputs.config, measurement.task, measurement.settings
    mix, timeout_s = config.mixture[task], config.mixture[task].scoring.timeout_s or config.scoring.timeout_s
    return {
        "data": measurement.dataset.fingerprint,
        "weights": weights,
        "task_file": inputs.tasks[task].fingerprint,
        **config.model_dump(mode="json", include={"model", "template_kwargs", "seed", "images"}),
        **mix.model_dump(mode="json", include={"task", "system", "instruction"}),
        **settings.model_dump(include={"samples", "temperature", "top_p", "top_k"}),
        "max_new_tokens": settings.max_new_tokens or config.max_new_tokens(task),
        "dtype": config.policy.dtype,
        "engine": config.engine.model_dump(mode="json", include={"max_model_len", "vllm"}),
        "scoring": config.scoring.model_dump(mode="json", include={"memory_mb", "isolation"}) | {"timeout_s": timeout_s},
    }


def fault(inputs: Inputs, weights: str, measurement: Measurement) -> str:
    """Why the measurement cannot resume from its file. Empty if it can, or if there is no file."""
    path, now = measurement.path, origin(inputs, weights, measurement)
    head, *rows = list(read_jsonl(path)) or [now]
    remedy = "give another --out, or remove that file to measure again"
    if head != now:
        names = [name for name in {**head, **now} if head.get(name) != now.get(name)]
        changes = ", ".join(f"{name} was {head.get(name)} and is now {now.get(name)}" for name in names)
        return f"{path} was measured with other settings: {changes}; {remedy}"
    if len(rows) > measurement.num_rows:
        return f"{path} holds {len(rows)} rows, but evaluation.rows now allows only {measurement.num_rows}; {remedy}"
    return ""


def row_rewards(line: Mapping[str, Any]) -> RowRewards:
    """Parses a line of a measurement's file; the first line has the settings instead."""
    return RowRewards(row=line["row"], rewards=tuple(line["rewards"]), failed=line["failed"])


def write_summary(folder: Path, model: str, found: Mapping[str, EvalResult]) -> None:
    """Writes the results of one preset, by task."""
    tasks = {task: asdict(each) for task, each in found.items()}
    write_atomically(folder / SUMMARY, [json.dumps({"model": model, "tasks": tasks}, indent=2) + "\n"])


def finished_evaluation(config: Config, out: Path) -> dict[str, dict[str, EvalResult]] | None:
    """The evaluation in OUT, by preset and task. None if a row is missing, or if any setting has changed."""
    try:
        tasks = open_each(
            {name: partial(load_task, mix.task or name, config.task_folders) for name, mix in config.mixture.items()}
        )
        inputs = Inputs(config=config, tasks=tasks, rows={})
        measurements = evaluations(inputs, out)
    except ValueError:  # the run's own checks will report it
        return None
    every = [each for of_preset in measurements.values() for each in of_preset]
    lines = {each.path: list(read_jsonl(each.path)) for each in every}  # the first says what the others depend on
    if not every or any(len(lines[each.path]) != 1 + each.num_rows for each in every):
        return None
    weights = weights_fingerprint(config.model)
    if any(fault(inputs, weights, each) for each in every):
        return None
    found = {
        preset: {
            each.task: eval_result(list(map(row_rewards, lines[each.path][1:])), each.settings.samples) for each in of_preset
        }
        for preset, of_preset in measurements.items()
    }
    for preset, of_tasks in found.items():
        write_summary(out / preset, config.model, of_tasks)
    return found
