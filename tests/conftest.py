"""Shared parts of the tests: tiny checkpoints, a few images on disk, how long to wait, and what may be skipped."""

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import hypothesis
import numpy as np
import pytest
from PIL import Image

from vlrl.config import ImagesConfig
from vlrl.models.config_json import FAMILIES
from vlrl.sandbox import jail
from vlrl.scoring import Scorer

pytest_plugins = ["tests.schedule"]

# On a busy machine an example may take its time; only a hang is a fault, and the timeout in pyproject.toml ends it.
hypothesis.settings.register_profile("vlrl", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("vlrl")

PATIENCE_S = 600.0
"""How long a test waits for another process or thread: longer than any takes that does not hang, shorter than pytest waits."""

SHARED = Path(__file__).parents[2] / "shared"
"""Samples of real data and published test vectors, where they are beside the project. They add to the project's own cases."""
collect_ignore = [] if SHARED.exists() else ["published"]

MAY_BE_SKIPPED = ("needs a jail", "needs a tmpfs", "needs /dev/full", "needs Chromium", "needs a GPU", "needs ip netns")
"""How the reason of a skip begins. Any other skip is a failure, so that no guard is left out unseen."""

TEXTS = ["What is 12 + 34? The answer is \\boxed{46}.", "Which digit is this?", "def f(x):\n    return x + 3"] * 10
SMALL_IMAGES = ImagesConfig(min_pixels=32 * 32, max_pixels=128 * 128)


def slow_but(values, quick) -> list:
    """The values as parameters of a test, slow but for the quick ones.

    quick: whole values, or the first parts of tuples.
    """
    parts = [value if isinstance(value, tuple) else (value,) for value in values]
    return [pytest.param(*each, marks=[] if each in quick or each[0] in quick else pytest.mark.slow) for each in parts]


OF_EACH_FAMILY = slow_but(FAMILIES, ("qwen2_5_vl", "qwen3_vl_moe", "qwen3_5"))
"""The families, of which the quick tests see one with windows in its vision tower, one of experts and a recurrent one."""


@pytest.fixture(autouse=True, scope="session")
def isolation() -> None:
    """Where this machine can't jail code, what is not about the jail runs with limits alone."""
    if jail.unavailable_reason():
        os.environ[jail.ISOLATION] = "limits"


@pytest.fixture(scope="session")
def pool() -> Iterator[Scorer]:
    """Two workers with the shipped tasks."""
    with Scorer([Path(__file__).parents[1] / "tasks"], 2, PATIENCE_S, memory_mb=2048) as scorer:
        yield scorer


def needs_a_jail(function):
    """Skips a test of the jail where this machine can't build one, and says why."""
    return pytest.mark.skipif(bool(jail.unavailable_reason()), reason=f"needs a jail: {jail.unavailable_reason()}")(function)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    return _without_unforeseen_skips((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    return _without_unforeseen_skips((yield))


def _without_unforeseen_skips(report):
    """The report of a test or a module, a failure where it was skipped for a reason that is not listed above."""
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[-1].removeprefix("Skipped: ")
        if not reason.startswith(MAY_BE_SKIPPED):
            report.outcome = "failed"
            report.longrepr = (
                f"skipped because {reason!r}; tests/conftest.py lists what may be skipped: {', '.join(MAY_BE_SKIPPED)}"
            )
    return report


@pytest.fixture(scope="session")
def tiny_of(tmp_path_factory) -> Callable[[str], str]:
    """A family's model type to a tiny checkpoint, the same for all tests."""
    return cache(lambda family: _tiny(tmp_path_factory.mktemp("models") / family, family))


@pytest.fixture(scope="session")
def tiny_dense(tiny_of) -> str:
    return tiny_of("qwen3_vl")


@pytest.fixture(scope="session")
def tiny_moe(tiny_of) -> str:
    return tiny_of("qwen3_vl_moe")


@pytest.fixture(scope="session", params=["qwen3_vl_moe", pytest.param("qwen3_5_moe", marks=pytest.mark.slow)])
def any_moe(request, tmp_path_factory) -> str:
    return _tiny(tmp_path_factory.mktemp("models") / request.param, request.param)


@pytest.fixture(scope="session", params=OF_EACH_FAMILY)
def any_model(request, tmp_path_factory) -> str:
    """A tiny checkpoint of each family in turn, in which nothing can hide: see tests/models/helpers.py."""
    from tests.models.helpers import enlarge

    return enlarge(_tiny(tmp_path_factory.mktemp("models") / request.param, request.param))


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


@pytest.fixture(scope="session")
def small(tmp_path_factory, tiny_dense) -> Any:
    """A run of three tasks over rows of the real recipes: sums, digits, and responses of even length about pictures."""
    from tests.loop import EVEN_LENGTH, SMALL_STEPS, Loop, finished, python

    root = tmp_path_factory.mktemp("loop")
    for recipe in ("chain_sum", "digits", "counting"):
        sizes = ("--train", "24", "--eval", "4")
        finished(python("-m", "vlrl.cli", "data", "build", f"data_recipes/{recipe}.py", "--out", root / recipe, *sizes))
    (root / "tasks").mkdir()
    (root / "tasks" / "even_length.py").write_text(EVEN_LENGTH)
    rows = {"chain_sum": "chain_sum", "digits": "digits", "even_length": "counting"}
    weights = {"chain_sum": 1, "digits": 1, "even_length": 2}
    mixture = {
        task: {"weight": weights[task], "rows": root / recipe / "train", "eval_rows": root / recipe / "eval"}
        for task, recipe in rows.items()
    }
    mixture["digits"]["eval_samples"] = 3
    settings = {"runs": root / "runs", "model": tiny_dense, "task_folders": ["tasks", root / "tasks"], "mixture": mixture}
    settings |= {"steps": SMALL_STEPS, "prompts_per_step": 8, "sampling.group_size": 4, "sampling.max_new_tokens": 24}
    settings |= {
        "sampling.dynamic_sampling_rounds": 1,
        "policy.max_tokens_per_micro_batch": 512,
        "policy.warmup_steps": 2,
        "evaluation.rows": 2,
        "evaluation.samples": 2,
    }
    settings |= {"coldstart.steps": 3, "coldstart.batch_size": 8, "checkpoints.every": 2}
    return Loop(overrides=settings)


@pytest.fixture(scope="module")
def ranks():
    """This process alone as a run's only rank; what a launcher would have put in the environment is gone afterwards."""
    from vlrl.distributed.ranks import join_ranks

    with patch.dict(os.environ):
        yield join_ranks()


def _tiny(folder: Path, family: str) -> str:
    from vlrl.models.tiny import build_tiny

    build_tiny(folder, TEXTS, family=FAMILIES[family])
    return str(folder)
