"""Everything that can be refused before a run starts, each as one sentence; and the plan of its mixture."""

from collections.abc import Iterator

from vlrl.config import Config
from vlrl.ranks import Ranks
from vlrl.run import Run, open_run


def preflight(config: Config, ranks: Ranks) -> Run:
    """The run, opened and checked. ValueError with the sentence of what can't be."""
    return open_run(config, ranks)


def plan(config: Config, steps: int) -> Iterator[str]:
    yield ""
