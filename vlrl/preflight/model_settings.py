"""Settings of a run file that its model cannot follow."""

from collections.abc import Iterator
from typing import Any

from vlrl.config import Config
from vlrl.models.config_json import is_moe, num_experts


def setting_faults(config: Config, text: dict[str, Any], world_size: int) -> Iterator[str]:
    """One sentence for each setting that the model cannot follow. text: the text_config of its config.json."""
    longest = text.get("max_position_embeddings")
    if longest and config.engine.max_model_len > longest:
        yield (
            f"engine.max_model_len is {config.engine.max_model_len}, and model {config.model!r} was made for {longest} tokens; "
            f"set engine.max_model_len to {longest} or less"
        )
    if config.algorithm.routing_replay != "none" and not is_moe(text):
        yield f"algorithm.routing_replay: model {config.model!r} has no experts to replay; leave it out"
    if (dealt := config.policy.expert_parallel) > 1:
        if not is_moe(text):
            yield f"policy.expert_parallel: model {config.model!r} has no experts to deal; leave it out"
        elif world_size % dealt or num_experts(text) % dealt:
            yield (
                f"policy.expert_parallel: {world_size} ranks and {num_experts(text)} experts do not both split into "
                f"{dealt}; use a common divisor"
            )
