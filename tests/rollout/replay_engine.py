"""An engine that samples nothing: it replays rollouts that were recorded in a file, those of the last request first."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from torch import Tensor

from vlrl.rollout.engine import Request
from vlrl.types import Rollout


def record(path: Path, rollouts: Iterable[Rollout]) -> None:
    path.write_text("".join(json.dumps(asdict(replace(rollout, routes=None))) + "\n" for rollout in rollouts))


def recorded(path: Path) -> list[Rollout]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [Rollout(**line | {name: tuple(line[name]) for name in ("tokens", "logprobs", "weight_versions")}) for line in lines]


class ReplayEngine:
    """holds: the tensors that were loaded last, by name."""

    slots = 256

    def __init__(self, path: Path) -> None:
        self.version = 0
        self.holds: dict[str, Tensor] = {}
        self.calls: list[str] = []
        self._recorded = {(rollout.slot, rollout.sample): rollout for rollout in recorded(path)}

    def generate(self, requests: Sequence[Request]) -> Iterator[Rollout]:
        self.reset_caches()
        for request in reversed(requests):
            rollout = self._recorded[request.slot, request.sample]
            assert len(rollout.tokens) <= request.max_new_tokens, "recorded under another length limit"
            yield replace(rollout, weight_versions=(self.version,) * len(rollout.tokens))

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        self.holds |= {name: tensor.clone() for name, tensor in weights}

    def differing_weights(self, weights: Iterable[tuple[str, Tensor]]) -> list[str]:
        return [name for name, tensor in weights if not self.holds[name].equal(tensor)]

    def reset_caches(self) -> None:
        self.calls.append("reset_caches")

    def sleep(self) -> None:
        self.calls.append("sleep")

    def wake(self) -> None:
        self.calls.append("wake")

    def close(self) -> None:
        self.calls.append("close")
