"""A hub of data sets for tests: serves one folder under one name, at one commit, as the library asks for it."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

from tests.tasks.hub_server import COMMIT, oid

NAME = "me/books"


@dataclass
class Hub:
    url: str = ""
    tokens: set[str | None] = field(default_factory=set)


class Handler(BaseHTTPRequestHandler):
    folder: Path
    made: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing."""

    def do_GET(self) -> None:
        self.made.tokens.add(self.headers.get("Authorization"))
        self.say(unquote(urlparse(self.path).path))

    def say(self, path: str) -> None:
        names = [
            file.relative_to(self.folder).as_posix() for file in sorted(self.folder.rglob("*")) if file.is_file()
        ]
        if re.fullmatch(f"/api/datasets/{NAME}(/revision/.+)?", path):
            self.json({"id": NAME, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]})
        elif tree := re.fullmatch(f"/api/datasets/{NAME}/tree/[^/]+/?(.*)", path):
            self.json([entry(self.folder, name) for name in names if name.startswith(tree[1])])
        elif (file := re.fullmatch(f"/datasets/{NAME}/resolve/[^/]+/(.*)", path)) and file[1] in names:
            self.file(self.folder / file[1])
        else:
            code = "EntryNotFound" if path.startswith(f"/datasets/{NAME}/") else "RepoNotFound"
            self.answer(404, b"", {"X-Error-Code": code})

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        paths = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["paths"]
        self.json([entry(self.folder, name) for name in paths if (self.folder / name).is_file()])

    def file(self, path: Path) -> None:
        raw = path.read_bytes()
        headers = {"ETag": f'"{oid(path)}"', "X-Repo-Commit": COMMIT}
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if part is None:
            self.answer(200, raw, headers)
            return
        first, last = int(part[1]), min(int(part[2] or len(raw)), len(raw) - 1)
        self.answer(206, raw[first : last + 1], headers | {"Content-Range": f"bytes {first}-{last}/{len(raw)}"})

    def json(self, value: object) -> None:
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def hub(folder: Path) -> Iterator[Hub]:
    made = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Serving", (Handler,), {"folder": folder, "made": made}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def entry(folder: Path, name: str) -> dict[str, object]:
    file = folder / name
    return {"type": "file", "path": name, "size": file.stat().st_size, "oid": oid(file)}
