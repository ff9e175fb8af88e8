"""An engine for tests, as a run would start it, and requests to it.

python -m tests.rollout.opening MODEL PICTURE,PICTURE FILE samples from the model and writes its rollouts to the file.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.conftest import SMALL_IMAGES
from tests.models.helpers import message
from tests.rollout.replay_engine import record
from vlrl import config as cfg
from vlrl.distributed.ranks import Ranks, join_ranks
from vlrl.models.checkpoint_io import check_model, load_encoder
from vlrl.models.processor import EncodedPrompt, Encoder
from vlrl.rollout.engine import Decoding, Request, sampling_seed
from vlrl.rollout.vllm_local import VllmEngine
from vlrl.types import Rollout

KV_CACHE_GB = 1 / 16  # an engine is kept until its process ends, so a test file has several


def open_encoder(model: str) -> tuple[Encoder, list[int]]:
    """The model's encoder, and the ids that sampling never yields."""
    encoder = load_encoder(model, SMALL_IMAGES)
    return encoder, encoder.banned_tokens(check_model(model)["text_config"]["vocab_size"])


def open_engine(
    model: str,
    encoder: Encoder,
    banned: list[int],
    ranks: Ranks,
    *,
    dtype: str = "float32",
    tensor_parallel: int = 1,
    lora: cfg.LoraConfig | None = None,
) -> VllmEngine:
    engine = VllmEngine(
        cfg.EngineConfig(max_model_len=512, tensor_parallel=tensor_parallel, kv_cache_gb=KV_CACHE_GB),
        model,
        dtype=dtype,
        seed=0,
        end_tokens=encoder.end_tokens,
        banned=banned,
        merge_size=encoder.merge_size,
        family=encoder.family,
        ranks=ranks,
        lora=lora,
    )
    if tensor_parallel == 1:  # no process of its own to end, and vLLM's shutdown would look for garbage for seconds
        engine._llm.llm_engine.engine_core._finalizer.atexit = False
    return engine


def requests_for(
    prompts: Sequence[EncodedPrompt], samples: int, *, max_new_tokens: int = 24, temperature: float = 1.0
) -> list[Request]:
    return [
        Request(
            slot=slot,
            sample=sample,
            prompt=prompt,
            max_new_tokens=max_new_tokens,
            decoding=Decoding(temperature=temperature),
            seed=sampling_seed(0, slot, sample),
        )
        for slot, prompt in enumerate(prompts)
        for sample in range(samples)
    ]


def in_order(rollouts: Iterable[Rollout]) -> list[Rollout]:
    return sorted(rollouts, key=lambda rollout: (rollout.slot, rollout.sample))


def some_prompts(encoder: Encoder, pictures: Sequence[str]) -> list[EncodedPrompt]:
    """With none, one and two pictures."""
    return [encoder.encode(message("What is this?", *pictures[:number])) for number in range(3)]


def main(model: str, pictures: str, file: str) -> None:
    encoder, banned = open_encoder(model)
    engine = open_engine(model, encoder, banned, join_ranks())
    record(Path(file), in_order(engine.generate(requests_for(some_prompts(encoder, pictures.split(",")), 4))))


if __name__ == "__main__":
    main(*sys.argv[1:])
