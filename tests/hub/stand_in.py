"""A stand-in of the hub for models: takes uploads and serves them over HTTP, with the requests that huggingface_hub 2.4 makes.

Read from its sources: whoami-v2, repos/create, branch, tree, validate-yaml, preupload, git-lfs batch with basic uploads, the
commit as NDJSON, and resolve with the headers that a download checks. Chunked uploads to xet are not spoken: set
HF_HUB_DISABLE_XET=1, or `large` to a size that no file has.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
ROUTES = [
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/repos/create", "create"),
    ("POST", r"/api/validate-yaml", "validate"),
    ("GET", rf"/api/models/{REPO}", "info"),
    ("GET", rf"/api/models/{REPO}/revision/(?P<revision>[^/]+)", "info"),
    ("GET", rf"/api/models/{REPO}/tree/(?P<revision>[^/]+)", "tree"),
    ("POST", rf"/api/models/{REPO}/branch/(?P<branch>[^/]+)", "branch"),
    ("POST", rf"/api/models/{REPO}/preupload/(?P<revision>[^/]+)", "preupload"),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", "batch"),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", "store"),
    ("POST", rf"/api/models/{REPO}/commit/(?P<revision>[^/]+)", "commit"),
    ("GET", rf"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
]

Files = dict[str, bytes]


@dataclass
class Repo:
    """branches: by name, the newest commit. messages: of the commits, in order."""

    private: bool
    branches: dict[str, str] = field(default_factory=lambda: {"main": "0" * 40})
    commits: dict[str, Files] = field(default_factory=lambda: {"0" * 40: {}})
    messages: list[str] = field(default_factory=list)

    def files(self, revision: str = "main") -> Files:
        return self.commits[self.branches.get(revision, revision)]


@dataclass
class Hub:
    """users: by token. asked: "POST /api/..." of all requests. dies_at: a part of the request at which the server falls silent.

    large: bytes from which on a file is stored by git-lfs.
    """

    address: str = ""
    users: dict[str, str] = field(default_factory=lambda: {"hf_of_kim": "kim", "hf_of_lee": "lee"})
    repos: dict[str, Repo] = field(default_factory=dict)
    stored: Files = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    dies_at: str = ""
    is_dead: bool = False
    large: int = 20_000

    def count(self, part: str) -> int:
        return sum(part in each for each in self.asked)


class Refused(Exception):  # noqa: N818 (an answer, not an error)
    """An answer other than 200: the code, the hub's message, its X-Error-Code, and more fields of the answer."""

    def __init__(self, code: int, message: str, kind: str = "", **more: str) -> None:
        super().__init__(message)
        self.code, self.kind, self.more = code, kind, more


def git_hash(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def oid(content: bytes, large: int) -> str:
    return hashlib.sha256(content).hexdigest() if len(content) >= large else git_hash(content)


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_) -> None:
        pass

    def do_GET(self) -> None:
        self.answer("GET")

    def do_HEAD(self) -> None:
        self.answer("GET")

    def do_POST(self) -> None:
        self.answer("POST")

    def do_PUT(self) -> None:
        self.answer("PUT")

    def answer(self, method: str) -> None:
        path = unquote(urlsplit(self.path).path)
        asked = f"{self.command} {path}"
        self.hub.asked.append(asked)
        if self.hub.is_dead or (self.hub.dies_at and self.hub.dies_at in asked):
            self.hub.is_dead = True
            self.close_connection = True  # without an answer, in the middle of the request
            return
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            for verb, pattern, name in ROUTES:
                if verb == method and (found := re.fullmatch(pattern, path)):
                    code, headers, content = 200, {}, getattr(self, name)(**found.groupdict())
                    break
            else:
                raise Refused(404, f"no such page: {asked}")
            if isinstance(content, tuple):
                headers, content = content
        except Refused as error:
            code, content = error.code, {"error": str(error), **error.more}
            headers = {"X-Error-Message": str(error)} | ({"X-Error-Code": error.kind} if error.kind else {})
        if not isinstance(content, bytes):
            content, headers = json.dumps(content).encode(), headers | {"Content-Type": "application/json"}
        self.send_response(code)
        for key, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    @property
    def user(self) -> str:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in self.hub.users:
            raise Refused(401, "Invalid credentials in Authorization header")
        return self.hub.users[token]

    def readable(self, repo: str) -> Repo:
        found = self.hub.repos.get(repo)
        if found is None or (found.private and self.user != repo.partition("/")[0]):
            raise Refused(404, "Repository not found", "RepoNotFound")
        return found

    def writable(self, repo: str) -> Repo:
        found = self.readable(repo)
        if self.user != repo.partition("/")[0]:
            raise Refused(403, "you do not have the rights to write to this model")
        return found

    def files_of(self, repo: str, revision: str) -> Files:
        found = self.readable(repo)
        if revision not in found.branches and revision not in found.commits:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found.files(revision)

    def whoami(self) -> dict:
        return {"type": "user", "name": self.user, "orgs": [], "auth": {"type": "access_token"}}

    def create(self) -> dict:
        asked = json.loads(self.body)
        owner = asked["organization"] or self.user
        if owner != self.user:
            raise Refused(403, f'You don\'t have the rights to create a model under the namespace "{owner}"')
        repo = f"{owner}/{asked['name']}"
        if repo in self.hub.repos:
            raise Refused(409, "You already created this model repo", url=f"{self.hub.address}/{repo}")
        self.hub.repos[repo] = Repo(private=asked.get("visibility") == "private")
        return {"url": f"{self.hub.address}/{repo}", "name": repo}

    def validate(self) -> dict:
        assert self.user, "without a token it raises Refused"
        text = json.loads(self.body)["content"]
        return {"errors": [], "warnings": []} if text.startswith("---\n") else {"warnings": [{"message": "empty metadata"}]}

    def info(self, repo: str, revision: str = "main") -> dict:
        files, found = self.files_of(repo, revision), self.readable(repo)
        sha = found.branches.get(revision, revision)
        siblings = [{"rfilename": name} for name in files]
        return {"id": repo, "modelId": repo, "sha": sha, "private": found.private, "tags": [], "siblings": siblings}

    def tree(self, repo: str, revision: str) -> list:
        large = self.hub.large
        return [
            {"type": "file", "path": name, "size": len(content), "oid": git_hash(content)}
            | ({"lfs": {"oid": oid(content, large), "size": len(content), "pointerSize": 1}} if len(content) >= large else {})
            for name, content in self.files_of(repo, revision).items()
        ]

    def branch(self, repo: str, branch: str) -> dict:
        found = self.writable(repo)
        if branch in found.branches:
            raise Refused(409, "Reference already exists")
        found.branches[branch] = found.branches["main"]
        return {}

    def preupload(self, repo: str, revision: str) -> dict:
        self.writable(repo)
        there, large = self.files_of(repo, revision), self.hub.large
        return {
            "files": [
                {"path": each["path"], "uploadMode": "lfs" if each["size"] >= large else "regular", "shouldIgnore": False}
                | ({"oid": oid(there[each["path"]], large)} if each["path"] in there else {})
                for each in json.loads(self.body)["files"]
            ]
        }

    def batch(self, repo: str) -> dict:
        self.writable(repo)
        asked = json.loads(self.body)["objects"]
        return {
            "transfer": "basic",
            "objects": [
                each
                if each["oid"] in self.hub.stored
                else each | {"actions": {"upload": {"href": f"{self.hub.address}/lfs/{each['oid']}"}}}
                for each in asked
            ],
        }

    def store(self, oid: str) -> dict:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refused(400, "the content does not have this sha256")
        self.hub.stored[oid] = self.body
        return {}

    def commit(self, repo: str, revision: str) -> dict:
        found, files = self.writable(repo), dict(self.files_of(repo, revision))
        head, *operations = (json.loads(line) for line in self.body.splitlines())
        for each in operations:
            value = each["value"]
            if each["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif each["key"] == "lfsFile" and value["oid"] in self.hub.stored:
                files[value["path"]] = self.hub.stored[value["oid"]]
            elif each["key"] == "deletedFile" and value["path"] in files:
                del files[value["path"]]
            else:
                raise Refused(400, f"cannot commit {each['key']} {value['path']}")
        commit = hashlib.sha1(f"{repo} {revision} {len(found.commits)}".encode()).hexdigest()
        found.commits[commit], found.branches[revision] = files, commit
        found.messages.append(head["value"]["summary"])
        return {"success": True, "commitUrl": f"{self.hub.address}/{repo}/commit/{commit}", "commitOid": commit}

    def resolve(self, repo: str, revision: str, path: str) -> tuple[dict, bytes]:
        files = self.files_of(repo, revision)
        if path not in files:
            raise Refused(404, "Entry not found", "EntryNotFound")
        content, found = files[path], self.readable(repo)
        etag = f'"{oid(content, self.hub.large)}"'
        headers = {"ETag": etag, "X-Repo-Commit": found.branches.get(revision, revision)}
        return headers | (
            {"X-Linked-Etag": etag, "X-Linked-Size": str(len(content))} if len(content) >= self.hub.large else {}
        ), content
