"""A model hub for tests, which serves folders under their ids at a single commit."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote, urlparse

from tests.tasks.http_server import http_server

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SILENT = -1


@dataclass
class Hub:
    """A hub that serves ``models``.

    ``fault`` returns an error's status for a path, or SILENT for no answer. Every request needs the ``token``.
    ``asked`` has the requested paths, ``tokens`` the credentials of requests, and ``sent`` the bytes that were sent,
    by the name of the file.
    """

    models: Mapping[str, Path]
    fault: Callable[[str], int | None] = lambda _: None
    token: str | None = None
    asked: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    sent: Counter[str] = field(default_factory=Counter)
    endpoint: str = ""


@contextmanager
def serving(hub: Hub, port: int = 0, handler: type[Handler] | None = None) -> Iterator[Hub]:
    """Serve a hub until the end of the block, at its ``endpoint``."""
    over = threading.Event()
    serves = type("Serving", (handler or Handler,), {"hub": hub, "over": over})
    with http_server(serves, port) as hub.endpoint:
        try:
            yield hub
        finally:
            over.set()


def environment(endpoint: str, home: Path) -> dict[str, str]:
    """Return the environment of a client of this hub that has its own cache."""
    return {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home / "hf"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
    }


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    over: threading.Event

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        self.hub.tokens.add(self.headers.get("Authorization"))
        fault = self.hub.fault(path)
        if fault == SILENT:
            self.over.wait()
        elif fault is not None:
            self.answer(fault, b"", {})
        elif self.hub.token is not None and self.headers.get("authorization") != f"Bearer {self.hub.token}":
            self.answer(401, b"", {"X-Error-Code": "RepoNotFound"})
        elif (model := next((model for model in self.hub.models if f"/{model}/" in f"{path}/"), None)) is None:
            self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        else:
            self.serve(path, model, self.hub.models[model])

    do_HEAD = do_GET  # noqa: N815

    def serve(self, path: str, model: str, folder: Path) -> None:
        names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
        api, files = f"/api/models/{model}", f"/{model}/resolve/"
        if path in {api, f"{api}/revision/main", f"{api}/revision/{COMMIT}"}:
            self.json({"id": model, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]})
        elif path.startswith(f"{api}/tree/"):
            self.json([entry(folder, name) for name in names])
        elif path.startswith(files) and (name := path.removeprefix(files).partition("/")[2]) in names:
            self.file(folder / name, name)
        else:
            code = "EntryNotFound" if path.startswith(f"/{model}/") else "RepoNotFound"
            self.answer(404, b"", {"X-Error-Code": code})

    def file(self, file: Path, name: str) -> None:
        body, headers = file.read_bytes(), {"ETag": f'"{oid(file)}"', "X-Repo-Commit": COMMIT}
        self.answer(200, body, headers, name)

    def json(self, value: object) -> None:
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def answer(self, status: int, body: bytes, headers: dict[str, str], name: str = "") -> None:
        self.send_response(status)
        for header, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command != "HEAD":
            with suppress(OSError):  # the client has enough
                for start in range(0, len(body), 65_536):
                    self.hub.sent[name] += self.wfile.write(body[start : start + 65_536])


def entry(folder: Path, name: str) -> dict[str, object]:
    """Return a hub's entry of a file."""
    file = folder / name
    return {"type": "file", "path": name, "size": file.stat().st_size, "oid": oid(file)}


def oid(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
