"""The store that the settings name, with the kinds of tasks that it keeps results of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from docmill.worker.settings import Settings

if TYPE_CHECKING:
    from docmill.storage.core.database import Database
    from docmill.storage.core.server import Patience


def store_of(settings: Settings, *, pool_size: int = 8, patience: Patience | None = None) -> Database:
    """Return the store of the settings; nothing connects yet. `patience` is the settings' own if none is given."""
    from docmill.storage.core.database import Database
    from docmill.tasks.kinds import STORED_KINDS

    return Database(
        settings.store_url, pool_size=pool_size, patience=patience or settings.patience, kinds=STORED_KINDS
    )
