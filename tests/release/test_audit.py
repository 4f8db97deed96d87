"""`make check-security` beside a service that knows vulnerabilities, knows none, or is away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from release import audit

HASH = "0" * 64
LOCK = f"# Locked.\nclick==8.5.1 --hash=sha256:{HASH}\ntorch==2.13.0+cpu --hash=sha256:{HASH}\n"


class Service(ThreadingHTTPServer):
    """A service with the API of OSV. `known` are (name, version) with a vulnerability; `asked` what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.known = {("jinja2", "2.10")}
        self.requests: list[tuple[str, str]] = []

    @property
    def options(self) -> list[str]:
        return ["--service", "osv", "--osv-url", f"http://127.0.0.1:{self.server_port}/v1/query"]


class _Handler(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        release = query["package"]["name"], query["version"]
        self.server.requests.append(release)
        answer = {"vulns": [_vulnerability(*release)]} if release in self.server.known else {}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _vulnerability(name: str, version: str) -> dict[str, object]:
    package = {"name": name, "ecosystem": "PyPI"}
    events = [{"introduced": "0"}, {"fixed": "99.0"}]
    affected = {"package": package, "versions": [version], "ranges": [{"type": "ECOSYSTEM", "events": events}]}
    return {"id": "PYSEC-2026-1", "summary": "A fault.", "modified": "2026-01-01T00:00:00Z", "affected": [affected]}


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def lock(tmp_path: Path) -> str:
    file = tmp_path / "requirements-cpu.lock"
    file.write_text(LOCK)
    return str(file)


@pytest.mark.slow
def test_a_known_vulnerability_fails_and_is_named_with_the_version_that_lacks_it(
    service: Service, lock: str, capsys: pytest.CaptureFixture[str]
) -> None:
    service.known.add(("torch", "2.13.0"))
    assert audit.main([*service.options, lock]) == 1
    assert "requirements-cpu.lock: torch 2.13.0: PYSEC-2026-1, fixed in 99.0" in capsys.readouterr().out
    # Without the name of torch's build.
    assert {*service.requests} == {("jinja2", "2.10"), ("click", "8.5.1"), ("torch", "2.13.0")}


def test_a_service_that_is_away_does_not_pass(
    service: Service, lock: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = service.options
    service.server_close()
    assert audit.main([*options, lock]) == 3
    assert "gave no answer" in capsys.readouterr().err
