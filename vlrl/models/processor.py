"""Chat messages and images to tensors, once per prompt; and what ends a response.

The result serves both sides: vLLM gets the same token ids and the same pixel values that the trainer computes with, so
nothing is decoded, resized or tokenised twice and the two can't disagree about an image.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

import vlrl.models.cuda_wheels  # noqa: F401 (before transformers)
from vlrl.common.responses import CLOSING, OPENING
from vlrl.config import ImagesConfig
from vlrl.data.images import open_image
from vlrl.models.families.family import Family
from vlrl.models.text_tokens import TextTokens
from vlrl.tasks import parts_of
from vlrl.types import Message


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedPrompt:
    """A prompt as the model sees it.

    tokens: [P] ids, one placeholder per image feature. positions: [3, P] MRoPE positions (time, height, width).
    next_position: where a response's positions start. pixels: [patches, patch size] and grid: [images, 3] in patches,
    both empty for text. image_keys: a hash per image, equal for equal pixels. image_spans: (offset, length) in tokens.
    opened: what the chat template already wrote of the response, such as "<think>" and a line feed; else "".
    seen: width and height of each image in pixels, if the model gives places in them, as Row.seen.
    """

    tokens: Tensor
    positions: Tensor
    next_position: int
    pixels: Tensor
    grid: Tensor
    image_keys: tuple[str, ...]
    image_spans: tuple[tuple[int, int], ...]
    opened: str = ""
    seen: tuple[tuple[int, int], ...] = ()


class Encoder:
    """Turns chat messages into EncodedPrompts with transformers' processor of a family. Image sizes are bounded by `images`.

    end_tokens: ids that end a response, in the engine, in its text and in the exported model. The first is the one that
    demonstrations end with: the family's, with which its chat template ends a turn. template_kwargs: variables of the template.
    """

    def __init__(
        self,
        processor: Any,
        images: ImagesConfig,
        family: Family,
        end_tokens: Sequence[int],
        template_kwargs: Mapping[str, Any] = MappingProxyType({}),
    ):
        self.family = family
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.end_tokens = tuple(end_tokens)
        self._text_tokens = TextTokens(self.tokenizer, template_kwargs)
        self._pieces: dict[int, str] = {}
        self.images = images
        self.patch_size = processor.image_processor.patch_size
        self.merge_size = processor.image_processor.merge_size
        self.patch_width = 3 * processor.image_processor.temporal_patch_size * self.patch_size**2
        self.image_token = self.tokenizer.convert_tokens_to_ids(family.image_token)
        self.video_token = self.tokenizer.convert_tokens_to_ids(family.video_token)

    def banned_tokens(self, vocabulary: int) -> list[int]:
        """Ids that sampling never yields: image and video placeholders, and those past the tokenizer's last."""
        return [self.image_token, self.video_token, *range(len(self.tokenizer), vocabulary)]

    def decode(self, tokens: Sequence[int]) -> str:
        """The response's text without its end token; other special tokens stay visible."""
        ids = list(tokens)
        if ids and ids[-1] in self.end_tokens:
            ids.pop()
        return self.tokenizer.decode(ids, skip_special_tokens=False)

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """Each token as text by itself, an end token as an empty one. A token is decoded once in a process."""
        for token in set(tokens).difference(self._pieces):
            self._pieces[token] = self.decode([token])
        return [self._pieces[token] for token in tokens]

    def encode_response(self, text: str, opened: str = "") -> list[int]:
        """A demonstration's ids with the end token, as the model should have sampled them.

        opened: what the prompt already wrote of it; the text may begin with the same. ValueError if the text never closes a
        reasoning that the prompt opened, since a verifier would find no answer in it.
        """
        if opened:
            if CLOSING not in text:
                raise ValueError(
                    f"its response has no {CLOSING}, but the model's chat template opens {OPENING}; write the reasoning and "
                    f"{CLOSING} before the answer"
                )
            text = text.removeprefix(opened).removeprefix(OPENING)
        return [*self._text_tokens.response(text), self.end_tokens[0]]

    def encode(self, messages: Sequence[Message]) -> EncodedPrompt:
        """ValueError for a video, a broken or huge image, or images that the chat template does not show."""
        references = [part["image"] for part in _parts(messages) if part["type"] == "image"]
        pixels, grid, keys = self._pixels(references)
        ids, opened = self._text_tokens.chat(messages)
        tokens, spans = self._expand(ids, grid)
        positions, next_position = self.family.positions(len(tokens), spans, grid, self.merge_size)
        return EncodedPrompt(
            tokens=torch.tensor(tokens),
            positions=positions,
            next_position=next_position,
            pixels=pixels,
            grid=grid,
            image_keys=keys,
            image_spans=tuple(spans),
            opened=opened,
            seen=self._seen(grid),
        )

    def filler(self) -> EncodedPrompt:
        """The smallest prompt with an image, of zero pixels: gives every rank's pass a vision tower, at no loss."""
        side = self.merge_size
        grid = torch.tensor([[1, side, side]])
        positions, next_position = self.family.positions(1, [(0, 1)], grid, self.merge_size)
        return EncodedPrompt(
            tokens=torch.tensor([self.image_token]),
            positions=positions,
            next_position=next_position,
            pixels=torch.zeros(side * side, self.patch_width),
            grid=grid,
            image_keys=("filler",),
            image_spans=((0, 1),),
        )

    def _pixels(self, references: Sequence[str]) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        if not references:
            return torch.zeros(0, self.patch_width), torch.zeros(0, 3, dtype=torch.long), ()
        images = [self._open(reference) for reference in references]
        pixels, grid = self.family.image_features(self.processor, images)
        keys = tuple(hashlib.blake2b(image.tobytes() + repr(image.size).encode(), digest_size=16).hexdigest() for image in images)
        return pixels, grid, keys

    def _seen(self, grid: Tensor) -> tuple[tuple[int, int], ...]:
        if self.family.coordinates != "pixels":
            return ()
        return tuple((width * self.patch_size, height * self.patch_size) for _, height, width in grid.tolist())

    def _open(self, reference: str):
        image = open_image(reference, max_side=self.images.max_side)
        try:
            return self.family.fit_image(image, self.images.min_pixels, self.images.max_pixels, self.patch_size)
        except ValueError as error:
            raise ValueError(f"image {reference} of {image.size[0]}x{image.size[1]} pixels can't be used: {error}") from None

    def _expand(self, tokens: Sequence[int], grid: Tensor) -> tuple[list[int], list[tuple[int, int]]]:
        """Each image's one placeholder becomes as many as it has features."""
        found = sum(token == self.image_token for token in tokens)
        if found != len(grid) or self.video_token in tokens:
            raise ValueError(
                f"for a prompt with {len(grid)} images the model's chat template writes {found} image and "
                f"{tokens.count(self.video_token)} video placeholders; use the template that came with the model"
            )
        features = iter((grid.prod(dim=1) // self.merge_size**2).tolist())
        expanded: list[int] = []
        spans = []
        for token in tokens:
            length = next(features) if token == self.image_token else 1
            if token == self.image_token:
                spans.append((len(expanded), length))
            expanded.extend([token] * length)
        return expanded, spans


def _parts(messages: Sequence[Message]) -> list[dict]:
    """The messages' content parts in order; ValueError for anything but text and images."""
    parts = [part for message in messages for part in parts_of(message)]
    for part in parts:
        if part["type"] not in ("text", "image"):
            raise ValueError(f"a prompt holds a {part['type']!r} part; vlrl takes text and images only for now")
    return parts
