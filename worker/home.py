"""The folder of the embedded store and of caches, which is its user's alone."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from docmill.storage.core.private_files import close_to_others

STORE, CACHE = "docmill.db", "cache"
ANSWERS = "answers.db"  # of served models, until their outcomes are stored
_JOURNALS = ("", "-wal", "-shm", "-journal")
_STORE = frozenset(f"{file}{journal}" for file in (STORE, ANSWERS) for journal in _JOURNALS)
_OLD_RUNS = "runs"  # of an earlier docmill: logs with texts of documents, records and locks
_OLD_RUN = re.compile(r"\d{8}-\d{6}-\d+\.log|\d+(-[0-9a-f]{12})?\.(json|lock|new)")


def close_home(home: Path) -> None:
    """Take other users their rights to a home that an earlier release left open, and to the store in it.

    Delete the logs of runs in the background, which an earlier release kept there. A folder with anything else in it
    is not taken for docmill's own: others may have to do with it.
    """
    _delete_old_runs(home / _OLD_RUNS)
    try:
        names = {path.name for path in home.iterdir()}
    except OSError:
        return
    store = names & _STORE
    if names <= _STORE | {CACHE}:
        close_to_others(home)
    for name in store:
        close_to_others(home / name)


def _delete_old_runs(folder: Path) -> None:
    with suppress(OSError):  # most often there is no such folder
        for path in folder.iterdir():
            if _OLD_RUN.fullmatch(path.name):
                path.unlink(missing_ok=True)
        folder.rmdir()  # fails if others keep files there
