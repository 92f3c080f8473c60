"""A Hub on 127.0.0.1: as much of its API as the real huggingface_hub client needs to make, fill and read a repository.

Tests make it fail by its fields, and read in `asked` what was asked of it.
"""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Hub:
    def __init__(self):
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}  # name -> commit -> path -> content, the newest last
        self.refs: dict[tuple[str, str], str] = {}  # (name, tag or branch) -> commit; main is the newest
        self.private: set[str] = set()
        self.large: dict[str, bytes] = {}  # by SHA-256
        self.asked: list[str] = []  # METHOD PATH
        self.sent: list[tuple[str, int]] = []  # files, and from which byte on
        self.failing: list[tuple[str, int]] = []  # a pattern of METHOD PATH, and the status it is answered, once
        self.closed: dict[str, tuple[int, str]] = {}  # name -> what its files are answered: status, X-Error-Code
        self.cut: dict[str, int] = {}  # path -> bytes after which the line is cut, once
        self.bent: set[str] = set()  # paths whose content arrives changed, at its full size
        self.held: dict[str, threading.Event] = {}  # path -> what its content waits for

    def fill(self, name: str, folder: Path) -> str:
        """A commit of a folder's files, as if somebody had pushed them."""
        self.repos.setdefault(name, {})
        files = {one.relative_to(folder).as_posix(): one.read_bytes() for one in folder.rglob("*") if one.is_file()}
        return self.commit(name, files)

    def commit(self, name: str, files: dict[str, bytes]) -> str:
        commits = self.repos[name]
        commit = hashlib.sha1(json.dumps([name, len(commits), sorted(files)]).encode()).hexdigest()
        commits[commit] = files
        return commit

    def head(self, name: str) -> str:
        return list(self.repos[name])[-1]

    def find(self, name: str, revision: str) -> str | None:
        revision = self.refs.get((name, revision), revision)
        return self.head(name) if revision == "main" else revision if revision in self.repos[name] else None


def is_large(path: str) -> bool:
    return path.endswith(".safetensors")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        return self.server.hub

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        for failure in self.hub.failing:
            pattern, status = failure
            if re.search(pattern, f"{self.command} {path}"):
                self.hub.failing.remove(failure)
                return self.answer(status, {})
        for pattern, method in self.routes.items():
            found = re.fullmatch(pattern, f"{self.command} {path}")
            if found:
                return method(self, **found.groupdict())
        return self.answer(404, {"error": f"{self.command} {path}"})

    do_HEAD = do_POST = do_PUT = do_GET

    def answer(self, status: int, content: dict | list | bytes, **headers: str) -> None:
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        there = name in self.hub.repos
        if not there:
            self.hub.repos[name] = {}
            self.hub.commit(name, {".gitattributes": b"*.safetensors filter=lfs\n"})
            if asked.get("visibility") == "private" or asked.get("private"):
                self.hub.private.add(name)
        kind = "spaces/" if asked.get("type") == "space" else ""
        self.answer(409 if there else 200, {"url": f"{self.address}/{kind}{name}"})

    def preupload(self, name: str) -> None:
        files = [
            {"path": one["path"], "uploadMode": "lfs" if is_large(one["path"]) else "regular", "shouldIgnore": False}
            for one in json.loads(self.body)["files"]
        ]
        self.answer(200, {"files": files})

    def batch(self, name: str) -> None:
        asked = [one["oid"] for one in json.loads(self.body)["objects"]]
        objects = [
            {"oid": oid, "size": 0, "actions": {"upload": {"href": f"{self.address}/large/{oid}"}}} for oid in asked
        ]
        self.answer(200, {"transfer": "basic", "objects": objects})

    def put(self, oid: str) -> None:
        self.hub.large[oid] = self.body
        self.answer(200 if sha256(self.body) == oid else 400, {})

    def make_commit(self, name: str) -> None:
        files = dict(self.hub.repos[name][self.hub.head(name)])
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            if line["key"] == "deletedFile":
                del files[value["path"]]
        commit = self.hub.commit(name, files)
        self.answer(200, {"commitUrl": f"{self.address}/{name}/commit/{commit}", "commitOid": commit, "success": True})

    def info(self, name: str, revision: str | None = None) -> None:
        commit = self.found(name, revision or "main")
        if commit:
            files = self.hub.repos[name][commit].items()
            siblings = [{"rfilename": path, "size": len(content)} for path, content in files]
            private = name in self.hub.private
            self.answer(200, {"id": name, "sha": commit, "siblings": siblings, "private": private})

    def tree(self, name: str, revision: str) -> None:
        commit = self.found(name, revision)
        if commit:
            self.answer(200, [described(*file) for file in self.hub.repos[name][commit].items()])

    def resolve(self, name: str, revision: str, path: str) -> None:
        commit = self.found(name, revision)
        if not commit:
            return None
        if name in self.hub.closed:
            status, code = self.hub.closed[name]
            return self.answer(status, {}, **{"X_Error_Code": code} if code else {})
        content = self.hub.repos[name][commit][path]
        headers = {"ETag": f'"{sha256(content) if is_large(path) else git_hash(content)}"', "X_Repo_Commit": commit}
        if path in self.hub.bent:
            content = content[:-1] + bytes([content[-1] ^ 1])
        if self.command == "HEAD":
            return self.answer(200, content, **headers)
        if path in self.hub.held:
            self.hub.held[path].wait(30)
        begun = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(begun[1]) if begun else 0
        self.hub.sent.append((path, start))
        if path in self.hub.cut:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content))
            self.wfile.write(content[: self.hub.cut.pop(path)])
            self.close_connection = True
            return None
        if begun:
            headers["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return self.answer(206 if begun else 200, content[start:], **headers)

    def found(self, name: str, revision: str) -> str | None:
        """The commit, or it is answered that there is none."""
        if name not in self.hub.repos:
            return self.answer(404, {}, X_Error_Code="RepoNotFound")
        return self.hub.find(name, revision) or self.answer(404, {}, X_Error_Code="RevisionNotFound")

    @property
    def address(self) -> str:
        return f"http://{self.headers['Host']}"

    def log_message(self, *_) -> None:
        pass

    kind = r"(?:models|spaces)"
    name = r"(?P<name>[^/]+/[^/]+)"
    routes = {
        r"POST /api/repos/create": create,
        r"POST /api/validate-yaml": lambda self: self.answer(200, {}),
        rf"POST /api/{kind}/{name}/preupload/main": preupload,
        rf"POST /api/{kind}/{name}/commit/main": make_commit,
        rf"POST /(?:spaces/)?{name}\.git/info/lfs/objects/batch": batch,
        r"PUT /large/(?P<oid>\w+)": put,
        rf"GET /api/{kind}/{name}(/revision/(?P<revision>.+))?": info,
        rf"GET /api/{kind}/{name}/tree/(?P<revision>.+)": tree,
        rf"(GET|HEAD) /(?:spaces/)?{name}/resolve/(?P<revision>[^/]+)/(?P<path>.+)": resolve,
    }


def described(path: str, content: bytes) -> dict:
    large = {"lfs": {"oid": sha256(content), "size": len(content), "pointerSize": 134}} if is_large(path) else {}
    return {"type": "file", "path": path, "size": len(content), "oid": git_hash(content), **large}


@contextmanager
def served():
    """A Hub, and where it is."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.hub = Hub()
        threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
        try:
            yield server.hub, f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
