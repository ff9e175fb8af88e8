"""A small web server for the page of running runs: it answers GET, for its own names, and reads no path that a request names."""

import ipaddress
import json
import socket
import socketserver
import sys
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from plotly.offline import get_plotlyjs

from vlrl.common.fingerprint import text_fingerprint
from vlrl.report.live import Live

_HTML, _JSON, _SCRIPT = "text/html; charset=utf-8", "application/json", "text/javascript; charset=utf-8"
_HEADERS = {
    "Cache-Control": "no-cache",  # a browser asks each time, by the ETag
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}

Reply = tuple[str, str, bytes]
"""Media type, version and content."""


def serve_report(folders: Sequence[Path], host: str, port: int) -> None:
    """Serves the page of these runs until a signal ends it. Prints the address, and whoever else may read the page."""
    with LiveServer(folders, host, port) as server:
        if not is_loopback(host):
            print(
                f"warning: whoever reaches {host} can read prompts, responses and settings: there is no password", file=sys.stderr
            )
        for run in server.live.now()["runs"]:
            print(f"{run['name']}: {run['sentence']}")
        print(f"Serving {server.url}; Ctrl-C ends it", flush=True)
        server.serve_forever(poll_interval=0.1)


class LiveServer(ThreadingHTTPServer):
    """Serves the page of the runs in these folders at host and port; port 0 for any free one. Raises OSError if it can't."""

    daemon_threads = True

    def __init__(self, folders: Sequence[Path], host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.live, self.host = Live(folders), host
        self.plotly = get_plotlyjs().encode()
        try:
            super().__init__((host, port), _Request)
        except OSError as error:
            raise OSError(
                f"can't serve at {host}, port {port}: {error.strerror or error}; give another --port or --host"
            ) from None

    def server_bind(self) -> None:
        """Without http.server's look-up of the host's full name, which can take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.host, self.server_address[1]

    @property
    def url(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.server_port}/"

    def is_own_name(self, name: str) -> bool:
        """Whether a request may name this host so. A name of another site that leads here, as in DNS rebinding, is refused."""
        return (
            name in {"localhost", self.host} or is_address(name) or (not is_loopback(self.host) and name == socket.gethostname())
        )


class _Request(BaseHTTPRequestHandler):
    server: LiveServer
    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds without a request, after which a connection is closed

    def do_GET(self) -> None:
        name = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
        if not self.server.is_own_name(name):
            self._refuse(HTTPStatus.FORBIDDEN, f"This server is not {name!r}; open {self.server.url}")
            return
        url = urlsplit(self.path)
        try:
            reply = self._reply(url.path, {key: values[0] for key, values in parse_qs(url.query).items()})
        except (KeyError, IndexError, ValueError):
            reply = None
        if reply is None:
            self._refuse(HTTPStatus.NOT_FOUND, f"There is nothing here; open {self.server.url}")
        else:
            self._send(*reply)

    def _reply(self, path: str, query: Mapping[str, str]) -> Reply | None:
        """The reply to a request; None if there is none. Raises KeyError, IndexError or ValueError for a wrong query."""
        live = self.server.live
        match path:
            case "/":
                return _versioned(_HTML, live.page())
            case "/plotly.js":
                return _SCRIPT, str(len(self.server.plotly)), self.server.plotly
            case "/now":
                return _versioned(_JSON, json.dumps(live.now()))
            case "/figures":
                version, text = live.figures()
                return _JSON, version, text.encode()
            case "/rollouts":
                place, life, start = (_natural(query[name]) for name in ("run", "life", "from"))
                return _versioned(_JSON, json.dumps(live.rollouts(place, life, start)))
            case "/picture":
                content, kind = live.picture(_natural(query["run"]), _natural(query["place"]))
                return (kind, text_fingerprint(content), content) if content else None
        return None

    def _send(self, kind: str, version: str, content: bytes) -> None:
        tag = f'"{version}"'
        is_known = self.headers.get("If-None-Match") == tag
        self.send_response(HTTPStatus.NOT_MODIFIED if is_known else HTTPStatus.OK)
        self._end_headers({"ETag": tag} | ({} if is_known else {"Content-Type": kind, "Content-Length": str(len(content))}))
        if not is_known:
            self.wfile.write(content)

    def _refuse(self, status: HTTPStatus, sentence: str) -> None:
        content = f"{sentence}\n".encode()
        self.send_response(status)
        self._end_headers({"Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(content))})
        self.wfile.write(content)

    def _end_headers(self, more: Mapping[str, str]) -> None:
        for name, value in (_HEADERS | dict(more)).items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Prints nothing."""


def _versioned(kind: str, text: str) -> Reply:
    content = text.encode()
    return kind, text_fingerprint(content), content


def _natural(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{text!r} is not a number")
    return int(text)


def is_address(name: str) -> bool:
    """Whether it is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the host."""
    return host == "localhost" or (is_address(host) and ipaddress.ip_address(host).is_loopback)
