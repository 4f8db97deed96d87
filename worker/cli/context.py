"""The settings, the store and the queue of a command: opened for its length and closed after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from docmill.worker.cli.printing import warn

if TYPE_CHECKING:
    from docmill.storage.core.database import Database
    from docmill.worker.queue.broker import Broker
    from docmill.worker.settings import Settings


def settings_from(**options: str | float | Path | None) -> Settings:
    from docmill.worker import fault_points
    from docmill.worker.settings import load_settings

    settings = load_settings(**options)
    fault_points.arm(settings.fault, settings.home)
    return settings


@contextmanager
def open_store(settings: Settings, *, may_be_away: bool = False) -> Iterator[Database]:
    """The store, with its schema up to date: the embedded one is made and upgraded here, a fleet's never.

    With `may_be_away` a server that does not answer is only warned of, and its schema is the caller's to check.
    """
    from docmill.storage.errors import DatabaseBusy, DatabaseUnreachable
    from docmill.storage.migrations import require_current, upgrade
    from docmill.worker.stores import store_of

    with closing(store_of(settings)) as database:
        if settings.database_url is None:
            upgrade(database)
        else:
            _require_file(database)
        try:
            require_current(database)
        except (DatabaseBusy, DatabaseUnreachable) as error:
            if not may_be_away:
                raise
            warn(f"{error}; docmill asks it again and again.")
        yield database


def _require_file(database: Database) -> None:
    """Refuse a SQLite file that is not there, which connecting would make: most often its name is a slip."""
    from docmill.storage.errors import DatabaseUnreachable

    file = database.file
    if file is not None and not file.exists():
        raise DatabaseUnreachable(
            f"there is no file {file}; correct DOCMILL_DATABASE_URL, or make the file with `docmill db upgrade`"
        )


@contextmanager
def open_broker(settings: Settings) -> Iterator[Broker]:
    """The fleet's queue, or an embedded server that lives as long as the block."""
    from docmill.worker.queue.broker import Broker
    from docmill.worker.queue.embedded import EmbeddedRedis

    with ExitStack() as stack:
        url = settings.redis_url or stack.enter_context(EmbeddedRedis()).url
        broker = stack.enter_context(closing(Broker(url)))
        if settings.redis_url is not None:
            broker.ping()
        yield broker


def queue_of(settings: Settings) -> AbstractContextManager[Broker | None]:
    """The fleet's queue, without asking whether it is up; None where there is none."""
    if settings.redis_url is None:
        return nullcontext()  # without loading the libraries of a queue
    from docmill.worker.queue.broker import Broker

    return closing(Broker(settings.redis_url))
