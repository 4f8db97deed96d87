"""Times and messages in the words of a page."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from docmill.worker.logs import seen

if TYPE_CHECKING:
    from markupsafe import Markup

MINUTE_S, DAY_S = 60, 86_400


def ago(moment: float, now: float) -> str:
    """Return how long ago a moment was: `just now`, `5 min ago`, `3 h ago`, `2 days ago`."""
    seconds = max(0.0, now - moment)
    return "just now" if seconds < MINUTE_S else f"{period(seconds)} ago"


def period(seconds: float) -> str:
    """Return a period in the largest unit that fits, with two digits or more: `41 s`, `12 min`, `3 h 5 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / MINUTE_S)
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 48 * 60:
        hours, minutes = divmod(minutes, 60)
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{seconds / DAY_S:.0f} days"


def sentence(text: str) -> Markup:
    """Return a message of a command with what is in backticks as code, and a capital letter if a word is first."""
    from markupsafe import Markup, escape

    is_word = text.partition(" ")[0].removesuffix(":").isalpha()
    capital = seen(text[:1].upper() + text[1:] if is_word else text)
    pieces = [escape(piece) for piece in capital.split("`")]
    if len(pieces) % 2 == 0:  # a backtick without a second one
        return escape(capital)
    return Markup("").join(
        Markup("<code>{}</code>").format(piece) if place % 2 else piece for place, piece in enumerate(pieces)
    )


def iso(moment: float) -> str:
    """Return a moment as machines read it."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
