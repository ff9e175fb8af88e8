"""Starts the engine that samples for a run, as the run file asks for it."""

from vlrl.config import LoraConfig
from vlrl.rollout.engine import Engine
from vlrl.rollout.vllm_local import VllmEngine
from vlrl.run import Run


def start_engine(run: Run, model: str, *, lora: LoraConfig | None = None) -> Engine:
    """The engine with the weights of `model`, a Hugging Face folder or a name on the hub. lora: of adapters that it must load."""
    config = run.config
    return VllmEngine(
        config.engine,
        model,
        dtype=config.policy.dtype,
        seed=config.seed,
        decode=run.encoder.decode,
        end_tokens=run.encoder.end_tokens,
        banned=run.banned,
        merge_size=run.encoder.merge_size,
        family=run.encoder.family,
        ranks=run.ranks,
        tells_routes=config.algorithm.routing_replay == "r3",
        lora=lora,
    )
