"""Render templates: every text is escaped, and no character steers how the text around it is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from worker.reports.filters import FILTERS, seen
from worker.web import assets
from worker.web.page import Page, Values

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

FOLDER = Path(__file__).parent / "templates"
MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86_400


class Renderer:
    """The templates. `shared` are values that all of them show."""

    def __init__(self, shared: Values) -> None:
        self._shared = shared

    def whole(self, template: str, values: Values) -> str:
        """Return a page."""
        return self._environment.get_template(template).render(values)

    def part(self, page: Page, name: str, values: Values) -> str:
        """Return the block of a page's template that has the name of a part."""
        template = self._environment.get_template(page.template)
        return "".join(template.blocks[name](template.new_context(dict(values))))

    @cached_property
    def _environment(self) -> Environment:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        environment = Environment(
            loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
            lstrip_blocks=True, finalize=_harmless,
        )  # fmt: skip
        environment.filters |= {**FILTERS, "ago": ago, "iso": _iso, "period": period, "sentence": sentence}
        environment.globals |= {"asset": assets.url, "percents": percents, **self._shared}
        # A part is rendered without the rest of its template, so it sees no macro that the template imports.
        macros = environment.get_template("parts.html.j2").module
        environment.globals |= {name: macro for name, macro in vars(macros).items() if not name.startswith("_")}
        return environment


def _harmless(value: object) -> object:
    """Return what a template writes; a text without the characters that steer how it is shown."""
    return seen(value) if type(value) is str else value  # Markup is of our own making


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
    """Return a message of a command with a capital letter, and what stands in backticks as code."""
    from markupsafe import Markup, escape

    capital = seen(text[:1].upper() + text[1:])
    pieces = [escape(piece) for piece in capital.split("`")]
    if len(pieces) % 2 == 0:  # a backtick without a second one
        return escape(capital)
    return Markup("").join(
        Markup("<code>{}</code>").format(piece) if place % 2 else piece for place, piece in enumerate(pieces)
    )


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def percents(counts: Sequence[int]) -> list[tuple[float, float]]:
    """Return where each count begins on a bar of 100, and how wide it is there. All are 0 of nothing."""
    total, start, found = sum(counts), 0.0, []
    for count in counts:
        width = 100 * count / total if total else 0.0
        found.append((round(start, 3), round(width, 3)))
        start += width
    return found


def merged(*values: Values) -> Mapping[str, object]:
    """Return the values of a page and of its parts together."""
    found: dict[str, object] = {}
    for one in values:
        found |= one
    return found
