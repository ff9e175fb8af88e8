"""In which order and process the tests run, and what none of them searches for garbage: pytest's hooks, for tests/conftest.py.

The suite keeps two cores busy to its end; what it takes is what its processes import and compute.
"""

import gc
from collections.abc import Sequence

import pytest
from xdist.scheduler import LoadFileScheduling

TOGETHER = {
    "ranks and runs": (
        "test_train",
        "test_update",
        "test_expert_parallel",
        "test_ranks",
        "test_loading",
        "test_out_of_memory",
        "test_balance",
    ),
    "engines": ("rollout/test_lora", "rollout/test_engine", "test_canary"),
}
"""How the path of a file ends whose quick tests share a process of pytest, since they begin with the same seconds of imports."""

LONGEST = (
    *TOGETHER["ranks and runs"],
    "test_heartbeat",
    *TOGETHER["engines"],
    "test_recipes",
    "test_policy",
    "trainer/test_lora",
    "test_memory_plan",
    "test_scorer",
    "test_preflight",
    "test_symbolic",
    "test_code_results",
    "test_hostile",
    "test_tasks",
    "test_build_pictures",
    "test_counted_memory",
    "test_attacks",
    "test_cached_rows",
    "test_judge",
    "test_code",
    "test_report",
)
"""Files that take longest. They begin first, so that no process is left with one of them at the end; those that wait, among those
that work."""


def place_in(ends: Sequence[str], file: str) -> int:
    """The place of the first end that the file's path has; behind all of them if it has none."""
    return next((place for place, end in enumerate(ends) if file.removesuffix(".py").endswith(f"/{end}")), len(ends))


def pytest_collection_modifyitems(items) -> None:
    items.sort(key=lambda item: place_in(LONGEST, str(item.path)))


class _ByFile(LoadFileScheduling):
    """All tests of a file in one process, and those of files in TOGETHER."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return next((name for name, ends in TOGETHER.items() if place_in(ends, file) < len(ends)), file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log) -> LoadFileScheduling | None:
    return _ByFile(config, log) if config.option.markexpr == "not slow" else None


def pytest_collection_finish() -> None:
    _set_aside()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item, nextitem):
    result = yield
    if nextitem and nextitem.path != item.path:
        _set_aside()
    return result


def _set_aside() -> None:
    """What is alive between two files is no garbage but libraries and tests. To look for it there took an eighth of the time."""
    gc.collect()
    gc.freeze()
