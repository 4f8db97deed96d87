"""A model hub for tests: serves one folder under one id, at one commit, as the hub's client asks for it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub(model: str, folder: Path, port: int = 0) -> Iterator[tuple[str, list[str]]]:
    """The server's address, and the paths that were asked for."""
    asked: list[str] = []
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

        def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_GET(self) -> None:
            path = unquote(urlparse(self.path).path)
            asked.append(f"{self.command} {path}")
            known = {f"/api/models/{model}"} | {f"/api/models/{model}/revision/{name}" for name in ("main", COMMIT)}
            if path in known:
                siblings = [{"rfilename": name} for name in names]
                self.json({"id": model, "sha": COMMIT, "siblings": siblings})
            elif path.startswith(f"/api/models/{model}/tree/"):
                entries = [
                    {"type": "file", "path": name, "size": (folder / name).stat().st_size, "oid": oid(folder / name)}
                    for name in names
                ]
                self.json(entries)
            elif path.startswith(f"/{model}/resolve/") and path.split("/", 4)[4] in names:
                file = folder / path.split("/", 4)[4]
                headers = {"ETag": f'"{oid(file)}"', "X-Repo-Commit": COMMIT}
                self.answer(200, file.read_bytes(), headers)
            else:
                code = "EntryNotFound" if path.startswith(f"/{model}/") else "RepoNotFound"
                self.answer(404, b"", {"X-Error-Code": code})

        do_HEAD = do_GET  # noqa: N815

        def json(self, value: object) -> None:
            self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def oid(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
