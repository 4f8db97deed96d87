"""Chat messages: a list of objects, each with a `role` and a `content`."""

from __future__ import annotations

from typing import Any, TypeGuard

import orjson


def is_messages(value: object) -> TypeGuard[list[dict[str, Any]]]:
    """Return True for a list of objects that have a role and a content, at least one."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(one, dict) and isinstance(one.get("role"), str) and "content" in one for one in value)
    )


def as_messages(text: str) -> list[dict[str, Any]] | None:
    """Return the messages whose JSON a text is; None for another text."""
    if not text.lstrip().startswith("["):
        return None
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return found if is_messages(found) else None
