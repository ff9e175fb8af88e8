"""Lets a verifier ask a service, such as a judge, without waiting for it.

A verifier runs in a worker that can be killed and that has no key of a service. So its question leaves the worker as an
exception; the scorer asks the service, and then runs the verifier again from its start, where the same question returns the
reply. A verifier depends only on its arguments, so it gets to the same question again. Waiting for a service occupies no worker.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from vlrl.common.fingerprint import text_fingerprint


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What a verifier asks. service: its name in the run file; content: JSON data in the form that this kind of service reads."""

    service: str
    content: Mapping[str, Any]

    @property
    def key(self) -> str:
        return text_fingerprint(self.service.encode(), json.dumps(self.content, sort_keys=True).encode())


class Unanswered(BaseException):  # noqa: N818
    """A question that has no reply yet. Not an Exception, so that a verifier which catches those does not catch it."""

    def __init__(self, question: Question):
        super().__init__(f"asks the service {question.service!r}")
        self.question = question


class NotJudged(RuntimeError):  # noqa: N818
    """A service's reply decides nothing, so the response gets status error."""


_REPLIES: ContextVar[Mapping[str, Any]] = ContextVar("replies")


def ask(service: str, content: Mapping[str, Any]) -> Any:
    """The service's reply to a question, JSON data. Raises Unanswered if it is not known yet."""
    question = Question(service=service, content=content)
    replies = _REPLIES.get({})
    if question.key not in replies:
        raise Unanswered(question)
    return replies[question.key]


@contextmanager
def answering(replies: Mapping[str, Any]) -> Iterator[None]:
    """In the block, `ask` knows these replies, by their question's key."""
    token = _REPLIES.set(replies)
    try:
        yield
    finally:
        _REPLIES.reset(token)
