"""Messages, encoded prompts and packs for the model's tests."""

import torch

from tests.conftest import SMALL_IMAGES
from vlrl.models.checkpoint_io import load_encoder, load_model
from vlrl.models.packed_model import PackedModel


def message(text, *images):
    parts = [{"type": "image", "image": image} for image in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def parts_of(model, *, temperature=1.0, gradient_checkpointing=False):
    """The checkpoint's encoder and its PackedModel in fp32."""
    encoder = load_encoder(model, SMALL_IMAGES)
    qwen = load_model(model, dtype=torch.float32, freeze_vision=False, gradient_checkpointing=gradient_checkpointing)
    banned = encoder.banned_tokens(qwen.config.text_config.vocab_size)
    return encoder, PackedModel(qwen, temperature=temperature, banned=banned)
