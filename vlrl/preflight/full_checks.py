"""What can be refused before a run starts, once its model's processor is there; vlrl.preflight.quick_checks comes before.

Every rank opens the run; the first alone looks at disk and data, and all ranks stop with the same sentences or none does.
"""

import logging
import math
import shutil
from collections.abc import Iterator
from functools import partial

import torch

from vlrl.config import Config
from vlrl.data.shards import Dataset
from vlrl.distributed.ranks import Ranks
from vlrl.inputs import attempt_each, spread, telling_rows
from vlrl.models.checkpoint_io import check_model
from vlrl.preflight.model_settings import setting_faults
from vlrl.rollout.groups import encode_prompt
from vlrl.run import Run, open_run
from vlrl.tasks import gold
from vlrl.types import Draw, Row

logger = logging.getLogger(__name__)

_MAX_READ = 2_000  # rows of each data set whose own answers are counted in tokens


def preflight(config: Config, ranks: Ranks, *, to_train: bool = True) -> Run:
    """The run, opened and checked; all ranks call it. ValueError, the same on every rank, a line for each fault.

    to_train: False where the model will only be sampled, which needs no disk.
    """
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
    """ValueError with a line for each fault. Warns of answers that are longer than a response may be, where not all are."""
    heldout = {task: Dataset(mix.eval_rows) for task, mix in run.config.mixture.items() if mix.eval_rows}
    sets = [(run.with_rows(rows), task, kind) for rows, kind in ((run.rows, "train"), (heldout, "eval")) for task in rows]
    faults = list(_setting_faults(run))
    faults += _disk_faults(run) if to_train else ()
    faults += [fault for of_set, task, _ in sets for fault in _encoding_faults(of_set, task)]
    if faults:
        raise ValueError("\n".join(dict.fromkeys(faults)))
    for of_set, task, kind in sets:
        said, has_room = _long_answers(of_set, task, kind)
        if said and not has_room and to_train:
            faults.append(said)
        elif said:
            logger.warning("%s", said)
    if faults:
        raise ValueError("\n".join(faults))


def _setting_faults(run: Run) -> Iterator[str]:
    """Settings that the model, or this machine with it, cannot follow."""
    yield from setting_faults(run.config, check_model(run.config.model)["text_config"], run.ranks.size)
    if run.config.algorithm.routing_replay == "r3" and not torch.cuda.is_available():
        yield "algorithm.routing_replay: vLLM returns routed experts on GPUs only, and this machine has none; use r2"


def _disk_faults(run: Run) -> Iterator[str]:
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
        built = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(model))
    return sum(parameter.numel() for parameter in built.parameters())


def _encoding_faults(run: Run, task: str) -> Iterator[str]:
    """Prompts of a few rows that the processor refuses, or that leave no room for a response."""
    numbers = telling_rows(_looked_at(run.rows[task]))
    _, faults = attempt_each({number: partial(_try_encoding, run, task, number) for number in numbers})
    if faults:
        yield f"{run.rows[task].folder}: {len(faults)} of {len(numbers)} rows looked at can't be used; the first: {faults[0]}"


def _try_encoding(run: Run, task: str, number: int) -> None:
    prompt = run.prompt(Draw(slot=0, task=task, index=number, minibatch=0), 1)
    encode_prompt(prompt, run.encoder, run.config.engine.max_model_len)


def _long_answers(run: Run, task: str, kind: str) -> tuple[str, bool]:
    """How many of the rows' own answers are longer than max_new_tokens, as a sentence, and whether a response has room for any.

    The sentence is empty where all fit.
    """
    config = run.config
    limit, setting = config.max_new_tokens(task), f"mixture.{task}.max_new_tokens"
    if kind == "eval" and config.evaluation.max_new_tokens:
        limit, setting = config.evaluation.max_new_tokens, "evaluation.max_new_tokens"
    answers = [gold(row) for row in _looked_at(run.rows[task]).values() if row.response or row.answer]
    lengths = [len(run.encoder.encode_response(answer)) for answer in answers]
    long = [length for length in lengths if length > limit]
    if not long:
        return "", True
    has_room = len(long) < len(lengths)
    number = f"{len(long)} of {len(lengths)}" if has_room else f"all {len(lengths)}"
    what = "is cut off" if has_room else "would be cut off before its reward"
    return (
        f"{run.rows[task].folder}: {number} own answers are longer than max_new_tokens {limit} (the longest has {max(long)} "
        f"tokens with its end), and a response like them {what}; set {setting} to {max(long)} or more"
    ), has_room


def _looked_at(dataset: Dataset) -> dict[int, Row]:
    return {number: dataset[number] for number in spread(len(dataset), _MAX_READ)}
