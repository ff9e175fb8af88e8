"""Checks a run file's settings against its model's config.json."""

from collections.abc import Iterator
from typing import Any

from vlrl.config import Config
from vlrl.models.config_json import is_moe, num_experts


def setting_faults(config: Config, text: dict[str, Any], world_size: int) -> Iterator[str]:
    """One sentence for each setting that the model does not support. text: the text_config of its config.json."""
    longest = text.get("max_position_embeddings")
    if longest and config.engine.max_model_len > longest:
        yield (
            f"engine.max_model_len is {config.engine.max_model_len}, but model {config.model!r} supports {longest} tokens; "
            f"set engine.max_model_len to {longest} or less"
        )
    if text.get("use_sliding_window"):
        yield (
            f"model {config.model!r} has use_sliding_window: true, but vlrl trains only models whose tokens see the whole "
            "sequence; set it to false in its config.json"
        )
    if config.algorithm.routing_replay != "none" and not is_moe(text):
        yield f"algorithm.routing_replay: model {config.model!r} is a dense model without experts to replay; remove the setting"
    if (expert_parallel := config.policy.expert_parallel) > 1:
        if not is_moe(text):
            yield f"policy.expert_parallel: model {config.model!r} is a dense model without experts; remove the setting"
        elif world_size % expert_parallel or num_experts(text) % expert_parallel:
            yield (
                f"policy.expert_parallel is {expert_parallel}, but {world_size} ranks and {num_experts(text)} experts are not "
                "both divisible by it; use a common divisor"
            )
