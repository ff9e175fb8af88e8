"""Starts the engine that samples for a run, as the run file asks for it."""

import os
from typing import Any

import torch

from vlrl.config import LoraConfig
from vlrl.rollout.devices import replica_devices
from vlrl.rollout.engine import Engine
from vlrl.rollout.protocol import TOKEN
from vlrl.rollout.replicas import Replicas
from vlrl.rollout.vllm_local import VllmEngine
from vlrl.run import Run

_SILENT_S = 60.0  # without a heartbeat between ranks, too, a replica may not be silent for ever


def start_engine(run: Run, model: str, *, lora: LoraConfig | None = None) -> Engine:
    """The engine with the weights of `model`, a Hugging Face folder or a name on the hub. lora: of adapters that it must load."""
    config = run.config
    settings: dict[str, Any] = {
        "dtype": config.policy.dtype,
        "seed": config.seed,
        "end_tokens": list(run.encoder.end_tokens),
        "banned": run.banned,
        "merge_size": run.encoder.merge_size,
        "tells_routes": config.algorithm.routing_replay == "r3",
    }
    if not config.rollout.is_separate:
        family = run.encoder.family
        return VllmEngine(config.engine, model, family=family, ranks=run.ranks, lora=lora, **settings)
    if config.rollout.hosts and not os.environ.get(TOKEN):
        raise ValueError(f"rollout.hosts: set the environment variable {TOKEN} to the secret that the replicas were started with")
    opened = settings | {
        "model": model,
        "model_type": run.encoder.family.model_type,
        "engine": config.engine.model_dump(mode="json"),
        "lora": lora.model_dump(mode="json") if lora else None,
        "threads": config.threads,
    }
    return Replicas(
        config.rollout.places(run.ranks.rank, run.ranks.size),
        opened,
        silent_s=config.heartbeat_s or _SILENT_S,
        shrinks=config.rollout.on_lost == "continue",
        direct=config.rollout.transfer == "direct" or (config.rollout.transfer == "auto" and torch.cuda.is_available()),
        devices=replica_devices(config, run.ranks),
    )
