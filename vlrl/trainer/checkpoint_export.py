"""Exports the model of a checkpoint, as a run exports its model at its end, in one process and without DeepSpeed."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlrl.common.fingerprint import weights_fingerprint
from vlrl.config import Config
from vlrl.distributed import reshape
from vlrl.distributed.checkpoint import checkpoint_at
from vlrl.distributed.reshape import Flat, Part
from vlrl.models.checkpoint_io import load_encoder, load_model, save_checkpoint
from vlrl.models.config_json import family_of
from vlrl.models.lora import adapters_of, add_adapters, in_peft_format, merged, plain_name, save_adapter


def export_checkpoint(run: Path, config: Config, step: int, folder: Path, *, adapter: bool) -> None:
    """Writes a Hugging Face folder with the model after `step` steps, or with the adapter alone, in peft's format.

    The weights are the checkpoint's, rounded to policy.dtype as each update rounds them. The model is held in memory in that type
    and once in fp32. Raises ValueError if the checkpoint is not there or not whole, or belongs to another model.
    """
    path = checkpoint_at(run / "checkpoints", step).path
    base = str(run / "coldstart") if config.coldstart.steps else config.model
    model: Any = load_model(base, dtype=getattr(torch, config.policy.dtype), freeze_vision=False, gradient_checkpointing=False)
    if config.lora:
        add_adapters(model, config.lora)
    named = {name: each for name, each in model.named_parameters() if each.requires_grad}
    weights = _read_weights(path / "policy", named, base=weights_fingerprint(base) if config.lora else "")
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(weights.pop(name))
    if adapter:
        save_adapter(model, in_peft_format(named.items()), folder, base=base)
        return
    family, encoder = family_of(model.config.model_type), load_encoder(config.model, config.images, config.template_kwargs)
    parameters = ((plain_name(name), each) for name, each in merged(model.named_parameters(), adapters_of(model)))
    released = ((name, family.released_layout(name, each.detach())) for name, each in parameters)
    save_checkpoint(released, config.model, folder, family, encoder.processor, encoder.end_tokens)


def _read_weights(folder: Path, named: dict[str, Any], *, base: str) -> dict[str, Tensor]:
    """The fp32 weights in a checkpoint's files, by name. base: with LoRA, the fingerprint that the base model has now."""
    weights = {name: torch.empty(each.shape, dtype=torch.float32) for name, each in named.items()}
    # The trainer's module has the model below the name qwen.
    flats = [Flat(weight=each, parts=[Part(f"qwen.{name}", 0, 0, each.numel())]) for name, each in weights.items()]
    sizes = {f"qwen.{name}": each.numel() for name, each in weights.items()}
    progress = reshape.load(folder, 0, flats, sizes, with_state=False)
    if progress.get("base", "") != base:
        raise ValueError(
            f"{folder}: its adapters were trained on a model with other contents than the run's has now; put it back"
        )
    return weights
