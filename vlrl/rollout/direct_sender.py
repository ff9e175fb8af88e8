"""The trainer's end of the direct way of weights to its replicas."""

import logging
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from multiprocessing.connection import wait as wait_for

from torch import Tensor

from vlrl.rollout.connection import Connection
from vlrl.rollout.direct import JOIN_S, LOOK_S, Found, Group, in_background, own_device
from vlrl.rollout.protocol import LostError, Message

logger = logging.getLogger(__name__)

_BUCKET_S = 300.0  # for a GiB, on the slowest network


class Sender:
    """The trainer's end. A replica is asked to take part, says `got` or `lacks`, and is told whether all have: `agreed`, or
    `abandon`, after which the same tensors come over its connection.

    processes: of each replica.
    """

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._group: Group | None = None
        self._works = True

    def join(self, pool: Sequence[Connection]) -> dict[Connection, LostError]:
        """Forms the group, unless it is there or could not be formed before. Returns the replicas that were lost meanwhile."""
        lost: dict[Connection, LostError] = {}
        if self._group or not self._works:
            return lost
        links = [each.link for each in pool if each.link]
        own = next((link.getsockname()[0] for link in links if link.family == socket.AF_INET), "127.0.0.1")
        listener = socket.create_server((own, 0))
        port, size = listener.getsockname()[1], 1 + len(pool) * self._processes
        meeting = {"address": own, "port": port, "name": secrets.token_hex(16), "size": size}
        asked = {
            each: Message("join", {"meeting": meeting, "number": 1 + place * self._processes, "own": _peer(each)})
            for place, each in enumerate(pool)
        }
        device = own_device()
        joining = self._all(asked, lambda: Group(meeting, 0, device=device, own=own, listener=listener), lost, JOIN_S)
        self._group = joining.result() if joining else None
        for each in pool:
            if each not in lost:
                with suppress(LostError):  # the next message finds it
                    each.wait()
        return lost

    def send(self, bucket: Mapping[str, Tensor], pool: Sequence[Connection], lost: dict[Connection, LostError]) -> bool:
        """Whether all the replicas have the tensors now. lost: those that are gone, to which others may come."""
        if not (group := self._group) or lost:
            return False
        announced = [[name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)] for name, tensor in bucket.items()]
        asked = dict.fromkeys(pool, Message("bucket", {"announced": announced}))
        if self._all(asked, lambda: group.broadcast(bucket.values()), lost, _BUCKET_S):
            return True
        self.drop()
        return False

    def drop(self) -> None:
        """Ends the group; `join` forms the next."""
        if self._group:
            self._group.abort()
            self._group = None

    def _all(
        self, asked: Mapping[Connection, Message], work: Callable[[], Found], lost: dict[Connection, LostError], within_s: float
    ) -> "Future[Found] | None":
        """The work, once it is done here and all that were asked have done their part of it; None if that can't be."""
        deadline = time.monotonic() + within_s
        for each, message in asked.items():
            _try(each, message, lost)
            each.heard = time.monotonic()
        own, awaited, why = in_background(work), set(asked), ""
        while not lost and not why and (awaited or not own.done()):
            if awaited:
                why = _answers(awaited, lost)
            else:
                wait([own], timeout=LOOK_S)
            if own.done() and (error := own.exception()):
                why = str(error)
            elif time.monotonic() > deadline:
                why = why or f"it took longer than {within_s:g} s"
        agreed = not lost and not why
        if why and not lost:
            self._works = False
            logger.warning("the direct way to the engines failed, so weights go through the hosts' memory from here on: %s", why)
        for each in asked:
            if each not in lost:
                _try(each, Message("agreed" if agreed else "abandon"), lost)
        return own if agreed else None


def _answers(awaited: set[Connection], lost: dict[Connection, LostError]) -> str:
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


def _try(each: Connection, message: Message, lost: dict[Connection, LostError]) -> None:
    try:
        each.send(message)
    except LostError as loss:
        lost[each] = loss


def _peer(each: Connection) -> str:
    return str(each.link.getpeername()[0]) if each.link and each.link.family == socket.AF_INET else "127.0.0.1"
