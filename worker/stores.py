"""The store that the settings name, with the kinds of tasks that it keeps results of."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from worker.settings import Settings

if TYPE_CHECKING:
    from storage.core.database import Database
    from storage.core.time_limits import Patience


POSTGRESQL_PORT = 5432
THIS_MACHINE = frozenset({"", "127.0.0.1", "::1"})


def key_of(settings: Settings) -> str:
    """Return a digest of the place of the settings' store. User, password and options do not change it."""
    database = store_of(settings)
    url = database.url
    if database.server is None:
        place = str(database.file.resolve() if database.file else url.database)
    else:
        host = url.host or str(url.query.get("host", ""))
        named = "localhost" if host in THIS_MACHINE else host.lower()
        place = f"{named}:{url.port or POSTGRESQL_PORT}/{url.database}"
    return hashlib.sha256(place.encode()).hexdigest()[:12]


def store_of(settings: Settings, *, pool_size: int = 8, patience: Patience | None = None) -> Database:
    """Return the store of the settings; nothing connects yet. `patience` is the settings' own if none is given."""
    from storage.core.database import Database
    from tasks.kinds import STORED_KINDS

    return Database(
        settings.store_url, pool_size=pool_size, patience=patience or settings.patience, kinds=STORED_KINDS
    )
