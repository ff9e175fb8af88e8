"""Reads a run for its model card: the export, the settings, the evaluation, and the data it was trained on."""

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from vlrl.common.jsonl import read_json
from vlrl.config import Config, TaskConfig
from vlrl.data.shards import Dataset
from vlrl.data.source_files import HUB, Source
from vlrl.hub.redaction import redacted
from vlrl.inputs import row_folders, train_rows
from vlrl.report.read import Line, check_is_run, read_steps
from vlrl.run_file import load_config
from vlrl.telemetry.made_with import read_made_with

_INDEX = "model.safetensors.index.json"
_NEEDED = {
    "model": ("config.json", "generation_config.json", "chat_template.jinja", "tokenizer.json", "tokenizer_config.json", _INDEX),
    "adapter": ("adapter_config.json", "adapter_model.safetensors"),
}
_PUBLISHED = (".json", ".jinja", ".safetensors", ".txt")


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskData:
    """What a task was trained on. revision: the commit on the hub. num_rows is None if the data are no longer on this machine."""

    task: str
    share: float
    file: str
    fingerprint: str
    source: str = ""
    hub_name: str = ""
    revision: str = ""
    licence: str = ""
    num_rows: int | None = None
    num_eval_rows: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedRun:
    """A run that has ended, or a run up to one of its checkpoints.

    kind: model, for the whole or the merged model, or adapter. export: the folder with its files. base: the model on the hub that
    it was made from; empty if that is not on the hub. summary, metrics: up to summary["steps"].
    """

    folder: Path
    kind: str
    export: Path
    base: str
    config: Config
    summary: dict[str, Any]
    metrics: list[Line]
    data: list[TaskData]
    made_with: dict[str, Any]

    @property
    def files(self) -> list[Path]:
        """The export's files to publish."""
        return sorted(path for path in self.export.iterdir() if path.suffix in _PUBLISHED)


def read_finished(folder: Path, *, adapter: bool, base: str = "", checkpoint: int | None = None) -> FinishedRun:
    """Reads the run. adapter: for the adapter that a LoRA run trained, instead of the merged model.

    checkpoint: the step whose model is wanted; it is exported first, into the run's folder.
    base: the hub's name of the model that the run began with, if the run file names a folder.
    Raises ValueError if the run has not finished, if its export lacks a file, and for an adapter whose base is not on the hub.
    """
    check_is_run(folder)
    config = load_config(folder / "config.yaml")
    if adapter and not config.lora:
        raise ValueError(f"{folder} trained the whole model, so it has no adapter; leave out --adapter")
    kind = "adapter" if adapter else "model"
    if checkpoint is None and not ((folder / "summary.json").exists() and (folder / kind).is_dir()):
        raise ValueError(
            f"{folder} has not finished: it has no {kind}/ and summary.json yet; `vlrl train` with its run file resumes it, and "
            "--checkpoint STEP pushes a checkpoint"
        )
    made_with = read_made_with(folder)
    base = base or _base_on_hub(config, made_with, adapter)
    if adapter and not base:
        began = "its own cold start, coldstart/" if config.coldstart.steps else f"the folder {config.model}"
        raise ValueError(
            f"{folder}: the adapter belongs to {began}, which has no name on the hub; give the name of that model there with "
            "--base-model OWNER/NAME, or push the merged model without --adapter"
        )
    metrics, before = read_steps(folder).metrics, _before(folder)
    if checkpoint is None:
        export, summary = folder / kind, read_json(folder / "summary.json", "resume the run to write it again")
    else:
        export, summary = _exported(folder, config, checkpoint, kind), _summary_at(checkpoint, metrics, before)
    _check_export(export, kind)
    return FinishedRun(
        folder=folder,
        kind=kind,
        export=export,
        base=base,
        config=config,
        summary=summary,
        metrics=[line for line in metrics if line["step"] <= summary["steps"]],
        data=list(_data(config, before.get("of", {}).get("origin", {}))),
        made_with=made_with,
    )


def _exported(folder: Path, config: Config, step: int, kind: str) -> Path:
    """The folder with the model or the adapter of a checkpoint, written anew."""
    from vlrl.trainer.checkpoint_export import export_checkpoint

    out = folder / "exported" / f"step-{step:06d}" / kind
    shutil.rmtree(out, ignore_errors=True)
    export_checkpoint(folder, config, step, out, adapter=kind == "adapter")
    return out


def _base_on_hub(config: Config, made_with: dict[str, Any], adapter: bool) -> str:
    """The run file's model if it is one on the hub. An adapter that follows a cold start belongs to another model."""
    is_folder = (
        made_with.get("model_is_a_folder", False) or Path(config.model).exists() or config.model.startswith((".", "/", "~"))
    )
    return "" if is_folder or config.model.count("/") > 1 or (adapter and config.coldstart.steps) else config.model


def _check_export(export: Path, kind: str) -> None:
    """Raises ValueError for a file that is missing, or a weight file that cannot be read or is cut off."""
    remedy = "export it again: remove summary.json and run `vlrl train` with the run file"
    for name in _NEEDED[kind]:
        if not (export / name).is_file():
            raise ValueError(f"{export} lacks {name}; {remedy}")
    weights = set(json.loads((export / _INDEX).read_text())["weight_map"].values()) if kind == "model" else set(_NEEDED[kind][1:])
    for name in sorted(weights):
        try:
            with safe_open(export / name, "np"):
                pass
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{export / name} cannot be read ({error}); {remedy}") from None


def _before(folder: Path) -> dict[str, Any]:
    """The evaluation before the first step, with the fingerprints of data and task files that the run recorded then."""
    path = folder / "evaluated_before.json"
    return read_json(path, "without it, the card cannot say which data the run used; put it back") if path.exists() else {}


def _summary_at(step: int, metrics: list[Line], before: dict[str, Any]) -> dict[str, Any]:
    """What summary.json would say after the step, of the tasks that were evaluated then. Their intervals are not kept."""
    line = next((each for each in metrics if each["step"] == step), {})
    tasks = {}
    for task, each in before.get("tasks", {}).items():
        if f"eval/{task}" in line:
            was = each["average"]
            values = {"before": was["mean"], "before_interval": was["interval"], "rows": was["rows"]}
            tasks[task] = values | {"after": line[f"eval/{task}"], "after_interval": math.nan}
    return {"steps": step, "tasks": tasks}


def _data(config: Config, recorded: dict[str, Any]) -> Iterator[TaskData]:
    total = sum(mix.weight for mix in config.mixture.values())
    for task, mix in config.mixture.items():
        fingerprint = recorded.get("data", {}).get(task, "")
        about = {"task": task, "share": mix.weight / total, "fingerprint": fingerprint}
        about["file"] = recorded.get("task_files", {}).get(task, f"{mix.task or task}.py")
        try:
            rows = train_rows(task, mix)
        except ValueError:  # the data may be gone; the fingerprint stays
            rows = None
        if rows is None or (fingerprint and rows.fingerprint != fingerprint):
            yield TaskData(**about)
            continue
        source = _hub_source(rows.manifest.source)
        yield TaskData(
            **about | {"fingerprint": rows.fingerprint},
            source=f"{redacted(rows.manifest.source)} (recipe {rows.manifest.recipe}, version {rows.manifest.recipe_version})",
            hub_name=source.place if source else "",
            revision=source.revision if source else "",
            licence=rows.manifest.licence,
            num_rows=len(rows),
            num_eval_rows=_num_eval_rows(task, mix),
        )


def _hub_source(described: str) -> Source | None:
    """The data set on the hub that a manifest names as the source of its rows, if it does."""
    return Source.parse(described.partition(";")[0]) if described.startswith(HUB) else None


def _num_eval_rows(task: str, mix: TaskConfig) -> int | None:
    try:
        folder = row_folders(task, mix)[1]
        return len(Dataset(folder)) if folder else None
    except ValueError:
        return None
