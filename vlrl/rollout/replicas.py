"""An engine that is one or more replicas in processes of their own, started by this rank or attached by address.

A replica that is gone, or has been silent for too long, is started or called again, gets the newest weights, and samples all of
its requests again with the same seeds in the same batches: so its rollouts are the same to the last bit. The weights sent last
are kept for that in this process, since the trainer may already have made other ones.
"""

import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlrl.rollout.connection import Connection
from vlrl.rollout.direct_sender import Sender
from vlrl.rollout.engine import Request
from vlrl.rollout.protocol import LostError, Message, Packed, packed, request_message, rollout_of
from vlrl.rollout.replica import PULSE_S
from vlrl.telemetry import phase
from vlrl.types import Rollout

logger = logging.getLogger(__name__)

_BUCKET = 1 << 30  # bytes of weights in a message
_DIRECT_BUCKET = 1 << 28  # of those that go from device to device, which hold them twice meanwhile
_MOST_LOSSES = 3  # of one replica within one batch


class Replicas:
    """The engine of one rank, see vlrl.rollout.engine.Engine. Raises OSError if a replica can't be reached or started.

    places: addresses; "" is a replica that this process starts. opened: what vlrl.rollout.replica starts an engine with.
    silent_s: a replica at work that says nothing for this long is lost. shrinks: one that can't be reached again is left out.
    direct: weights go from device to device, see vlrl.rollout.direct_sender.
    """

    def __init__(
        self,
        places: Sequence[str],
        opened: Mapping[str, Any],
        *,
        silent_s: float,
        shrinks: bool,
        devices: Sequence[Sequence[str]],
        direct: bool = False,
    ):
        self._shrinks = shrinks
        self._direct = Sender(opened["engine"]["tensor_parallel"]) if direct else None
        self._sent: list[list[Packed]] = []  # messages that bring a new replica to the newest weights
        self._pool = [
            Connection(number, place, gpus, opened, silent_s)
            for number, (place, gpus) in enumerate(zip(places, devices, strict=True))
        ]
        self._version = self.slots = 0
        phase.reports.append(self._report)
        for step in (Connection.connect, self._open):  # they load their models side by side
            for each in self._pool:
                try:
                    step(each)
                except LostError as loss:
                    name = each.name
                    self.close()
                    raise OSError(f"{name} can't be used: {loss}") from None

    def _report(self) -> list[str]:
        return [each.report() for each in tuple(self._pool)]

    def _open(self, each: Connection) -> None:
        opened = each.open()
        self.slots += opened["slots"]
        self._version = min(self._version, opened["version"])

    @property
    def version(self) -> int:
        """The version of the weights; -1 if a replica holds another trainer's."""
        return self._version

    @version.setter
    def version(self, version: int) -> None:
        self._version = version
        self._keep([Message("version", {"version": version})])

    def generate(self, requests: Sequence[Request]) -> Iterator[Rollout]:
        place = shared_out(requests, len(self._pool))
        for number, each in enumerate(self._pool):
            each.requests = [request for request in requests if place[request.slot] == number]
            each.sampled = each.unanswered = each.losses = 0
        for each in list(self._pool):
            self._submit(each, each.requests)
        awaited = {(request.slot, request.sample) for request in requests}
        try:
            while working := [each for each in self._pool if each.unanswered]:
                for each, message in self._messages(working):
                    if message.kind == "done":
                        each.unanswered -= 1
                    elif message.kind == "rollout":
                        rollout = rollout_of(message)
                        each.sampled += 1
                        if (sampled := (rollout.slot, rollout.sample)) in awaited:
                            awaited.remove(sampled)
                            yield rollout
        finally:
            for each in self._pool:
                if each.unanswered:  # the caller wants no more of them
                    each.drop()
        assert not awaited, f"the replicas left out {len(awaited)} of {len(requests)} rollouts"

    def _messages(self, working: Sequence[Connection]) -> Iterator[tuple[Connection, Message]]:
        """The next message of each replica that has one; a replica that is lost samples its requests again."""
        ready = set(wait_for([each.link for each in working if each.link], timeout=PULSE_S))
        for each in working:
            try:
                if each.link in ready:
                    each.heard = time.monotonic()
                    yield each, each.receive()
                elif time.monotonic() - each.heard > each.silent_s:
                    raise LostError(f"it has been silent for {each.silent_s:g} s")
            except LostError as loss:
                each.sampled = each.unanswered = 0
                self._restore(each, loss)
                self._submit(each if each in self._pool else self._pool[each.number % len(self._pool)], each.requests)

    def _submit(self, each: Connection, requests: list[Request]) -> None:
        """Sends requests to a replica, beside those that it has already."""
        if not requests:
            return None
        if requests is not each.requests:
            each.requests = [*each.requests, *requests]
        message = request_message(requests)
        message = replace(message, fields={**message.fields, "version": self._version})
        while True:
            try:
                each.send(message)
            except LostError as loss:
                self._restore(each, loss)
                if each not in self._pool:
                    return self._submit(self._pool[each.number % len(self._pool)], requests)
            else:
                each.unanswered += 1
                each.heard = time.monotonic()
                return None

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        self._sent = []
        lost = self._direct.join(self._pool) if self._direct else {}
        buckets = (Message("bucket", {}, bucket) for bucket in _in_buckets(weights, on_device=bool(self._direct)))
        self._keep(chain([Message("weights")], buckets, [Message("end")]), lost)

    def load_adapter(self, folder: Path) -> None:
        contents = {path.name: bytearray(path.read_bytes()) for path in sorted(folder.iterdir())}
        files = {name: torch.frombuffer(content, dtype=torch.uint8) for name, content in contents.items()}
        self._sent = []
        self._keep([Message("adapter", {}, files)])

    def differing_weights(self, weights: Iterable[tuple[str, Tensor]]) -> list[str]:
        first = self._pool[0]
        first.send(Message("differing"))
        for name, tensor in weights:
            first.send(Message("bucket", {}, {name: tensor}))
        first.send(Message("end"))
        return list(first.wait()["names"])

    def reset_caches(self) -> None:
        self._keep([Message("reset_caches")])

    def sleep(self) -> None:
        """Nothing: its memory is its own."""

    def wake(self) -> None:
        """Nothing: its memory is its own."""

    def close(self) -> None:
        phase.reports.remove(self._report)
        if self._direct:
            self._direct.drop(waits=True)
        for each in self._pool:
            each.drop()

    def _keep(self, messages: Iterable[Message], lost: dict[Connection, LostError] | None = None) -> None:
        """Sends what changes an engine's state to every replica, waits for their answers, and keeps it for one that is lost.

        lost: those that are known to be.
        """
        sent: list[Packed] = []
        lost = {} if lost is None else lost
        for each in self._pool:
            each.doing = "taking weights"
        for message in messages:
            is_there = message.kind == "bucket" and self._direct and self._direct.send(message.tensors, self._pool, lost)
            sent.append(packed(message))
            for each in () if is_there else self._pool:
                if each not in lost:
                    try:
                        each.send(sent[-1])
                    except LostError as loss:
                        lost[each] = loss
        self._sent.append(sent)
        for each in list(self._pool):
            try:
                if each not in lost:
                    each.wait()
                    each.doing = "waiting for work"
                    continue
            except LostError as loss:
                lost[each] = loss
            self._restore(each, lost[each])

    def _restore(self, each: Connection, loss: LostError) -> None:
        """Starts or calls the replica again and gives it the newest weights. If that fails it is left out, or ends the run."""
        if self._direct:
            self._direct.drop()
        while True:
            each.losses += 1
            logger.warning("%s is lost: %s; it is started again", each.name, loss)
            each.drop()
            try:
                if each.losses > _MOST_LOSSES:
                    raise LostError(f"it was lost {each.losses} times in one batch, the last time because {loss}")
                each.connect()
                each.open()
                for sent in self._sent:
                    for message in sent:
                        each.send(message)
                    each.wait()
                each.doing = "waiting for work"
                return
            except LostError as again:
                loss = again
                if each.losses <= _MOST_LOSSES and not each.place:
                    continue
            if self._shrinks and len(self._pool) > 1:
                logger.warning("%s is left out: %s; %d replicas are left", each.name, loss, len(self._pool) - 1)
                self._pool.remove(each)
                return
            raise RuntimeError(f"{each.name} can't be brought back: {loss}; start it again, then resume the run")


def _in_buckets(weights: Iterable[tuple[str, Tensor]], *, on_device: bool) -> Iterator[dict[str, Tensor]]:
    """The tensors in buckets, copied, since each may be gone after the next; on_device: they stay on theirs."""
    most = _DIRECT_BUCKET if on_device else _BUCKET
    bucket: dict[str, Tensor] = {}
    for name, tensor in weights:
        if bucket and sum(each.nbytes for each in bucket.values()) + tensor.nbytes > most:
            yield bucket
            bucket = {}
        place = tensor.device if on_device else "cpu"
        bucket[name] = tensor.detach().to(place, copy=True, memory_format=torch.contiguous_format)
    yield bucket


def shared_out(requests: Sequence[Request], replicas: int) -> dict[int, int]:
    """Which replica samples each prompt, by slot, so that all may have about as many tokens to sample.

    A prompt's samples stay together, since they share its cache. Prompts of equal length go round.
    """
    tokens: Counter[int] = Counter()
    for request in requests:
        tokens[request.slot] += request.max_new_tokens
    loads, place = [0] * replicas, {}
    for slot in sorted(tokens, key=lambda slot: (-tokens[slot], slot)):
        place[slot] = loads.index(min(loads))
        loads[place[slot]] += tokens[slot]
    return place
