"""A loopback stand-in of ModelScope and of Hugging Face, which the real clients talk to.

It answers the addresses that `modelscope_hub` 0.5 and `huggingface_hub` 2.4 ask for, with JSON and
headers as the hubs send them, keeps a log of requests, and breaks a transfer when told to.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

PIECE = 1 << 16
LFS_FROM = 1000  # bytes: larger files are kept as Git LFS objects, on another host
COMMIT = "c0ffee" + "0" * 34


@dataclass
class Repo:
    files: dict[str, bytes]
    commit: str = COMMIT
    revisions: tuple[str, ...] = ("master", "main")
    gated: bool = False
    private: bool = False
    # What the listing says in place of the truth: path -> fields.
    lies: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass
class Request:
    method: str
    path: str
    host: str
    headers: dict[str, str]


@dataclass
class State:
    repos: dict[str, Repo] = field(default_factory=dict)
    # path of a file -> what happens to its next transfers: ("cut", n), ("wrong",), ("html",),
    # ("stall", n), ("slow", seconds before each PIECE bytes), ("no range",), ("status", n)
    faults: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)
    log: list[Request] = field(default_factory=list)
    # path of a file -> first byte of each transfer, and the one after its last.
    sent: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    wake: threading.Event = field(default_factory=threading.Event)
    token: str = "hub-secret-token"
    # Sent in place of every listing, when it is set.
    listing: bytes | None = None

    def asked(self, text: str, method: str = "GET") -> list[Request]:
        return [r for r in self.log if text in unquote(r.path) and r.method == method]


class FakeHub:
    """`url` is for MODELSCOPE_ENDPOINT and HF_ENDPOINT; the rest is `state`."""

    def __init__(self, server: ThreadingHTTPServer, state: State) -> None:
        self.state = state
        self.port = server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def add(self, repo_id: str, files: dict[str, bytes], **options: Any) -> Repo:
        repo = self.state.repos[repo_id] = Repo(files, **options)
        return repo

    def fault(self, path: str, *what: tuple[Any, ...]) -> None:
        self.state.faults[path] = list(what)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def lfs(data: bytes) -> bool:
    return len(data) >= LFS_FROM


class Handler(BaseHTTPRequestHandler):
    server_version = "FakeHub"
    state: State

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        parts = urlsplit(self.path)
        host = self.headers.get("Host", "")
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.state.log.append(Request(self.command, self.path, host, headers))
        query = {k: v[0] for k, v in parse_qs(parts.query).items()}
        for pattern, method in ROUTES:
            if match := re.fullmatch(pattern, unquote(parts.path)):
                with suppress(BrokenPipeError, ConnectionResetError):
                    method(self, *match.groups(), query)
                return
        self.send_json(404, {"error": "Not Found"})

    def send_json(self, status: int, body: Any, **headers: str) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def authorized(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.state.token}"

    # --- ModelScope

    def ms_files(self, repo_id: str, query: dict[str, str]) -> None:
        if self.state.listing is not None:
            return self.send_bytes("", self.state.listing, {})
        repo = self.ms_repo(repo_id, query)
        if not repo:
            return
        files = [self.ms_entry(repo, path, data) for path, data in repo.files.items()]
        self.send_json(200, {"Code": 200, "Data": {"Files": files}, "Success": True})

    def ms_entry(self, repo: Repo, path: str, data: bytes) -> dict[str, Any]:
        return {
            "Path": path,
            "Name": path.rpartition("/")[2],
            "Type": "blob",
            "Size": len(data),
            "Sha256": sha256(data),
            "IsLFS": lfs(data),
            "Revision": repo.commit,
            "CommittedDate": 1730000000,
            **repo.lies.get(path, {}),
        }

    def ms_file(self, repo_id: str, query: dict[str, str]) -> None:
        repo = self.ms_repo(repo_id, query)
        if not repo:
            return
        if repo.gated and not self.authorized():
            return self.send_json(403, {"Code": 10010202003, "Message": "access denied"})
        path = query["FilePath"]
        if path not in repo.files:
            return self.send_json(404, {"Code": 10010201001, "Message": "file not found"})
        self.send_bytes(path, repo.files[path], {"ETag": f'"{sha256(repo.files[path])}"'})

    def ms_repo(self, repo_id: str, query: dict[str, str]) -> Repo | None:
        repo = self.state.repos.get(repo_id)
        if repo and repo.private and not self.authorized():
            self.send_json(401, {"Code": 10010205001, "Message": "please login"})
            return None
        if not repo or query.get("Revision", "master") not in (*repo.revisions, repo.commit):
            self.send_json(404, {"Code": 10010205001, "Message": "Record not found"})
            return None
        return repo

    # --- Hugging Face

    def hf_info(self, repo_id: str, revision: str | None, query: dict[str, str]) -> None:
        if self.state.listing is not None:
            return self.send_bytes("", self.state.listing, {})
        repo = self.state.repos.get(repo_id)
        if not repo or (repo.private and not self.authorized()):
            return self.send_json(
                401, {"error": "Repository not found"}, X_Error_Code="RepoNotFound"
            )
        if revision not in (None, repo.commit, *repo.revisions):
            error = {"error": f"Invalid rev id: {revision}"}
            return self.send_json(404, error, X_Error_Code="RevisionNotFound")
        siblings = [self.hf_sibling(repo, path, data) for path, data in repo.files.items()]
        self.send_json(200, {"id": repo_id, "sha": repo.commit, "siblings": siblings})

    def hf_sibling(self, repo: Repo, path: str, data: bytes) -> dict[str, Any]:
        entry: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": git_oid(data)}
        if lfs(data):
            entry["lfs"] = {"sha256": sha256(data), "size": len(data), "pointerSize": 134}
        return entry | repo.lies.get(path, {})

    def hf_resolve(self, repo_id: str, revision: str, path: str, query: dict[str, str]) -> None:
        repo = self.state.repos.get(repo_id)
        if not repo or path not in repo.files:
            return self.send_json(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
        if repo.gated and not self.authorized():
            error = f"Access to model {repo_id} is restricted."
            return self.send_json(401, {"error": error}, X_Error_Code="GatedRepo")
        data = repo.files[path]
        headers = {"X-Repo-Commit": repo.commit, "ETag": f'"{git_oid(data)}"'}
        if not lfs(data):
            return self.send_bytes(path, data, headers)
        self.send_response(302)
        # `localhost` is another host than 127.0.0.1: a token must not follow.
        cdn = f"http://localhost:{self.server.server_address[1]}/cdn/{repo_id}/{quote(path)}?sign=x"
        headers |= {"X-Linked-ETag": f'"{sha256(data)}"', "X-Linked-Size": str(len(data))}
        for name, value in {**headers, "Location": cdn, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()

    def cdn(self, repo_id: str, path: str, query: dict[str, str]) -> None:
        data = self.state.repos[repo_id].files[path]
        self.send_bytes(path, data, {"ETag": f'"{sha256(data)}"'})

    # --- bytes, and what goes wrong with them

    def send_bytes(self, path: str, data: bytes, headers: dict[str, str]) -> None:
        faults = self.state.faults.get(path) if self.command == "GET" else None
        kind, *numbers = faults.pop(0) if faults else ("none",)
        if kind == "status":
            return self.send_json(numbers[0], {"error": "out of order"})
        if kind == "html":
            data = b"<html>please log in to this network</html>"
        if kind == "wrong":
            data = bytes(255 - byte for byte in data)
        span = self.range_of(len(data)) if kind != "no range" else None
        start, stop = span or (0, len(data))
        if start >= len(data) > 0:
            return self.send_json(416, {}, Content_Range=f"bytes */{len(data)}")
        self.send_response(206 if span else 200)
        headers = {**headers, "Content-Length": str(stop - start), "Accept-Ranges": "bytes"}
        if span:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.send_body(path, data, (start, stop), (kind, *numbers))

    def send_body(
        self, path: str, data: bytes, span: tuple[int, int], fault: tuple[Any, ...]
    ) -> None:
        (start, stop), (kind, *numbers) = span, fault
        end = min(stop, start + numbers[0]) if kind in ("cut", "stall") else stop
        sent = self.state.sent.setdefault(path, [])
        sent.append((start, start))
        number = len(sent) - 1
        for at in range(start, end, PIECE):
            if kind == "slow":
                self.state.wake.wait(numbers[0])
            sent[number] = (start, min(at + PIECE, end))
            self.wfile.write(data[at : min(at + PIECE, end)])
        if kind == "stall":
            self.wfile.flush()
            self.state.wake.wait(30)

    def range_of(self, size: int) -> tuple[int, int] | None:
        """The first byte asked for, and the one after the last."""
        match = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not match:
            return None
        return int(match[1]), min(size, int(match[2]) + 1) if match[2] else size


ROUTES = [
    (r"/", lambda self, query: self.send_json(200, {})),
    (r"/api/v1/models/([^/]+/[^/]+)/repo/files", Handler.ms_files),
    (r"/api/v1/models/([^/]+/[^/]+)/repo", Handler.ms_file),
    (r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", Handler.hf_info),
    (r"/cdn/([^/]+/[^/]+)/(.+)", Handler.cdn),
    (r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", Handler.hf_resolve),
]


@contextmanager
def serving() -> Iterator[FakeHub]:
    state = State()
    handler = type("BoundHandler", (Handler,), {"state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield FakeHub(server, state)
    finally:
        state.wake.set()
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def environment(monkeypatch: Any, folder: Any, url: str) -> Iterator[None]:
    """Both clients look at `url`, keep all under `folder`, know no login and no other program."""
    from huggingface_hub import constants

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "PORTABLE_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("MODELSCOPE_API_TOKEN", "MODELSCOPE_DOMAIN", "PORTABLE_TOKEN_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", url)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", url)
    monkeypatch.setenv("MODELSCOPE_CACHE", str(folder / "ms"))
    monkeypatch.setenv("MODELSCOPE_HOME", str(folder / "ms-home"))
    monkeypatch.setenv("PORTABLE_HOME", str(folder / "store"))
    monkeypatch.setenv("HOME", str(folder / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(folder / "hf"))
    for name in ("XDG_CACHE_HOME", "HF_HOME", "LLAMA_CACHE", "OLLAMA_MODELS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hf"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "hf-token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    yield


def impatient(monkeypatch: Any) -> None:
    """The clients pause no longer between their tries, and try only once more."""
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr("modelscope_hub._download.DOWNLOAD_RETRY_TIMES", 1)
