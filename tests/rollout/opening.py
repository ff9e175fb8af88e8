"""An engine for tests, as a run would start it."""

from tests.conftest import SMALL_IMAGES
from vlrl import config as cfg
from vlrl.distributed.ranks import Ranks
from vlrl.models.checkpoint_io import check_model, load_encoder
from vlrl.models.processor import Encoder
from vlrl.rollout.vllm_local import VllmEngine


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
    return VllmEngine(
        cfg.EngineConfig(max_model_len=512, tensor_parallel=tensor_parallel),
        model,
        dtype=dtype,
        seed=0,
        decode=encoder.decode,
        end_tokens=encoder.end_tokens,
        banned=banned,
        merge_size=encoder.merge_size,
        family=encoder.family,
        ranks=ranks,
        lora=lora,
    )
