"""Shared parts of the tests: one tiny dense and one tiny MoE checkpoint per session, and a few images on disk."""

import os
from pathlib import Path
from unittest.mock import patch

import hypothesis
import numpy as np
import pytest
from PIL import Image

from vlrl.config import Images
from vlrl.verifiers import sandbox

# On a busy machine an example may take its time; only a hang is a fault, and the timeout in pyproject.toml ends it.
hypothesis.settings.register_profile("vlrl", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("vlrl")

PATIENCE_S = 600.0
"""How long a test waits for another process or thread: longer than any takes that does not hang, shorter than pytest waits."""

SHARED = Path(__file__).parents[2] / "shared"
"""Samples of real data and published test vectors, where they are beside the project; tests that need them say so elsewhere."""

TEXTS = ["What is 12 + 34? The answer is \\boxed{46}.", "Which digit is this?", "def f(x):\n    return x + 3"] * 10
SMALL_IMAGES = Images(min_pixels=32 * 32, max_pixels=128 * 128)


@pytest.fixture(autouse=True, scope="session")
def isolation() -> None:
    """Where this machine can't jail code, what is not about the jail runs with limits alone."""
    if sandbox.why_not():
        os.environ[sandbox.ISOLATION] = "limits"


def needs_a_jail(function):
    """Skips a test of the jail where this machine can't build one, and says why."""
    return pytest.mark.skipif(bool(sandbox.why_not()), reason=sandbox.why_not())(function)


@pytest.fixture(scope="session")
def tiny_dense(tmp_path_factory) -> str:
    return _tiny(tmp_path_factory.mktemp("models") / "dense", moe=False)


@pytest.fixture(scope="session")
def tiny_moe(tmp_path_factory) -> str:
    return _tiny(tmp_path_factory.mktemp("models") / "moe", moe=True)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> list[str]:
    """Three images of different sizes, as references."""
    folder = tmp_path_factory.mktemp("pictures")
    numbers = np.random.default_rng(0)
    paths = []
    for index, size in enumerate([(64, 64), (96, 64), (64, 128)]):
        path = folder / f"{index}.png"
        Image.fromarray(numbers.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(path)
        paths.append(str(path))
    return paths


@pytest.fixture(scope="module")
def ranks():
    """This process alone as a run's only rank; what a launcher would have put in the environment is gone afterwards."""
    from vlrl.ranks import join_ranks

    with patch.dict(os.environ):
        yield join_ranks()


def _tiny(folder: Path, *, moe: bool) -> str:
    from vlrl.model.tiny import build_tiny

    build_tiny(folder, TEXTS, moe=moe)
    return str(folder)
