"""A local server that speaks as much of the Hugging Face hub's HTTP as pushing a folder needs.

It knows repositories, branches, commits of files in the request, and large files by git-lfs.
"""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

import huggingface_hub

_BY_LFS = int(huggingface_hub.__version__.partition(".")[0]) < 2
"""From version 2 on, large files go through hf_xet, which this server does not speak. So it asks for none."""


class Hub:
    """What the server has stored."""

    def __init__(self) -> None:
        self.url = ""
        self.token = "hf_test"  # noqa: S105
        self.private: dict[str, bool] = {}
        self.branches: dict[str, dict[str, dict[str, bytes]]] = {}
        """Repository → branch → file → content."""
        self.large: dict[str, bytes] = {}
        self.order: list[str] = []
        """The branches in the order of their commits."""
        self.cards: list[str] = []
        """The cards whose metadata the hub checked."""


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, content: object, status: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_PUT(self) -> None:
        self.hub.large[self.path.rpartition("/")[2]] = self._body()
        self._answer({})

    def do_GET(self) -> None:
        parts = unquote(urlparse(self.path).path).strip("/").split("/")
        repository, branch = "/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main"
        files = self.hub.branches.get(repository, {}).get(branch)
        if files is None:
            self._answer({"error": "not found"}, 404)
        elif parts[4] == "tree":
            self._answer(
                [{"type": "file", "path": name, "size": len(data), "oid": "0"} for name, data in files.items()]
            )
        else:
            self._answer({"id": repository, "sha": "0" * 40, "siblings": [{"rfilename": name} for name in files]})

    def do_POST(self) -> None:
        path, body = unquote(urlparse(self.path).path).strip("/"), self._body()
        if self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self._answer({"error": "Invalid username or password."}, 401)
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._large_files(json.loads(body)["objects"])
        elif path == "api/validate-yaml":
            self.hub.cards.append(json.loads(body)["content"])
            self._answer({"warnings": [], "errors": []})
        elif path == "api/repos/create":
            self._create(json.loads(body))
        else:
            _, _, owner, name, what, branch = path.split("/")
            getattr(self, f"_{what}")(f"{owner}/{name}", branch, body)

    def _large_files(self, objects: list[dict[str, object]]) -> None:
        """Say where to send each large file that is not here yet."""
        found = []
        for each in objects:
            upload = {"upload": {"href": f"{self.hub.url}/large/{each['oid']}"}}
            found.append(each if each["oid"] in self.hub.large else {**each, "actions": upload})
        self._answer({"transfer": "basic", "objects": found})

    def _create(self, given: dict[str, object]) -> None:
        repository = f"{given['organization']}/{given['name']}"
        if repository in self.hub.branches:
            self._answer({"error": "exists", "url": f"{self.hub.url}/{repository}"}, 409)
            return
        self.hub.private[repository] = bool(given.get("private")) or given.get("visibility") == "private"
        self.hub.branches[repository] = {"main": {".gitattributes": b""}}
        self._answer({"url": f"{self.hub.url}/{repository}"})

    def _branch(self, repository: str, branch: str, _: bytes) -> None:
        branches = self.hub.branches[repository]
        if branch in branches:
            self._answer({"error": "exists"}, 409)
            return
        branches[branch] = dict(branches["main"])
        self._answer({})

    def _preupload(self, _repository: str, _branch: str, body: bytes) -> None:
        names = [each["path"] for each in json.loads(body)["files"]]
        modes = {name: "lfs" if _BY_LFS and name.endswith(".safetensors") else "regular" for name in names}
        files = [{"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in modes.items()]
        self._answer({"files": files})

    def _commit(self, repository: str, branch: str, body: bytes) -> None:
        files = self.hub.branches[repository][branch]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        self.hub.order.append(branch)
        oid = f"{len(self.hub.order):040}"
        url = f"{self.hub.url}/{repository}/commit/{oid}"
        self._answer({"success": True, "commitOid": oid, "commitUrl": url})


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Run a hub on a free local port."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
