"""Conditions on flags in SQL. Flags are stored as a JSON list of texts."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Text, cast, not_, or_

from storage.core.flags import Flagged


def as_text(flags: ColumnElement[Any]) -> ColumnElement[str]:
    """Return a column of flags as the text of its JSON."""
    return cast(flags, Text)


def condition(flagged: Flagged, *written: ColumnElement[str]) -> ColumnElement[bool]:
    """Return a condition on columns of flags as text, of which none is NULL, taken together."""
    carried = or_(*(column.contains(form, autoescape=True) for column in written for form in flagged.forms()))
    return not_(carried) if flagged.lacking else carried
