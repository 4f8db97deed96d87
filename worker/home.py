"""The folder of the embedded store and of caches, which is its user's alone."""

from __future__ import annotations

from pathlib import Path

from storage.core.private_files import close_to_others

STORE, CACHE, RUNS = "docmill.db", "cache", "runs"
ANSWERS = "answers.db"  # of served models, until their outcomes are stored
_JOURNALS = ("", "-wal", "-shm", "-journal")
_STORE = frozenset(f"{file}{journal}" for file in (STORE, ANSWERS) for journal in _JOURNALS)


def close_home(home: Path) -> None:
    """Take other users their rights to a home that an earlier release left open, and to the store in it.

    A folder with anything else in it is not taken for docmill's own: others may have to do with it.
    """
    try:
        names = {path.name for path in home.iterdir()}
    except OSError:
        return
    store = names & _STORE
    if names <= _STORE | {CACHE, RUNS}:
        close_to_others(home)
    for name in store:
        close_to_others(home / name)
