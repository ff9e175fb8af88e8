"""Messages, encoded prompts and packs for the model's tests."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.conftest import SMALL_IMAGES
from vlrl.models.checkpoint_io import load_encoder, load_model
from vlrl.models.packed_model import PackedModel


def message(text, *images):
    parts = [{"type": "image", "image": image} for image in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def enlarge(model: str) -> str:
    """Makes a tiny checkpoint's matrices twice as large, and moves its norms and biases off 1 and 0. Returns its folder."""
    (file,) = Path(model).glob("*.safetensors")
    numbers = torch.Generator().manual_seed(1)
    weights = load_file(file)
    for name, weight in weights.items():
        if weight.ndim > 1:
            weight.mul_(2)
        elif "A_log" not in name:  # a recurrent layer's decay: a larger one forgets the prompt within a few tokens
            weight.add_(torch.randn(weight.shape, generator=numbers) * 0.1)
    save_file(weights, file, metadata={"format": "pt"})
    return model


def parts_of(model, *, temperature=1.0, gradient_checkpointing=False):
    """The checkpoint's encoder and its PackedModel in fp32."""
    encoder = load_encoder(model, SMALL_IMAGES)
    qwen = load_model(model, dtype=torch.float32, freeze_vision=False, gradient_checkpointing=gradient_checkpointing)
    banned = encoder.banned_tokens(qwen.config.text_config.vocab_size)
    return encoder, PackedModel(qwen, temperature=temperature, banned=banned)
