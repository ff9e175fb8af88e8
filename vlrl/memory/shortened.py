"""A model with fewer layers, of which what the whole one takes is known: layers of a kind save equally much for backward."""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

FEW_LAYERS = 5  # after which each layer takes as much as the one before: DeepStack puts an image's features into the first
_SPECIAL_BLOCKS = ("deepstack_visual_indexes", "fullatt_block_indexes")


@dataclass(frozen=True, kw_only=True, slots=True)
class Shortened:
    """config: with fewer layers; period: after how many layers of the language model their kinds repeat; periods and blocks: how
    many repetitions of the language model's layers and blocks of the vision tower were left out."""

    config: Any
    period: int
    periods: int
    blocks: int


def shortened(config: Any) -> Shortened:
    """Keeps the first layers of the language model, and of the vision tower the first two blocks, those that do more than the
    others and the last, so that nothing is missing at the peak but what the other blocks saved."""
    config = deepcopy(config)
    text, vision = config.text_config, config.vision_config
    period = _period(text)
    periods = max(0, (text.num_hidden_layers - FEW_LAYERS - period) // period)
    text.num_hidden_layers -= periods * period
    if kinds := getattr(text, "layer_types", None):
        text.layer_types = kinds[: text.num_hidden_layers]

    special = {name: list(getattr(vision, name, None) or ()) for name in _SPECIAL_BLOCKS}
    numbers = sorted(number for each in special.values() for number in each)
    kept = sorted({0, 1, *numbers, vision.depth - 1})
    if {0, 1} & set(numbers):  # the first two do not show what a plain block saves
        kept = list(range(vision.depth))
    blocks = vision.depth - len(kept)
    for name in (name for name in _SPECIAL_BLOCKS if special[name]):
        setattr(vision, name, [kept.index(number) for number in special[name]])
    vision.depth = len(kept)
    return Shortened(config=config, period=period, periods=periods, blocks=blocks)


def _period(text_config: Any) -> int:
    """After how many layers their kinds repeat."""
    kinds = getattr(text_config, "layer_types", None) or [""]
    return next(n for n in range(1, len(kinds) + 1) if kinds[n:] == kinds[:-n])
