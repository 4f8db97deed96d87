"""Folders and files that only their owner may read, because they contain document texts. Small cache files, too."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from pathlib import Path


def make_folder(path: Path) -> None:
    """Make a folder and its missing parents for this user alone. An existing folder stays as it is."""
    if not path.parent.exists():
        make_folder(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)  # raises FileExistsError for a file


def make_file(path: Path) -> None:
    """Make an empty file for this user alone. A file that is there, or cannot be made, is left as it is."""
    with suppress(OSError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def write_note(path: Path, text: str) -> None:
    """Write a small file atomically: others may write it at the same time."""
    make_folder(path.parent)
    building = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        building.write_text(text)
        building.replace(path)
    finally:
        building.unlink(missing_ok=True)
