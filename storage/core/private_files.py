"""Folders and files that only their owner may read, because they contain texts of documents."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

_OTHERS = 0o077


def make_folder(path: Path) -> None:
    """Make a folder, and those above it that are missing, for this user alone. One that is there stays as it is."""
    missing = []
    folder = path
    while not folder.exists() and folder != folder.parent:
        missing.append(folder)
        folder = folder.parent
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)  # says so where it is no folder


def make_file(path: Path) -> None:
    """Make an empty file for this user alone. A file that is there, or cannot be made, is left as it is."""
    with suppress(OSError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def close_to_others(path: Path) -> None:
    """Take other users' rights to a file or folder of this user away. A link, or a missing file, is left alone.

    A folder that is meant for several, as its sticky or set-group-ID bit says, is left alone too.
    """
    with suppress(OSError):
        found = path.lstat()
        shared = stat.S_ISDIR(found.st_mode) and found.st_mode & (stat.S_ISVTX | stat.S_ISGID)
        plain = stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode)
        if plain and not shared and found.st_uid == os.geteuid() and found.st_mode & _OTHERS:
            path.chmod(stat.S_IMODE(found.st_mode) & ~_OTHERS)
