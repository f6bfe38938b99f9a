"""A Hub on this machine: repositories, commits, LFS, pull requests, downloads, and faults on demand.

It speaks the calls that `huggingface_hub` makes with `HF_HUB_DISABLE_XET=1`. What it holds is what a stranger would
see.
"""

import base64
import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

WRITER, READER = "hf_writertokenofthetests", "hf_readertokenofthetests"
USER = "user"
Files = dict[str, bytes]


@dataclass
class Repository:
    """Commits by name, and the branches and pull requests that point to them."""

    private: bool = False
    commits: dict[str, Files] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)

    def commit(self, ref: str, files: Files) -> str:
        name = hashlib.sha1(repr((len(self.commits), ref, sorted(files))).encode()).hexdigest()
        self.commits[name] = files
        self.refs[ref] = name
        return name

    def resolve(self, revision: str) -> str | None:
        return self.refs.get(revision) or (revision if revision in self.commits else None)


@dataclass
class Fault:
    """What goes wrong with the next requests whose method and path match.

    Attributes:
        status: is answered instead, with `headers`.
        seconds: to wait before the true answer.
        truncate: break off in the middle of the body.
        lose: carry the request out, and hang up instead of answering.
        die: hang up on this and every later request, until `Hub.revive`.
    """

    pattern: str
    times: int = 1_000_000
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "injected"
    seconds: float = 0.0
    truncate: bool = False
    lose: bool = False
    die: bool = False


class Hub:
    """The server, to be used as a context."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.dead = False
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "Hub":
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def inject(self, pattern: str, **what: Any) -> None:
        self.faults.append(Fault(pattern, **what))

    def revive(self) -> None:
        self.faults.clear()
        self.dead = False

    def files(self, repo_id: str, revision: str = "main", repo_type: str = "model") -> Files | None:
        """Returns what a revision shows, `None` where there is no such repository."""
        repository = self.repositories.get((repo_type, repo_id))
        return None if repository is None else repository.commits[repository.resolve(revision) or ""]

    def add(self, repo_id: str, files: Files, private: bool = False) -> Repository:
        """Makes a repository of somebody else's making."""
        repository = self.repositories["model", repo_id] = Repository(private)
        repository.commit("main", {".gitattributes": b"", **files})
        return repository

    def fault_for(self, request: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.pattern, request):
                    fault.times -= 1
                    self.dead = self.dead or fault.die
                    return fault
        return None


class _Answer(Exception):
    """Ends the handling of a request."""

    def __init__(self, status: int, body: Any = b"", headers: dict[str, str] | None = None) -> None:
        self.status = status
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.headers = headers or {}


def _error(status: int, code: str, **headers: str) -> _Answer:
    return _Answer(status, {"error": code}, {"X-Error-Code": code, "X-Error-Message": code, **headers})


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(_Handler):
        pass

    Handler.hub = hub
    return Handler


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: Hub

    def log_message(self, *arguments: object) -> None:
        pass

    def handle_any(self) -> None:
        body = self._body()
        split = urlsplit(self.path)
        path, self.query = unquote(split.path), parse_qs(split.query)
        request = f"{self.command} {path}"
        self.hub.requests.append(request)
        fault = self.hub.fault_for(request)
        if self.hub.dead:
            return self._hang_up()
        if fault and fault.seconds:
            time.sleep(fault.seconds)
        if fault and fault.status:
            echo = f"{fault.message} {self.headers.get('Authorization')}"
            return self._send(_Answer(fault.status, {"error": echo}, {"X-Error-Message": echo, **fault.headers}))
        try:
            self._route(path, body)
        except _Answer as answer:
            if fault and fault.lose:
                return self._hang_up()
            return self._send(answer, truncate=bool(fault and fault.truncate))
        self._send(_error(404, "RepoNotFound"))

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().strip() or b"0", 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.close()

    def _send(self, answer: _Answer, truncate: bool = False) -> None:
        self.send_response(answer.status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(answer.body)), **answer.headers}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[: len(answer.body) // 2] if truncate else answer.body)
        if truncate:
            self.wfile.flush()
            self.connection.shutdown(2)
            self.close_connection = True

    # What the Hub can do

    def _route(self, path: str, body: bytes) -> None:
        routes = (
            (r"/api/whoami-v2", self._whoami),
            (r"/api/validate-yaml", self._validate),
            (r"/api/repos/create", self._create),
            (r"/api/(models|spaces)/([^/]+/[^/]+)/preupload/(.+)", self._preupload),
            (r"/api/(models|spaces)/([^/]+/[^/]+)/commit/(.+)", self._commit),
            (r"/api/(models|spaces)/([^/]+/[^/]+)/branch/(.+)", self._branch),
            (r"/api/(models|spaces)/([^/]+/[^/]+)/tree/([^/]+)", self._tree),
            (r"/api/(models|spaces)/([^/]+/[^/]+)/variables", self._variables),
            (r"/api/(models|spaces)/([^/]+/[^/]+)(?:/revision/(.+))?", self._info),
            (r"(?:/(spaces))?/([^/]+/[^/]+)\.git/info/lfs/objects/batch", self._lfs_batch),
            (r"/lfs/([0-9a-f]{64})", self._lfs_put),
            (r"/lfs-verify", self._lfs_verify),
            (r"(?:/(spaces))?/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self._resolve),
        )
        for pattern, route in routes:
            if match := re.fullmatch(pattern, path):
                route(body, *match.groups())
                return

    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _must_write(self, repo_id: str | None = None) -> None:
        if self._token() not in (WRITER, READER):
            raise _error(401, "Invalid credentials in Authorization header")
        if self._token() == READER or (repo_id and not repo_id.startswith(f"{USER}/") and not self._proposes()):
            raise _error(403, "Forbidden")

    def _proposes(self) -> bool:
        return "create_pr" in self.query

    def _repository(self, kind: str | None, repo_id: str) -> Repository:
        repository = self.hub.repositories.get(("space" if kind == "spaces" else "model", repo_id))
        if repository is None or (repository.private and self._token() not in (WRITER, READER)):
            raise _error(404, "RepoNotFound")
        return repository

    def _files(self, repository: Repository, revision: str | None) -> tuple[str, Files]:
        name = repository.resolve(revision or "main")
        if name is None:
            raise _error(404, "RevisionNotFound")
        return name, repository.commits[name]

    def _whoami(self, body: bytes) -> None:
        if self._token() not in (WRITER, READER):
            raise _error(401, "Invalid credentials in Authorization header")
        raise _Answer(200, {"type": "user", "name": USER, "orgs": [], "auth": {}})

    def _validate(self, body: bytes) -> None:
        if not json.loads(body)["content"].startswith("---\n"):
            raise _Answer(400, {"errors": [{"message": "no metadata"}], "warnings": []})
        raise _Answer(200, {"errors": [], "warnings": []})

    def _create(self, body: bytes) -> None:
        asked = json.loads(body)
        repo_id = f"{asked.get('organization') or USER}/{asked['name']}"
        self._must_write(repo_id)
        key = (asked.get("type") or "model", repo_id)
        if key in self.hub.repositories:
            raise _Answer(409, {"error": "exists", "url": f"{self.hub.url}/{repo_id}"})
        repository = self.hub.repositories[key] = Repository(asked.get("visibility") == "private")
        repository.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"})
        raise _Answer(200, {"url": f"{self.hub.url}/{'spaces/' * (key[0] == 'space')}{repo_id}", "id": repo_id})

    def _preupload(self, body: bytes, kind: str, repo_id: str, revision: str) -> None:
        self._must_write(repo_id)
        _, there = self._files(self._repository(kind, repo_id), revision)
        raise _Answer(
            200,
            {
                "files": [
                    {
                        "path": path,
                        "uploadMode": "lfs" if _is_large(path) else "regular",
                        "shouldIgnore": False,
                        "oid": self._known_oid(path, there),
                    }
                    for path in (file["path"] for file in json.loads(body)["files"])
                ]
            },
        )

    def _known_oid(self, path: str, there: Files) -> str | None:
        if path not in there:
            return None
        return hashlib.sha256(there[path]).hexdigest() if _is_large(path) else _oid(there[path])

    def _lfs_batch(self, body: bytes, kind: str | None, repo_id: str) -> None:
        self._must_write()
        actions = {
            oid: {"upload": {"href": f"{self.hub.url}/lfs/{oid}"}, "verify": {"href": f"{self.hub.url}/lfs-verify"}}
            for oid in (wanted["oid"] for wanted in json.loads(body)["objects"])
            if oid not in self.hub.objects
        }
        objects = [
            {**wanted, **({"actions": actions[wanted["oid"]]} if wanted["oid"] in actions else {})}
            for wanted in json.loads(body)["objects"]
        ]
        headers = {"Content-Type": "application/vnd.git-lfs+json"}
        raise _Answer(200, {"transfer": "basic", "objects": objects}, headers)

    def _lfs_put(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            raise _error(400, "BadHash")
        self.hub.objects[oid] = body
        raise _Answer(200, {})

    def _lfs_verify(self, body: bytes) -> None:
        raise _Answer(200 if json.loads(body)["oid"] in self.hub.objects else 404, {})

    def _commit(self, body: bytes, kind: str, repo_id: str, revision: str) -> None:
        self._must_write(repo_id)
        repository = self._repository(kind, repo_id)
        with self.hub.lock:
            head, there = self._files(repository, revision)
            files = dict(there)
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "header" and value.get("parentCommit", head) != head and not self._proposes():
                    raise _error(412, "A commit has happened since. Please refresh and try again.")
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    if value["oid"] not in self.hub.objects:
                        raise _error(400, "LFS pointer pointed to a file that does not exist")
                    files[value["path"]] = self.hub.objects[value["oid"]]
                elif line["key"] == "deletedFile":
                    del files[value["path"]]
            number = 1 + sum(ref.startswith("refs/pr/") for ref in repository.refs)
            name = repository.commit(f"refs/pr/{number}" if self._proposes() else revision, files)
        answer = {"success": True, "commitOid": name, "commitUrl": f"{self.hub.url}/{repo_id}/commit/{name}"}
        if self._proposes():
            answer["pullRequestUrl"] = f"{self.hub.url}/{repo_id}/discussions/{number}"
        raise _Answer(200, answer)

    def _branch(self, body: bytes, kind: str, repo_id: str, branch: str) -> None:
        self._must_write(repo_id)
        repository = self._repository(kind, repo_id)
        if branch in repository.refs:
            raise _error(409, "Reference already exists")
        repository.refs[branch], _ = self._files(repository, json.loads(body or b"{}").get("startingPoint"))
        raise _Answer(200, {})

    def _variables(self, body: bytes, kind: str, repo_id: str) -> None:
        self._must_write(repo_id)
        asked = json.loads(body)
        self._repository(kind, repo_id).variables[asked["key"]] = asked["value"]
        raise _Answer(200, {asked["key"]: {"value": asked["value"]}})

    def _info(self, body: bytes, kind: str, repo_id: str, revision: str | None) -> None:
        repository = self._repository(kind, repo_id)
        name, files = self._files(repository, revision)
        siblings = [{"rfilename": path} for path in sorted(files)]
        shared = {"id": repo_id, "sha": name, "private": repository.private, "siblings": siblings, "tags": []}
        raise _Answer(200, {**shared, "gated": False, "disabled": False, "downloads": 0, "likes": 0})

    def _tree(self, body: bytes, kind: str, repo_id: str, revision: str) -> None:
        _, files = self._files(self._repository(kind, repo_id), revision)
        raise _Answer(200, [_entry(path, content) for path, content in sorted(files.items())])

    def _resolve(self, body: bytes, kind: str | None, repo_id: str, revision: str, path: str) -> None:
        name, files = self._files(self._repository(kind, repo_id), revision)
        if path not in files:
            raise _error(404, "EntryNotFound", **{"X-Repo-Commit": name})
        content = files[path]
        tag = hashlib.sha256(content).hexdigest() if _is_large(path) else _oid(content)
        raise _Answer(
            200,
            content,
            {"ETag": f'"{tag}"', "X-Repo-Commit": name, "Content-Type": "application/octet-stream"},
        )


def _is_large(path: str) -> bool:
    return path.endswith((".safetensors", ".png"))


def _entry(path: str, content: bytes) -> dict[str, Any]:
    entry = {"type": "file", "oid": _oid(content), "size": len(content), "path": path}
    if _is_large(path):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return entry
