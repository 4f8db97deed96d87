"""Whether this container's worker lives: exit code 0 when one of its device processes was heard of lately."""

from __future__ import annotations

import platform
import sys

from sqlalchemy import func, select

from storage.database import Database, db_now
from storage.dispatch import LIVE_S
from storage.schema import Worker
from worker.settings import load_settings


def main() -> int:
    database = Database(load_settings().store_url)
    here_and_live = (Worker.host == platform.node(), Worker.seen_at > db_now() - LIVE_S)
    try:
        with database.read() as connection:
            n_live = connection.scalar(select(func.count()).select_from(Worker).where(*here_and_live))
    finally:
        database.close()
    return 0 if n_live else 1


if __name__ == "__main__":
    sys.exit(main())
