"""What a group costs to compute, in floating point operations of one forward, from a model's config.

Linear layers grow with tokens, attention with the pairs that see one another, the vision tower with patches and, within an image,
with their square. A backward costs twice as much everywhere, so shares stay what they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vlrl.models.config_json import family_of
from vlrl.models.processor import EncodedPrompt


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Operations of a token's linear layers, of a pair of tokens in attention, of a patch and of a pair of patches in the vision
    tower, and of the head for a token whose log-prob is asked for.

    window_pair: of a pair of patches in one window, in blocks that attend within windows of `window` patches a side.
    """

    token: float
    pair: float
    patch: float
    patch_pair: float
    target: float
    window_pair: float = 0.0
    window: float = 1.0

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Cost":
        """config: of a checkpoint, as a dict."""
        return cls(**family_of(config["model_type"]).flops(config))

    def group(self, prompt: EncodedPrompt, lengths: Sequence[int]) -> float:
        """Of a prompt and its responses' lengths, the prompt and its images computed once."""
        size, targets = len(prompt.tokens), sum(lengths)
        pairs = size**2 / 2 + sum(size * length + length**2 / 2 for length in lengths)
        return self.token * (size + targets) + self.pair * pairs + self.target * targets + self.images(prompt.grid)

    def images(self, grid: Tensor) -> float:
        """Of the vision tower. grid: [images, 3], as of an EncodedPrompt."""
        patches = grid.prod(dim=1).tolist()
        pairs = self.patch_pair * sum(count**2 for count in patches)
        in_windows = sum(time * self._pairs(height) * self._pairs(width) for time, height, width in grid.tolist())
        return self.patch * sum(patches) + pairs + self.window_pair * in_windows

    def _pairs(self, side: int) -> float:
        """Pairs along one side of an image that are in one window. Those of both sides multiply."""
        windows, rest = divmod(side, self.window)
        return windows * self.window**2 + rest**2
