"""A stand-in of the hub: serves folders as data sets over HTTP, as huggingface_hub asks for them. One commit per folder."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

API = re.compile(r"/api/datasets/(?P<name>[^/]+/[^/]+)(/(?P<what>revision|tree|paths-info)/(?P<revision>[^/]+)(/(?P<path>.*))?)?")
FILE = re.compile(r"/datasets/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")


class Hub:
    """folders: by data set and commit; branches: the commit of each data set's main. asked: the paths of all requests."""

    def __init__(self) -> None:
        self.commits: dict[tuple[str, str], Path] = {}
        self.main: dict[str, str] = {}
        self.asked: list[str] = []
        self.address = ""

    def push(self, name: str, folder: Path) -> str:
        """Makes the folder the newest commit of a data set, and returns the commit."""
        commit = hashlib.sha1(f"{name} {len(self.commits)}".encode()).hexdigest()
        self.commits[name, commit], self.main[name] = folder, commit
        return commit


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_POST(self) -> None:
            self.body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(path)
            found = API.fullmatch(path) or FILE.fullmatch(path)
            name = found["name"] if found else ""
            commit = (
                hub.main.get(name, "") if (found and found["revision"] in (None, "main")) else found["revision"] if found else ""
            )
            folder = hub.commits.get((name, commit))
            if found is None or folder is None:
                self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound" if name not in hub.main else "RevisionNotFound"})
            elif "what" in found.groupdict():
                self.answer(
                    200, json.dumps(self.facts(found, folder, name, commit)).encode(), {"Content-Type": "application/json"}
                )
            elif (folder / found["path"]).is_file():
                content = (folder / found["path"]).read_bytes()
                etag = f'"{hashlib.sha1(content).hexdigest()}"'
                self.answer(200, content, {"ETag": etag, "X-Repo-Commit": commit})
            else:
                self.answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})

        def facts(self, found, folder: Path, name: str, commit: str):
            files = sorted(each for each in folder.rglob("*") if each.is_file())
            listed = [
                {"type": "file", "path": file.relative_to(folder).as_posix(), "size": file.stat().st_size, "oid": "0" * 40}
                for file in files
            ]
            if found["what"] == "tree":
                folders = {
                    parent.relative_to(folder).as_posix()
                    for file in files
                    for parent in file.parents
                    if parent.is_relative_to(folder)
                }
                below = found["path"] or ""
                return [
                    each
                    for each in [
                        *listed,
                        *({"type": "directory", "path": path, "oid": "0" * 40} for path in sorted(folders - {"."})),
                    ]
                    if not below or each["path"].startswith(f"{below}/")
                ]
            if found["what"] == "paths-info":
                return [each for each in listed if each["path"] in unquote(self.body)]
            siblings = [{"rfilename": each["path"]} for each in listed]
            return {
                "id": name,
                "sha": commit,
                "siblings": siblings,
                "tags": [],
                "cardData": {"license": ["mit", "apache-2.0"]},
                "private": False,
            }

        def answer(self, code: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(code)
            for key, value in ({"Content-Length": str(len(content))} | headers).items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
