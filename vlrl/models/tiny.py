"""A tiny random Qwen3-VL, dense or MoE, with a byte-level tokenizer: runs every line that a large one would, on a laptop.

It has Qwen's special tokens, chat format, MRoPE, DeepStack and (MoE) fused experts. The tokenizer's merges are learned from
the texts that it will read. Expert sizes differ from the hidden size in both axes, so that a swapped layout can't hide.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from vlrl.models.checkpoint_io import save_checkpoint, to_hf_layout

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<think>",
    "</think>",
)

_TINY_TEXT = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 4096,
    "rope_parameters": {"rope_type": "default", "mrope_section": [8, 4, 4], "mrope_interleaved": True, "rope_theta": 10000.0},
}
_TINY_EXPERTS = {
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 96,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
_TINY_VISION = {
    "depth": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_heads": 2,
    "in_channels": 3,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 128,
    "num_position_embeddings": 256,
    "deepstack_visual_indexes": [0, 1],
}

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tiny(folder: Path, texts: Iterable[str], *, moe: bool = False, seed: int = 0, vocabulary: int = 512) -> int:
    """Writes a random Qwen3-VL with its processor to `folder`; the tokenizer is trained on `texts`. Returns its parameters."""
    text = _TINY_TEXT | (_TINY_EXPERTS if moe else {})
    return write_random(folder, texts, text, _TINY_VISION, tied=True, seed=seed, vocabulary=vocabulary)


def write_random(
    folder: Path,
    texts: Iterable[str],
    text: Mapping[str, Any],
    vision: Mapping[str, Any],
    *,
    tied: bool,
    seed: int = 0,
    vocabulary: int = 512,
    dtype: torch.dtype = torch.float32,
) -> int:
    """Writes a random Qwen3-VL of any size with a byte-level processor to `folder`. Returns its parameters.

    text, vision: what its config says, as in a released config.json; a vocab_size above the tokenizer's may be among it.
    """
    from transformers import AutoModelForImageTextToText

    tokenizer = _tokenizer(texts, vocabulary)
    config = config_of(tokenizer, text, vision, tied=tied)
    torch.manual_seed(seed)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        qwen = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    folder.mkdir(parents=True, exist_ok=True)
    config.architectures = [type(qwen).__name__]
    config.save_pretrained(folder)
    weights = ((name, to_hf_layout(name, tensor)) for name, tensor in qwen.named_parameters())
    save_checkpoint(weights, str(folder), folder, _processor(tokenizer))
    return sum(parameter.numel() for parameter in qwen.parameters())


def _tokenizer(texts: Iterable[str], vocabulary: int):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens={
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
            "vision_start_token": "<|vision_start|>",
            "vision_end_token": "<|vision_end|>",
        },
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _processor(tokenizer):
    from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    vision = {"patch_size": 16, "merge_size": 2, "temporal_patch_size": 2}
    size = {"shortest_edge": 32 * 32, "longest_edge": 1024 * 1024}  # total pixels, in spite of the names
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**vision, size=size),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(patch_size=16, merge_size=2),
        chat_template=CHAT_TEMPLATE,
    )


def config_of(tokenizer: Any, text: Mapping[str, Any], vision: Mapping[str, Any], *, tied: bool) -> Any:
    """A Qwen3-VL config with the tokenizer's special tokens; a mixture of experts where `text` has num_experts."""
    from transformers import Qwen3VLConfig, Qwen3VLMoeConfig

    token = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL_TOKENS}
    own = {
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "tie_word_embeddings": tied,
        "eos_token_id": token["<|im_end|>"],
        "pad_token_id": token["<|endoftext|>"],
    }
    return (Qwen3VLMoeConfig if "num_experts" in text else Qwen3VLConfig)(
        text_config=own | dict(text),
        vision_config=dict(vision),
        image_token_id=token["<|image_pad|>"],
        video_token_id=token["<|video_pad|>"],
        vision_start_token_id=token["<|vision_start|>"],
        vision_end_token_id=token["<|vision_end|>"],
        tie_word_embeddings=tied,
    )
