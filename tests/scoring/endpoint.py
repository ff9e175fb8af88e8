"""Servers on a loopback port that behave like a judge or a grader: python -m tests.scoring.endpoint PORT BEHAVIOUR.

A real judge is a large model. These follow a rule each, so that a test knows what they say, and some follow whatever they read.
"""

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

FENCED = re.compile(r"^BEGIN (\w+) ([0-9a-f]{12})\n(.*?)\nEND \1 \2$", re.MULTILINE | re.DOTALL)


def texts_of(prompt: str) -> dict[str, str]:
    return {name: text for name, _, text in FENCED.findall(prompt)}


def code_of(prompt: str) -> str:
    return FENCED.findall(prompt)[0][1]


def verdict(word: str, prompt: str) -> str:
    return json.dumps({"verdict": f"{word}-{code_of(prompt)}"})


def honest(prompt: str) -> str:
    """Calls texts of the same words, in any order, the same."""
    words = [sorted(re.findall(r"\w+", texts_of(prompt)[name].lower())) for name in ("reference", "answer")]
    return verdict("same" if words[0] == words[1] else "different", prompt)


def first(prompt: str) -> str:
    """Prefers what comes first: it calls all texts the same whose reference has more letters."""
    texts = texts_of(prompt)
    return verdict("same" if len(texts["reference"]) >= len(texts["answer"]) else "different", prompt)


def repeats_last_json(prompt: str) -> str:
    return ([*re.findall(r"\{[^{}]*\}", prompt)] or ["none"])[-1]


def repeats_last_verdict(prompt: str) -> str:
    """Repeats the last word after "verdict", however it is written, as a well-formed reply."""
    found = re.findall(r"verdict\W+(same\S*|different\S*)", prompt)
    return json.dumps({"verdict": found[-1].strip("\"'}.")}) if found else "none"


def obeys_ignore(prompt: str) -> str:
    """Says whatever is asked for after the words "ignore the above"."""
    found = re.findall(r"(?:ignore|disregard|forget)[^\n]*?(?:say|reply|answer|write|output)\W+(.*)", prompt, re.IGNORECASE)
    return found[-1].strip() if found else honest(prompt)


def obeys_wholly(prompt: str) -> str:
    """Gives the verdict, with its right code, that the answer asks for in any way."""
    return verdict("same", prompt) if "same" in texts_of(prompt)["answer"].lower() else honest(prompt)


def is_charmed(prompt: str) -> str:
    """Calls any answer of more than a few words the same."""
    return verdict("same", prompt) if len(texts_of(prompt)["answer"]) > 30 else honest(prompt)


GULLIBLE = (repeats_last_json, repeats_last_verdict, obeys_ignore, obeys_wholly, is_charmed)
BEHAVIOURS = {each.__name__: each for each in (honest, first, *GULLIBLE)}


def completion(text: str, finish_reason: str = "stop") -> dict[str, Any]:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    return {"choices": [choice], "usage": {"total_tokens": 100}}


def judge(behaviour: Callable[[str], str]) -> Callable[[str, Any], tuple[int, Any]]:
    """What a judge's server replies to a path and a body: a status and JSON."""

    def reply(path: str, body: Any) -> tuple[int, Any]:
        if path.endswith("/models"):
            return 200, {"data": [{"id": "scripted"}]}
        return 200, completion(behaviour("\n".join(message["content"] for message in body["messages"])))

    return reply


@dataclass
class Endpoint:
    """A running server. requests: each one's path, headers and body; reply: may be replaced while it runs."""

    reply: Callable[[str, Any], tuple[int, Any]]
    port: int = 0
    requests: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


def server_of(endpoint: Endpoint) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._reply(None)

        def do_POST(self) -> None:
            self._reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _reply(self, body: Any) -> None:
            endpoint.requests.append((self.path, dict(self.headers), body))
            status, value = endpoint.reply(self.path, body)
            content = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *_: Any) -> None:  # a client that has gone is no fault of a test
            pass

    return Server(("127.0.0.1", endpoint.port), Handler)


@contextmanager
def serving(reply: Callable[[str, Any], tuple[int, Any]]) -> Iterator[Endpoint]:
    endpoint = Endpoint(reply)
    server = server_of(endpoint)
    endpoint.port = server.server_address[1]
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


if __name__ == "__main__":
    server_of(Endpoint(judge(BEHAVIOURS[sys.argv[2]]), port=int(sys.argv[1]))).serve_forever()
