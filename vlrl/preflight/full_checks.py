"""Checks a run with its model's processor before it starts. vlrl.preflight.quick_checks runs earlier, without the model.

Every rank opens the run, and the first rank checks disk and data. On a fault, all ranks stop with the same message.
"""

import ast
import logging
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from vlrl.config import Config
from vlrl.data.shards import Dataset
from vlrl.distributed.ranks import Ranks
from vlrl.inputs import attempt_each, heldout_folders, representative_rows, spread
from vlrl.memory.storage import bytes_needed
from vlrl.models.checkpoint_io import check_model
from vlrl.models.delta_rule import kernel_fault
from vlrl.models.lora import lora_faults
from vlrl.models.sizes import ModelSizes
from vlrl.models.tensor_check import check_tensors, empty_model
from vlrl.preflight.memory_faults import memory_faults, this_machine
from vlrl.preflight.model_settings import setting_faults
from vlrl.rollout.devices import replica_devices
from vlrl.rollout.groups import encode_demonstration, encode_prompt
from vlrl.run import Run, open_run
from vlrl.tasks import THOUSANDTHS, gold
from vlrl.types import Draw, Row

logger = logging.getLogger(__name__)

_MAX_READ = 2_000  # rows of each data set whose own answers are tokenized


def preflight(config: Config, ranks: Ranks, *, to_train: bool = True) -> Run:
    """Opens and checks the run. All ranks call this. Raises the same ValueError on every rank, with one line per fault.

    to_train: False if the model will only be sampled, which needs no disk space.
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
    """Raises ValueError with one line per fault. Only warns if some, but not all, answers exceed the response limit."""
    heldout = {task: Dataset(folder) for task, folder in heldout_folders(run.config).items()}
    sets = [(run.with_rows(rows), task, kind) for rows, kind in ((run.rows, "train"), (heldout, "eval")) for task in rows]
    model = empty_model(run.config.model)
    sizes = ModelSizes.of(model, run.config.lora)
    faults = [*_setting_faults(run), *_tensor_faults(run), *_place_faults(run)]
    faults += lora_faults(model, run.config.lora) if run.config.lora else ()
    faults += _disk_faults(run, sizes) if to_train else ()
    if to_train and not faults:  # of a model whose config.json is wrong no size is known
        faults += memory_faults(run.config, sizes, this_machine(run.ranks))
    faults += [fault for view, task, _ in sets for fault in _encoding_faults(view, task)]
    if faults:
        raise ValueError("\n".join(dict.fromkeys(faults)))
    for view, task, kind in sets:
        message, some_fit = _long_answers(view, task, kind)
        if message and not some_fit and to_train:
            faults.append(message)
        elif message:
            logger.warning("%s", message)
    if faults:
        raise ValueError("\n".join(faults))


def _setting_faults(run: Run) -> Iterator[str]:
    """Settings that the model does not support, or this machine with this model."""
    if run.encoder.family.recurrent_layer and (fault := kernel_fault(run.ranks.device)):
        yield f"model {run.config.model!r}: {fault}"
    yield from setting_faults(run.config, check_model(run.config.model)["text_config"], run.ranks.size)
    if run.config.algorithm.routing_replay == "r3" and not torch.cuda.is_available():
        yield "algorithm.routing_replay: r3 needs a GPU, because vLLM returns routed experts only on GPUs; use r2"
    try:
        replica_devices(run.config, run.ranks)
    except ValueError as error:
        yield str(error)


def _place_faults(run: Run) -> Iterator[str]:
    """Tasks that read places in a picture in thousandths, whatever the model: another model would be asked and scored wrongly."""
    if run.coordinates == "relative_1000":
        return
    says = f"but model {run.config.model!r} gives places in pixels of the picture"
    for name, task in run.tasks.items():
        if not task.reads_places:
            continue
        asked = run.config.mixture[name].instruction or task.instruction
        if THOUSANDTHS not in asked:
            yield (
                f"mixture.{name}: its instruction does not say {THOUSANDTHS!r}, {says}; with these words in an INSTRUCTION, vlrl "
                "asks for the model's own coordinates"
            )
        if _makes_a_frame_itself(task.path):
            yield f"{task.path}: makes a Frame(...) of thousandths, {says}; use Frame.of(row)"
        if run.config.coldstart.steps:
            yield (
                f"mixture.{name}: its rows' responses give places in thousandths, {says}; set coldstart.steps to 0, or leave the "
                "task out of a run that has a cold start"
            )


def _makes_a_frame_itself(path: Path) -> bool:
    """Whether a task's file calls Frame without its convention."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return any(
        ast.unparse(call.func).rpartition(".")[2] == "Frame" and all(each.arg != "convention" for each in call.keywords)
        for call in calls
    )


def _disk_faults(run: Run, sizes: ModelSizes) -> Iterator[str]:
    config = run.config
    need = bytes_needed(config, sizes.total, sizes.adapters)
    folders = [config.folder / name for name in ("checkpoints", "coldstart", "model")]
    used = sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())
    parent = next(path for path in (config.folder.absolute(), *config.folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(parent).free
    if need > used + free:
        yield (
            f"{config.folder}: its checkpoints and models need {(need - used) / 1e9:.2f} GB more, but only {free / 1e9:.2f} GB "
            "are free; lower checkpoints.keep, or set `runs` to a folder on a larger disk"
        )


def _tensor_faults(run: Run) -> Iterator[str]:
    try:
        check_tensors(run.config.model)
    except ValueError as error:
        yield str(error)


def _encoding_faults(run: Run, task: str) -> Iterator[str]:
    """Checks a few rows: the processor must accept their prompts, and the prompts must leave room for a response."""
    numbers = representative_rows(_sampled_rows(run.rows[task]))
    _, faults = attempt_each({number: partial(_try_encoding, run, task, number) for number in numbers})
    if faults:
        yield f"{run.rows[task].folder}: {len(faults)} of {len(numbers)} checked rows cannot be used; the first: {faults[0]}"


def _try_encoding(run: Run, task: str, number: int) -> None:
    prompt = run.prompt(Draw(slot=0, task=task, index=number, minibatch=0), 1)
    encode_prompt(prompt, run.encoder, run.config.engine.max_model_len)
    if run.config.coldstart.steps and prompt.row.response:
        encode_demonstration(prompt, run.encoder)


def _long_answers(run: Run, task: str, kind: str) -> tuple[str, bool]:
    """A sentence about the rows' own answers that exceed max_new_tokens, empty if all fit; and whether any answer fits."""
    config = run.config
    limit, setting = config.max_new_tokens(task), f"mixture.{task}.max_new_tokens"
    if kind == "eval" and config.evaluation.max_new_tokens:
        limit, setting = config.evaluation.max_new_tokens, "evaluation.max_new_tokens"
    answers = [gold(row) for row in _sampled_rows(run.rows[task]).values() if row.response or row.answer]
    lengths = [len(run.encoder.encode_response(answer)) for answer in answers]
    long = [length for length in lengths if length > limit]
    if not long:
        return "", True
    some_fit = len(long) < len(lengths)
    number = f"{len(long)} of {len(lengths)}" if some_fit else f"all {len(lengths)}"
    return (
        f"{run.rows[task].folder}: {number} own answers are longer than max_new_tokens {limit} (the longest has {max(long)} "
        f"tokens with its end token), so responses like them are truncated; set {setting} to {max(long)} or more"
    ), some_fit


def _sampled_rows(dataset: Dataset) -> dict[int, Row]:
    return {number: dataset[number] for number in spread(len(dataset), _MAX_READ)}
