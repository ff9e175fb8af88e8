"""Asks one service for the verifiers' questions: several at a time, equal ones once, and not while it is down.

A service that fails with all retries is left alone for a few seconds, in which its questions fail at once with the same reason.
So a service that is down costs a step some verdicts, and not the time of a deadline for each response.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Condition, Thread
from typing import Any, Protocol

from vlrl.common.ask import Question
from vlrl.common.fingerprint import text_fingerprint
from vlrl.scoring.record import Record
from vlrl.tasks import describe_error
from vlrl.types import Status

log = logging.getLogger("vlrl.scoring")

_REST_S = 2.0  # after a failure with all retries
_END_S = 2.0  # how long `close` waits for requests under way


class Failed(Exception):  # noqa: N818
    """A request without a reply. requests: how many were sent; is_outage: nobody answered, so that others would fail too."""

    def __init__(self, detail: str, *, status: Status = Status.ERROR, requests: int = 0, is_outage: bool = False):
        super().__init__(detail)
        self.detail, self.status, self.requests, self.is_outage = detail, status, requests, is_outage


@dataclass(frozen=True, kw_only=True, slots=True)
class Replies:
    """The replies to some questions, in order, and what they cost. A Failed stands for a question that cannot be decided."""

    found: Sequence[Any]
    requests: int = 1
    tokens: int = 0


class Backend(Protocol):
    """One kind of service. batch: the most questions in a request; identity: what its replies depend on, besides a question."""

    batch: int
    identity: str
    place: str

    def check(self) -> None:
        """ValueError, one sentence, if the service cannot be used now."""

    def ask(self, contents: Sequence[Mapping[str, Any]]) -> Replies:
        """The replies to these questions. Raises Failed if there are none."""

    def close(self) -> None: ...


Answered = Callable[[Any], None]


class Service:
    """A service with its queue and its threads. record: of its replies and its budget; longest_s: a request may take so long."""

    def __init__(self, backend: Backend, record: Record, *, concurrency: int, longest_s: float):
        self.backend = backend
        self.longest_s = longest_s
        self._record = record
        self._waiting: deque[tuple[str, Question]] = deque()
        self._askers: dict[str, list[Answered]] = {}  # by the key of a question that waits or is under way
        self._changed = Condition()
        self._closed = False
        self._failure: Failed | None = None  # the last one with all retries, until a request succeeds
        self._rests_until = 0.0
        self._threads = [Thread(target=self._serve, name=backend.place, daemon=True) for _ in range(concurrency)]

    def put(self, question: Question, answered: Answered) -> None:
        """Queues a question. answered: called in one of the service's threads, with its reply or a Failed."""
        key = text_fingerprint(self.backend.identity.encode(), question.key.encode())
        with self._changed:
            if key in self._askers:
                self._askers[key].append(answered)
                return
            self._askers[key] = [answered]
            self._waiting.append((key, question))
            self._changed.notify()
            for thread in self._threads:
                if thread.ident is None:
                    thread.start()

    def close(self) -> None:
        """Drops the waiting questions, and leaves requests under way to end by themselves."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
        self.backend.close()
        end = time.monotonic() + _END_S
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, end - time.monotonic()))

    def _serve(self) -> None:
        while batch := self._take():
            try:
                found = self._find(batch)
            except BaseException as error:  # a bug, or a full disk: the responses get no score, and this thread continues
                found = {key: Failed(f"{self.backend.place}: {describe_error(error)}") for key in batch}
            for key, reply in found.items():
                with self._changed:
                    askers = self._askers.pop(key)
                for answered in askers:
                    answered(reply)

    def _take(self) -> dict[str, Question]:
        """Waits for questions, at most a batch of them; none once the service is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting)
            return dict(self._waiting.popleft() for _ in range(min(self.backend.batch, len(self._waiting))))

    def _find(self, batch: Mapping[str, Question]) -> dict[str, Any]:
        """The reply to each question, from the record if it has it, or a Failed."""
        known = {key: reply for key in batch if (reply := self._record.find(key)) is not None}
        unknown = {key: question for key, question in batch.items() if key not in known}
        if not unknown:
            return known
        if spent := self._record.exhausted():
            return known | dict.fromkeys(unknown, Failed(f"{self.backend.place}: the run's budget is spent, {spent}"))
        if self._failure and time.monotonic() < self._rests_until:
            return known | dict.fromkeys(unknown, self._failure)
        try:
            replies = self.backend.ask([question.content for question in unknown.values()])
        except Failed as failed:
            if failed.is_outage:
                if not self._failure:
                    log.warning("%s; until it replies again, responses that need it get no score", failed.detail)
                self._failure, self._rests_until = failed, time.monotonic() + _REST_S
            self._record.add({}, requests=failed.requests)
            return known | dict.fromkeys(unknown, failed)
        if self._failure:
            log.warning("%s replies again", self.backend.place)
        self._failure = None
        found = dict(zip(unknown, replies.found, strict=True))
        good = {key: reply for key, reply in found.items() if not isinstance(reply, Failed)}
        self._record.add(good, requests=replies.requests, tokens=replies.tokens)
        return known | found
