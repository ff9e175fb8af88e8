"""What a run writes: checkpoints, models and logs."""

import math

from vlrl.config import Config

_CHECKPOINT = 12  # bytes of a parameter
_TEXT = 4.5  # bytes of a response's token in rollouts.jsonl
_ROLLOUT = 1000  # bytes of a rollout's other fields, its prompt among them
_TRACED = 22  # bytes of a traced token in tokens.jsonl


def bytes_needed(config: Config, num_parameters: int, num_adapters: int = 0) -> int:
    """The maximum size of the run's folder: the checkpoints to keep, the one being written, and the exported models.

    A checkpoint has 12 bytes per parameter, fp32 weights and Adam's two moments, at every ZeRO stage; less of a frozen one. With
    LoRA it has the parameters of the adapters alone (num_adapters).
    """
    weight = 4 if config.policy.dtype == "float32" else 2
    every = config.checkpoints.every or config.steps
    num_checkpoints = min(config.checkpoints.keep + 1, math.ceil(config.steps / every))
    num_checkpoints += config.on_collapse == "rollback"  # the rollback target
    num_models = 2 if config.coldstart.steps else 1
    return (num_adapters or num_parameters) * num_checkpoints * _CHECKPOINT + num_parameters * num_models * weight


def log_bytes(config: Config) -> int:
    """About what a step adds to rollouts.jsonl and tokens.jsonl if all responses are as long as they may be."""
    weights = {task: mix.weight for task, mix in config.mixture.items()}
    sizes = {task: config.group_size(task) * config.max_new_tokens(task) for task in weights}
    share = config.prompts_per_step / sum(weights.values())
    rollouts = sum(
        share * weight * (config.group_size(task) * _ROLLOUT + sizes[task] * _TEXT) for task, weight in weights.items()
    )
    return int(rollouts + sum(sizes.values()) * _TRACED)  # a group of each task is traced
