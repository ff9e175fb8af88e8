"""The trainer's end of the direct way of weights to its replicas."""

import ipaddress
import logging
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import wait
from functools import partial
from multiprocessing.connection import wait as wait_for
from typing import Any

from torch import Tensor

from vlrl.rollout.connection import Connection
from vlrl.rollout.direct import JOIN_S, LOOK_S, Group, in_background, own_device
from vlrl.rollout.protocol import LostError, Message

logger = logging.getLogger(__name__)

_BUCKET_S = 300.0  # on the slowest network
_END_S = 5.0


class Sender:
    """The trainer's end. A replica is asked to take part, answers `got` or `lacks`, and gets `agreed` if all have it, or else
    `abandon`, after which the same tensors come over its connection.

    processes: of each replica.
    """

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._group: Group | None = None
        self._is_usable = True

    def join(self, pool: Sequence[Connection]) -> dict[Connection, LostError]:
        """Forms the group, unless it is there or could not be formed before. Returns the replicas that were lost meanwhile."""
        lost: dict[Connection, LostError] = {}
        if self._group or not self._is_usable:
            return lost
        address = _own_address(pool)
        listener = socket.create_server((address, 0))
        port, size = listener.getsockname()[1], 1 + len(pool) * self._processes
        meeting = {"address": address, "port": port, "secret": secrets.token_hex(16), "size": size}
        asked = {
            each: Message("join", {"meeting": meeting, "number": 1 + place * self._processes, "address": _address_of(each)})
            for place, each in enumerate(pool)
        }
        group = Group(own_device())
        connect = partial(group.connect, meeting, 0, address=address, listener=listener)
        if self._together(asked, connect, lost, JOIN_S):
            self._group = group
        else:
            group.abort()
        for each in pool:
            try:
                if each not in lost:
                    each.wait()
            except LostError as loss:
                lost[each] = loss
        return lost

    def send(self, bucket: Mapping[str, Tensor], pool: Sequence[Connection], lost: dict[Connection, LostError]) -> bool:
        """Whether all the replicas have the tensors now. lost: those that are gone, to which others may come."""
        if not (group := self._group) or lost:
            return False
        announced = [[name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)] for name, tensor in bucket.items()]
        asked = dict.fromkeys(pool, Message("bucket", {"announced": announced}))
        if self._together(asked, lambda: group.send(bucket.values()), lost, _BUCKET_S):
            return True
        self.drop()
        return False

    def drop(self, *, waits: bool = False) -> None:
        """Ends the group; `join` forms the next. waits: until it has ended."""
        if self._group:
            ended = self._group.abort()
            self._group = None
            if waits:
                wait([ended], timeout=_END_S)

    def _together(
        self, asked: Mapping[Connection, Message], work: Callable[[], Any], lost: dict[Connection, LostError], within_s: float
    ) -> bool:
        """Does the work, and whether all that were asked have done their part of it. Adds to `lost` who is gone."""
        for each, message in asked.items():
            _send_or_lose(each, message, lost)
            each.heard = time.monotonic()
        # A replica that is silent is lost before the others have waited too long for it.
        deadline = time.monotonic() + within_s + max(each.silent_s for each in asked)
        mine, awaited, why = in_background(work if not lost else lambda: None), set(asked), ""
        while not lost and not why and (awaited or not mine.done()):
            if awaited:
                why = _read_answers(awaited, lost)
            else:
                wait([mine], timeout=LOOK_S)
            if mine.done() and (error := mine.exception()):
                why = str(error) or type(error).__name__
            elif time.monotonic() > deadline:
                why = why or f"it took longer than {within_s:g} s"
        agreed = not lost and not why
        if why and not lost:
            self._is_usable = False
            logger.warning("the direct way to the engines failed, so weights go through the hosts' memory from here on: %s", why)
        for each in asked:
            if each not in lost:
                _send_or_lose(each, Message("agreed" if agreed else "abandon"), lost)
        return agreed


def _read_answers(awaited: set[Connection], lost: dict[Connection, LostError]) -> str:
    """Waits a moment for answers, takes out of `awaited` who has done its part, and returns why one can't."""
    ready = wait_for([each.link for each in awaited if each.link], timeout=LOOK_S)
    for each in tuple(awaited):
        try:
            if each.link in ready:
                each.heard = time.monotonic()
                match (message := each.receive()).kind:
                    case "got":
                        awaited.remove(each)
                    case "lacks":
                        return f"{each.name}: {message.fields['sentence']}"
            elif time.monotonic() - each.heard > each.silent_s:
                raise LostError(f"it has been silent for {each.silent_s:g} s")
        except LostError as loss:
            lost[each] = loss
    return ""


def _send_or_lose(each: Connection, message: Message, lost: dict[Connection, LostError]) -> None:
    try:
        each.send(message)
    except LostError as loss:
        lost[each] = loss


def _own_address(pool: Sequence[Connection]) -> str:
    """The address of this process that every replica reaches: another host's can't reach loopback."""
    own = [each.link.getsockname()[0] for each in pool if each.link and each.link.family == socket.AF_INET]
    return min(own, key=lambda address: ipaddress.ip_address(address).is_loopback, default="127.0.0.1")


def _address_of(each: Connection) -> str:
    return str(each.link.getpeername()[0]) if each.link and each.link.family == socket.AF_INET else "127.0.0.1"
