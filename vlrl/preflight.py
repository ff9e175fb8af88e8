"""Everything that can be refused before a run starts, each fault as one sentence.

The checks go from cheap to dear and end at the first kind that finds a fault, with all faults of that kind. Every rank opens
the run; the first alone looks at examples, disk and data, and all ranks stop with the same sentences or none does. A bad row
that no check meets costs its own group, not the run.
"""

import json
import math
import os
import shutil
from collections.abc import Iterator
from functools import partial

import torch

from vlrl.checkpoint import check_same_config
from vlrl.config import Config
from vlrl.data.shards import Dataset, check_row
from vlrl.model.load import check_model, is_mixture, num_experts
from vlrl.ranks import Ranks
from vlrl.rollout.groups import encode_prompt
from vlrl.rollout.reward import unknown_parts
from vlrl.run import Run, attempt_each, open_each, open_run
from vlrl.tasks import check_examples, gold, verdict
from vlrl.types import Draw, Row, Status
from vlrl.verifiers.sandbox import ISOLATION

_HASHED_BYTES = 1 << 30  # of one data set; hashing it all takes about a second
_MAX_READ = 20_000
_LONGEST, _SPREAD = 2, 4  # rows of each data set that are encoded and scored


def preflight(config: Config, ranks: Ranks, *, to_train: bool = True) -> Run:
    """The run, opened and checked; all ranks call it. ValueError, the same on every rank, a line for each fault.

    to_train: False where the model will only be sampled, which needs no mixture, no disk and no checkpoint.
    """
    if ranks.size % config.engine.tensor_parallel:
        raise ValueError(
            f"engine.tensor_parallel: {ranks.size} ranks do not split into engines of {config.engine.tensor_parallel}; "
            "start a multiple of it"
        )
    os.environ[ISOLATION] = config.scoring.isolation  # for the examples here, and for the scoring workers
    fault = ""
    try:
        run = open_run(config, ranks)
        if ranks.is_first:
            _check(run, to_train)
    except (ValueError, OSError) as error:
        fault = str(error)
    faults = dict.fromkeys(filter(None, ranks.gather(fault)))
    if faults:
        raise ValueError("\n".join(faults))
    return run


def _check(run: Run, to_train: bool) -> None:
    """ValueError with a line for each fault of the first kind that has any."""
    training = (_mixture, _resume, _disk) if to_train else ()
    for faults_of in (_settings, *training, _examples, _data):
        if faults := list(faults_of(run)):
            raise ValueError("\n".join(faults))


def _settings(run: Run) -> Iterator[str]:
    """Settings that the model cannot follow."""
    config = run.config
    text = check_model(config.model)["text_config"]
    longest = text["max_position_embeddings"]
    replay = config.algorithm.routing_replay
    if replay != "none" and not is_mixture(text):
        yield f"algorithm.routing_replay: model {config.model!r} has no experts to replay; leave it out"
    elif replay == "r3" and not torch.cuda.is_available():
        yield "algorithm.routing_replay: vLLM tells its experts on GPUs only, so r3 can't run here; use r2"
    if (dealt := config.policy.expert_parallel) > 1:
        if not is_mixture(text):
            yield f"policy.expert_parallel: model {config.model!r} has no experts to deal; leave it out"
        elif run.ranks.size % dealt or num_experts(text) % dealt:
            yield (
                f"policy.expert_parallel: {run.ranks.size} ranks and {num_experts(text)} experts do not both split into "
                f"{dealt}; use a common divisor"
            )
    if config.engine.max_model_len > longest:
        yield f"engine.max_model_len: {config.engine.max_model_len} tokens, and model {config.model!r} was made for {longest}"


def _mixture(run: Run) -> Iterator[str]:
    mixtures = {"": run.mixture}
    if run.config.coldstart.steps:
        mixtures["cold start: "] = run.coldstart_mixture
    for phase, mixture in mixtures.items():
        try:
            mixture()
        except ValueError as error:
            yield f"{phase}{error}"


def _examples(run: Run) -> Iterator[str]:
    for name, task in run.tasks.items():
        if faults := check_examples(task):
            yield from faults
            continue
        known = {part for response, row, _ in task.examples for part in verdict(task, response, row).parts}
        for part in unknown_parts(run.config.mixture[name].reward, known):
            yield (
                f"mixture.{name}.reward: no score of {task.path} has a part {part!r}; "
                f"its examples' have {', '.join(sorted(known)) or 'none'}, and the verifier's own is 'reward'"
            )


def _resume(run: Run) -> Iterator[str]:
    """Differences from the newest checkpoint's settings; whether that one is whole is for loading to find out."""
    states = sorted((run.config.folder / "checkpoints").glob("step-*/state.json"))
    for path in states[-1:]:
        try:
            state = json.loads(path.read_text())
        except json.JSONDecodeError:
            return
        try:
            check_same_config(state, run.identity, step=int(path.parent.name.removeprefix("step-")))
        except ValueError as error:
            yield str(error)


def _disk(run: Run) -> Iterator[str]:
    config = run.config
    need = bytes_needed(config, _num_parameters(config.model))
    parts = [config.folder / name for name in ("checkpoints", "coldstart", "model")]
    there = sum(path.stat().st_size for part in parts for path in part.rglob("*") if path.is_file())
    parent = next(path for path in (config.folder.absolute(), *config.folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(parent).free
    if need > there + free:
        yield (
            f"{config.folder}: its checkpoints and models need {(need - there) / 1e9:.2f} GB more, and {free / 1e9:.2f} GB "
            "are free; lower checkpoints.keep, or set `runs` to a folder on a larger disk"
        )


def bytes_needed(config: Config, num_parameters: int) -> int:
    """What the run's folder holds at most: the checkpoints kept and the one being written, and the exported models.

    DeepSpeed saves 12 bytes a parameter (fp32 weights and Adam's two moments) and, at ZeRO stages 1 and 2, the model's
    own weights beside them.
    """
    weight = 4 if config.policy.dtype == "float32" else 2
    checkpoint = 12 + (weight if config.policy.zero_stage in (1, 2) else 0)
    every = config.checkpoints.every or config.steps
    num_checkpoints = min(config.checkpoints.keep + 1, math.ceil(config.steps / every))
    num_checkpoints += config.on_collapse == "rollback"  # the one to go back to
    num_models = 2 if config.coldstart.steps else 1
    return num_parameters * (num_checkpoints * checkpoint + num_models * weight)


def _num_parameters(model: str) -> int:
    from transformers import AutoConfig, AutoModelForImageTextToText

    with torch.device("meta"):
        qwen = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(model))
    return sum(parameter.numel() for parameter in qwen.parameters())


def _data(run: Run) -> Iterator[str]:
    config = run.config
    heldout = open_each({task: partial(Dataset, mix.eval_rows) for task, mix in config.mixture.items() if mix.eval_rows})
    for rows_by_task, demonstrated in ((run.rows, config.coldstart.steps > 0), (heldout, False)):
        for task in rows_by_task:
            yield from _dataset_faults(run.with_rows(rows_by_task), task, demonstrated)


def _dataset_faults(run: Run, task: str, demonstrated: bool) -> Iterator[str]:
    """Of the task's data set: its bytes, its rows, and the prompts of a few of them. demonstrated: it needs responses."""
    dataset = run.rows[task]
    if not len(dataset):
        yield f"{dataset.folder} holds no rows; build it again: vlrl data build RECIPE --out FOLDER"
        return
    if sum(facts["bytes"] for facts in dataset.manifest.files.values()) <= _HASHED_BYTES:
        _, faults = attempt_each({"": dataset.verify})
        if faults:
            yield from faults
            return
    num_read = min(len(dataset), _MAX_READ)
    numbers = [place * len(dataset) // num_read for place in range(num_read)]
    rows, unreadable = attempt_each({number: partial(_read_row, dataset, number, demonstrated) for number in numbers})
    telling = _telling(rows)
    _, unusable = attempt_each({number: partial(_try_row, run, task, number) for number in telling})
    for faults, num_tried in ((unreadable, num_read), (unusable, len(telling))):
        if faults:
            yield f"{dataset.folder}: {len(faults)} of {num_tried} rows looked at can't be used; the first: {faults[0]}"


def _read_row(dataset: Dataset, number: int, demonstrated: bool) -> Row:
    """ValueError where it is torn, holds what a row has no place for, or lacks what it is needed for."""
    try:
        row = dataset[number]
    except (ValueError, TypeError) as error:
        raise ValueError(f"row {number} cannot be read ({error}); build the data set again") from None
    check_row(row, row.key)
    if demonstrated and not row.response:
        raise ValueError(f"row {row.key} has no response to learn from; set coldstart.steps to 0, or write one in to_row")
    return row


def _telling(rows: dict[int, Row]) -> list[int]:
    """The rows of the longest questions, and some spread over those with images, or over all where none has any."""
    longest = sorted(rows, key=lambda number: len(rows[number].question))[-_LONGEST:]
    among = [number for number in rows if rows[number].images] or list(rows)
    spread = [among[place * len(among) // _SPREAD] for place in range(_SPREAD) if among]
    return sorted({*longest, *spread})


def _try_row(run: Run, task: str, number: int) -> None:
    """ValueError where the row can't become a prompt, or its own answer can't be scored."""
    row = run.rows[task][number]
    try:
        prompt = run.prompt(Draw(slot=0, task=task, index=number, minibatch=0), 1)
        encode_prompt(prompt, run.encoder, run.config.engine.max_model_len)
    except ValueError:
        raise
    except Exception as error:  # the task's prompt is foreign code
        fault = f"{type(error).__name__}: {error}"
        raise ValueError(f"{run.tasks[task].path}: no prompt can be made of row {row.key} ({fault})") from error
    # A verifier looks at the reference once there is an answer to hold against it.
    score = verdict(run.tasks[task], gold(row), row)
    if score.status is not Status.OK:
        raise ValueError(f"task {task}, row {row.key}: its answer can't be scored, verify gives {score.status}: {score.detail}")
