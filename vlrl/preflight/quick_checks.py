"""Checks a run in seconds, before torch is imported on a CPU: folders, tasks, data sets, verifiers, and a resumed run's settings.

Faults of files and settings are reported together, one sentence each. If there are none, the verifiers are tested. full_checks
later checks what needs the model's processor. A bad row that the checks miss costs its own group, not the run.
"""

import json
from collections.abc import Iterator
from functools import partial

from vlrl.config import Config
from vlrl.data.images import open_image
from vlrl.data.row_checks import check_apart
from vlrl.data.shards import Dataset, check_row
from vlrl.distributed.same_run import check_same_config
from vlrl.inputs import Inputs, attempt_each, heldout_folders, representative_rows, spread, train_rows
from vlrl.models.config_json import read_local_config, text_config_of
from vlrl.preflight.machine import machine_faults
from vlrl.preflight.model_settings import setting_faults
from vlrl.preflight.verifier_checks import service_faults, verifier_faults
from vlrl.tasks import describe_error, load_task
from vlrl.types import Draw, Row

_HASHED_BYTES = 1 << 30  # larger data sets are not hashed; hashing this much takes about a second
_MAX_READ = 20_000


def check_inputs(config: Config, *, world_size: int = 1, to_train: bool = True) -> None:
    """Raises ValueError with one line per fault.

    to_train: False if the model will only be sampled, which needs no mixture and no checkpoint.
    """
    mixture = config.mixture
    tasks, task_faults = attempt_each(
        {name: partial(load_task, mix.task or name, config.task_folders) for name, mix in mixture.items()}
    )
    rows, row_faults = attempt_each({name: partial(train_rows, name, mix) for name, mix in mixture.items()})
    heldout, heldout_faults = attempt_each({name: partial(Dataset, folder) for name, folder in heldout_folders(config).items()})
    inputs = Inputs(config=config, tasks=tasks, rows=rows)
    faults = [*_setting_faults(config, world_size), *task_faults, *row_faults, *heldout_faults]
    if to_train and not row_faults:
        faults += _mixture_faults(inputs)
        faults += attempt_each({name: partial(check_apart, rows[name], held_out) for name, held_out in heldout.items()})[1]
    faults += _data_faults(inputs, demonstrated=config.coldstart.steps > 0)
    faults += _data_faults(inputs.with_rows(heldout), demonstrated=False)
    if to_train and not (task_faults or row_faults):
        faults += _resume_faults(inputs, world_size)
    faults += machine_faults(config)
    faults += service_faults(config)
    if not faults:
        datasets = {name: [each[name] for each in (rows, heldout) if name in each] for name in tasks}
        faults += verifier_faults(config, tasks, datasets)
    if faults:
        raise ValueError("\n".join(dict.fromkeys(faults)))


def _setting_faults(config: Config, world_size: int) -> Iterator[str]:
    """Settings that do not fit the ranks or the model. A model on the hub is checked after its download."""
    replicas = len(config.rollout.hosts) or config.rollout.replicas or world_size
    if config.rollout.is_separate and replicas % world_size:
        yield (
            f"rollout: {replicas} replicas are not divisible by {world_size} ranks; each rank samples with replicas of its own; "
            f"use a multiple of {world_size}"
        )
    if world_size % config.ranks_per_engine:
        yield (
            f"engine.tensor_parallel: {world_size} ranks are not divisible by {config.ranks_per_engine}; start a multiple of it"
        )
    try:
        model = read_local_config(config.model)
    except ValueError as error:
        yield str(error)
    else:
        yield from setting_faults(config, text_config_of(model), world_size) if model else ()


def _mixture_faults(inputs: Inputs) -> Iterator[str]:
    mixtures = {"": inputs.mixture}
    if inputs.config.coldstart.steps:
        mixtures["cold start: "] = inputs.coldstart_mixture
    for phase, mixture in mixtures.items():
        try:
            mixture()
        except ValueError as error:
            yield f"{phase}{error}"


def _resume_faults(inputs: Inputs, world_size: int) -> Iterator[str]:
    """Differences from the newest checkpoint's settings. Loading checks later whether the checkpoint is complete."""
    states = sorted((inputs.config.folder / "checkpoints").glob("step-*/state.json"))
    for path in states[-1:]:
        try:
            state = json.loads(path.read_text())
        except json.JSONDecodeError:
            return
        try:
            check_same_config(state, inputs.resume_identity(world_size), step=int(path.parent.name.removeprefix("step-")))
        except ValueError as error:
            yield str(error)


def _data_faults(inputs: Inputs, *, demonstrated: bool) -> Iterator[str]:
    """Checks each data set's bytes, its rows, and the prompts of a few rows. demonstrated: every row needs a response."""
    for name, dataset in inputs.rows.items():
        if not len(dataset):
            yield f"{dataset.folder} has no rows; build it again: vlrl data build RECIPE --out FOLDER"
            continue
        if sum(facts["bytes"] for facts in dataset.manifest.files.values()) <= _HASHED_BYTES:
            _, faults = attempt_each({"": dataset.verify})
            if faults:
                yield from faults
                continue
        numbers = spread(len(dataset), _MAX_READ)
        rows, unreadable = attempt_each({number: partial(_read_row, dataset, number, demonstrated) for number in numbers})
        yield from _first_of(dataset, unreadable, len(numbers))
        if name in inputs.tasks:
            tried = representative_rows(rows)
            _, unusable = attempt_each({number: partial(_try_prompt, inputs, name, number) for number in tried})
            yield from _first_of(dataset, unusable, len(tried))


def _first_of(dataset: Dataset, faults: list[str], num_tried: int) -> Iterator[str]:
    if faults:
        yield f"{dataset.folder}: {len(faults)} of {num_tried} checked rows cannot be used; the first: {faults[0]}"


def _read_row(dataset: Dataset, number: int, demonstrated: bool) -> Row:
    """Reads a row. Raises ValueError if it is damaged, has unknown fields, or lacks what the run needs."""
    try:
        row = dataset[number]
    except (ValueError, TypeError) as error:
        raise ValueError(f"row {number} cannot be read ({error}); build the data set again") from None
    check_row(row, row.key)
    if demonstrated and not row.response:
        raise ValueError(f"row {row.key} has no response to learn from; set coldstart.steps to 0, or write one in to_row")
    return row


def _try_prompt(inputs: Inputs, name: str, number: int) -> None:
    """Raises ValueError if the row's prompt cannot be made or one of its images cannot be opened."""
    row = inputs.rows[name][number]
    try:
        inputs.prompt(Draw(slot=0, task=name, index=number, minibatch=0), 1)
    except ValueError:
        raise
    except Exception as error:  # the task's code may raise anything
        path = inputs.tasks[name].path
        raise ValueError(f"{path}: prompt fails for row {row.key} ({describe_error(error)})") from error
    for ref in row.images:
        try:
            open_image(ref, max_side=inputs.config.images.max_side)
        except ValueError as error:
            raise ValueError(f"row {row.key}: {error}") from None
