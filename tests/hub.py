"""A stand-in for the hub on this machine: the few addresses that huggingface_hub asks for models."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_standin"
Files = dict[str, bytes]


@dataclass
class Repo:
    private: bool = False
    branches: dict[str, Files] = field(default_factory=lambda: {"main": {}})
    commits: dict[str, Files] = field(default_factory=dict[str, Files])

    def commit(self, branch: str) -> str:
        """The hash of what a branch holds now, kept under it."""
        files = self.branches[branch]
        text = json.dumps({name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())})
        sha = hashlib.sha1(text.encode()).hexdigest()
        self.commits[sha] = dict(files)
        return sha

    def at(self, revision: str) -> tuple[str, Files] | None:
        if revision in self.branches:
            return self.commit(revision), self.branches[revision]
        return (revision, self.commits[revision]) if revision in self.commits else None


class StandIn(ThreadingHTTPServer):
    """Repositories in memory. `large` names are uploaded by LFS, `denied` is a status that every write gets."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.repos: dict[str, Repo] = {}
        self.objects: Files = {}
        self.asked: list[str] = []
        self.unknown: list[str] = []
        self.created: list[dict[str, Any]] = []
        self.denied: int | None = None
        self.large = ("bridge.safetensors",)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def running() -> Iterator[StandIn]:
    server = StandIn()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Answer(BaseHTTPRequestHandler):
    server: StandIn  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None: ...

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        if self.command in ("POST", "PUT") and self.server.denied and parts != ["api", "validate-yaml"]:
            self._json({"error": "no"}, self.server.denied)
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            self._create(json.loads(self.body))
        elif parts[:2] == ["api", "models"] and len(parts) >= 4:
            self._model("/".join(parts[2:4]), parts[4:])
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._batch(json.loads(self.body))
        elif parts[0] == "lfs":
            self.server.objects[parts[1]] = self.body
            self._json({})
        elif len(parts) > 4 and parts[2] == "resolve":
            self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self.server.unknown.append(f"{self.command} {path}")
            self._json({"error": "no such address"}, 404)

    def _json(self, value: Any, status: int = 200, **headers: str) -> None:
        self._send(json.dumps(value).encode(), status, **{"Content-Type": "application/json"}, **headers)

    def _send(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _missing(self, code: str) -> None:
        self._json({"error": "not found"}, 404, X_Error_Code=code)

    def _seen(self, name: str) -> Repo | None:
        """A repository, if whoever asks may see it."""
        repo = self.server.repos.get(name)
        ours = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        return None if repo is None or (repo.private and not ours) else repo

    def _create(self, asked: dict[str, Any]) -> None:
        self.server.created.append(asked)
        name = f"{asked['organization']}/{asked['name']}"
        private = asked.get("private") or asked.get("visibility") == "private"
        self.server.repos[name] = Repo(bool(private))
        self._json({"url": f"{self.server.url}/{name}"})

    def _model(self, name: str, rest: list[str]) -> None:
        repo = self._seen(name)
        if repo is None:
            return self._missing("RepoNotFound")
        kind, revision = (rest or ["info"])[0], "/".join(rest[1:]) or "main"
        if kind == "branch":
            repo.branches.setdefault(revision, dict(repo.branches["main"]))
            return self._json({})
        found = repo.at(revision)
        if found is None:
            return self._missing("RevisionNotFound")
        return self._revision(name, repo, kind, revision, found)

    def _revision(self, name: str, repo: Repo, kind: str, revision: str, found: tuple[str, Files]) -> None:
        sha, files = found
        if kind == "tree":
            rows = [{"type": "file", "path": p, "size": len(c), "oid": _oid(c)} for p, c in files.items()]
            return self._json(rows)
        if kind == "preupload":
            asked = [one["path"] for one in json.loads(self.body)["files"]]
            modes = {path: "lfs" if path in self.server.large else "regular" for path in asked}
            return self._json(
                {"files": [{"path": p, "uploadMode": mode, "shouldIgnore": False} for p, mode in modes.items()]}
            )
        if kind == "commit":
            self._commit(repo.branches[revision])
            sha = repo.commit(revision)
            return self._json({"commitUrl": f"{self.server.url}/{name}/commit/{sha}", "commitOid": sha})
        siblings = [{"rfilename": path} for path in files]
        return self._json({"id": name, "sha": sha, "private": repo.private, "siblings": siblings})

    def _commit(self, files: Files) -> None:
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.server.url}/lfs/{one['oid']}"}}} for one in asked["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def _file(self, name: str, revision: str, path: str) -> None:
        repo = self._seen(name)
        found = repo.at(revision) if repo else None
        if found is None or path not in found[1]:
            return self._missing("EntryNotFound" if found else "RepoNotFound")
        content = found[1][path]
        return self._send(content, ETag=f'"{_oid(content)}"', X_Repo_Commit=found[0])


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
