"""JSON of a model's small files, which may be missing, broken, or of another form than is expected."""

from __future__ import annotations

import json
from pathlib import Path

from docmill.storage.json_values import Json


def parsed(data: bytes | None) -> Json:
    """Return the value of a JSON text; None for no text, and for one that is not JSON."""
    try:
        found: Json = json.loads(data or b"")  # not orjson: configurations of some models hold Infinity
    except ValueError:
        return None
    return found


def table(data: bytes | None) -> dict[str, Json]:
    """Return the object of a JSON text; an empty one if there is none."""
    found = parsed(data)
    return found if isinstance(found, dict) else {}


def content(path: Path) -> bytes | None:
    """Return the bytes of a file; None if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return None
