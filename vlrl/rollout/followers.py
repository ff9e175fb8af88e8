"""The other processes of a tensor-parallel replica: each holds a part of the model, and does what the first one does.

The first process passes every message on, so that all call the same engine with the same requests and weights; what the others
sample is the same and stays unsaid. If one of them is lost, the first ends: no collective of theirs would ever come back.
"""

import logging
import os
import time
from collections.abc import Mapping
from queue import Empty, Queue
from threading import Thread
from typing import Any, NoReturn

from vlrl.rollout.protocol import LostError, Message, packed, receive, send, send_packed
from vlrl.rollout.spawn import spawn_replica

logger = logging.getLogger(__name__)

_SILENT_S = 60.0
"""One that has not said for this long that it lives is lost: stopped, or on a device that hangs."""
_APART_S = 10.0
"""Between the failures of two processes that do the same; longer, and one of them waits for the other for ever."""


class Followers:
    """Those of one replica; none if it has one device. They end with this process."""

    def __init__(self, opened: Mapping[str, Any], size: int) -> None:
        members = [spawn_replica({}) for _ in range(1, size)]
        self._links = [link for link, _ in members]
        self._processes = [process for _, process in members]
        self._answers: list[Queue[Message]] = [Queue() for _ in self._links]
        for number, link in enumerate(self._links):
            link.settimeout(_SILENT_S)
            send(link, Message("open", {**opened, "member": number + 1}))
            Thread(target=self._listen, args=(number,), name=f"member {number + 1}", daemon=True).start()

    def send(self, message: Message) -> None:
        """Passes a message on."""
        if self._links:
            once = packed(message)
            for link in self._links:
                send_packed(link, once)

    def wait(self, *, failed: bool = False) -> None:
        """Waits until all have answered. RuntimeError if one failed. failed: this process has, so the others will not wait."""
        for number, answers in enumerate(self._answers):
            try:
                answer = answers.get(timeout=_APART_S if failed else None)
            except Empty:
                self._end(f"member {number + 1} of the engine still works on what failed here")
            if answer.kind == "failed" and not failed:
                raise RuntimeError(answer.fields["sentence"])

    def all_got(self) -> bool | None:
        """Whether each has done its part of what the trainer asked all for; None until each has said so."""
        if any(answers.empty() for answers in self._answers):
            return None
        found = [answers.get() for answers in self._answers]
        for answer in found:
            if answer.kind == "failed":
                self._end(f"a member of the engine failed: {answer.fields['sentence']}")
        return all(answer.kind == "got" for answer in found)

    def _listen(self, number: int) -> None:
        answers = self._answers[number]
        try:
            while True:
                message = receive(self._links[number])
                if message.kind in ("done", "failed", "got", "lacks"):
                    answers.put(message)
                if message.kind == "failed":
                    Thread(target=self._end_unless_collected, args=(number, message), daemon=True).start()
        except LostError as loss:
            self._end(f"member {number + 1} of the engine is lost: {loss}")

    def _end_unless_collected(self, number: int, message: Message) -> None:
        """Ends this process if it waits in a collective for a member that has failed."""
        time.sleep(_APART_S)
        if message in self._answers[number].queue:
            self._end(f"member {number + 1} of the engine failed: {message.fields['sentence']}")

    def _end(self, sentence: str) -> NoReturn:
        """Ends all of the replica's processes, even one that is stopped."""
        logger.error("%s; the replica ends", sentence)
        for process in self._processes:
            process.kill()
        os._exit(1)
