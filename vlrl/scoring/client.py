"""Asks over HTTP with a deadline, and repeats what may succeed later."""

import json
import os
import random
import time
from threading import Event
from typing import Any

import httpx

from vlrl.common.service_settings import HttpConfig
from vlrl.scoring.service import Failed
from vlrl.types import Status

_MOST_BYTES = 16 << 20
_CONNECT_S = 5.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 8.0
_BUSY = {408, 425, 429, 500, 502, 503, 504, 529}


class HttpClient:
    """Sends JSON to one server and reads JSON. Threads may share it.

    place: of its settings in the run file, for messages. Raises ValueError if the environment has no key.
    """

    def __init__(self, config: HttpConfig, place: str):
        self._config, self._place = config, place
        self._closed = Event()
        self._key = os.environ.get(config.key_env, "") if config.key_env else ""
        if config.key_env and not self._key:
            raise ValueError(f"{place}.key_env: the environment has no {config.key_env}; set it to the service's key")
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        limits = httpx.Limits(max_connections=config.concurrency, max_keepalive_connections=config.concurrency)
        self._http = httpx.Client(headers=headers, limits=limits)

    def close(self) -> None:
        """Ends pauses between retries at once."""
        self._closed.set()

    def call(self, path: str, body: Any, *, method: str = "POST") -> tuple[Any, int]:
        """The JSON value that the server replies with, and the number of requests that it took. Raises Failed."""
        deadline = time.monotonic() + self._config.timeout_s
        sent, fault = 0, ""
        for attempt in range(1 + self._config.retries):
            pause = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**attempt) * random.uniform(0.5, 1.0)
            sent += 1
            try:
                code, text, asked_pause = self._send(method, path, body, deadline)
            except TimeoutError:
                break
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                fault = f"{type(error).__name__} {error}"
            else:
                if code < 300:
                    return self._json(text, sent), sent
                fault = f"HTTP status {code}: {text[:200]!r}"
                if code not in _BUSY:
                    raise Failed(self._said(fault), requests=sent)
                pause = max(pause, min(asked_pause, self._config.timeout_s))
            if attempt == self._config.retries:
                raise Failed(self._said(f"{fault}, after {sent} requests"), requests=sent, is_outage=True)
            if time.monotonic() + pause > deadline or self._closed.wait(pause):
                break
        found = f"; the last request: {fault}" if fault else ""
        detail = self._said(f"no reply in {self._config.timeout_s:g} s{found}")
        raise Failed(detail, status=Status.TIMEOUT, requests=sent, is_outage=True)

    def _send(self, method: str, path: str, body: Any, deadline: float) -> tuple[int, str, float]:
        """The status, the text and the pause that the server asks for. Raises TimeoutError at the deadline, httpx.HTTPError."""
        left = max(0.01, deadline - time.monotonic())
        timeout = httpx.Timeout(left, connect=min(_CONNECT_S, left))
        content = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        try:
            with self._http.stream(
                method, self._config.url.rstrip("/") + path, content=content, headers=headers, timeout=timeout
            ) as reply:
                read = bytearray()
                for chunk in reply.iter_bytes():
                    read += chunk
                    if time.monotonic() > deadline:
                        raise TimeoutError
                    if len(read) > _MOST_BYTES:
                        raise Failed(self._said(f"the reply has more than {_MOST_BYTES} bytes"), requests=1)
        except (httpx.ReadTimeout, httpx.WriteTimeout, httpx.PoolTimeout):
            raise TimeoutError from None
        after = reply.headers.get("Retry-After", "")
        return reply.status_code, read.decode(errors="replace"), float(after) if after.isascii() and after.isdigit() else 0.0

    def _json(self, text: str, sent: int) -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise Failed(self._said(f"the reply is not JSON: {text[:200]!r}"), requests=sent) from None

    def _said(self, fault: str) -> str:
        """The fault with the service's name, and without its key, which a server may repeat."""
        named = f"{self._place} at {self._config.url}: {fault}"
        return named.replace(self._key, "***") if self._key else named
