"""Measurements on this machine, kept in the cache: a file for each subject, which may be deleted at any time."""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from docmill.storage.core.private_files import make_folder

log = logging.getLogger("docmill.backends")


def remembered(folder: Path, subject: str) -> dict[str, Any]:
    """Return what was found about a subject earlier; empty if nothing was, or if it cannot be read."""
    try:
        found = json.loads(_file(folder, subject).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def remember(folder: Path, subject: str, found: Mapping[str, Any]) -> None:
    """Beside its place and renamed: two processes may open a model at once."""
    path = _file(folder, subject)
    building = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        make_folder(path.parent)
        building.write_text(json.dumps({"subject": subject, **found}, indent=1) + "\n")
        building.replace(path)
    except OSError as error:  # the next one measures again
        log.warning("measurement_not_kept path=%s error=%s", path, error)
        with suppress(OSError):
            building.unlink()


def _file(folder: Path, subject: str) -> Path:
    return folder / f"{hashlib.sha256(subject.encode()).hexdigest()[:16]}.json"
