"""A tiny random model of any family, with a byte-level tokenizer: runs every line that a large one would, on a laptop.

It has its family's special tokens, chat format and modules. The tokenizer's merges are learned from the texts that it will read.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from vlrl.models.checkpoint_io import save_checkpoint
from vlrl.models.families.family import Family
from vlrl.models.families.qwen3_vl import QWEN3_VL


def build_tiny(
    folder: Path,
    texts: Iterable[str],
    *,
    seed: int = 0,
    vocabulary: int = 512,
    family: Family = QWEN3_VL,
) -> int:
    """Writes a random model with its processor to `folder`; the tokenizer is trained on `texts`. Returns its parameters."""
    text, vision = family.tiny_configs()
    return write_random(folder, texts, family, text, vision, tied=True, seed=seed, vocabulary=vocabulary)


def write_random(
    folder: Path,
    texts: Iterable[str],
    family: Family,
    text: Mapping[str, Any],
    vision: Mapping[str, Any],
    *,
    tied: bool,
    seed: int = 0,
    vocabulary: int = 512,
    dtype: torch.dtype = torch.float32,
) -> int:
    """Writes a random model of any size with a byte-level processor to `folder`. Returns its parameters.

    text, vision: what its config says, as in a released config.json; a vocab_size above the tokenizer's may be among it.
    """
    from transformers import AutoModelForImageTextToText

    tokenizer = _tokenizer(texts, vocabulary, family)
    config = config_of(tokenizer, family, text, vision, tied=tied)
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():  # a run that makes its model first draws the same numbers afterwards
        torch.manual_seed(seed)
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
        config.architectures = [type(model).__name__]
        config.save_pretrained(folder)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                family.set_random(name, weight)
    weights = ((name, family.released_layout(name, tensor)) for name, tensor in model.named_parameters())
    ends = [tokenizer.convert_tokens_to_ids(family.end_token)]
    save_checkpoint(weights, str(folder), folder, family, family.make_processor(tokenizer, family.chat_template), ends)
    return sum(parameter.numel() for parameter in model.parameters())


def _tokenizer(texts: Iterable[str], vocabulary: int, family: Family):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(family.special_tokens),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token=family.end_token,
        pad_token="<|endoftext|>",
        extra_special_tokens={
            "image_token": family.image_token,
            "video_token": family.video_token,
            "vision_start_token": "<|vision_start|>",
            "vision_end_token": "<|vision_end|>",
        },
    )
    tokenizer.chat_template = family.chat_template
    return tokenizer


def config_of(tokenizer: Any, family: Family, text: Mapping[str, Any], vision: Mapping[str, Any], *, tied: bool) -> Any:
    """A config with the tokenizer's special tokens."""
    token = {name: tokenizer.convert_tokens_to_ids(name) for name in family.special_tokens}
    own = {
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "tie_word_embeddings": tied,
        "eos_token_id": token[family.end_token],
        "pad_token_id": token["<|endoftext|>"],
    }
    return family.config_class()(
        text_config=own | dict(text),
        vision_config=dict(vision),
        image_token_id=token[family.image_token],
        video_token_id=token[family.video_token],
        vision_start_token_id=token["<|vision_start|>"],
        vision_end_token_id=token["<|vision_end|>"],
        tie_word_embeddings=tied,
    )
