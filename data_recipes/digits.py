"""digits (vision): handwritten digits from scikit-learn, 8x8 scans enlarged to 64x64."""

from collections.abc import Iterator

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from vlrl.data.recipe import png
from vlrl.data.shards import NewRow

SOURCE = "scikit-learn load_digits (UCI ML hand-written digits, test set)"
LICENCE = "BSD-3-Clause; data CC BY 4.0"
VERSION = 1
TRAIN, EVAL = 1500, 200
SIDE = 64


def raws(source: str | None, seed: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yields each scan, [8, 8] values from 0 to 16, with its digit."""
    scans = load_digits()
    yield from zip(scans.images, scans.target.tolist(), strict=True)


def to_row(raw: tuple[np.ndarray, int]) -> NewRow:
    scan, digit = raw
    pixels = (scan * 15.9375).astype(np.uint8)
    image = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.NEAREST)
    return NewRow(question="Which digit is this?", answer=str(digit), images=(png(image),), response=f"\\boxed{{{digit}}}")
