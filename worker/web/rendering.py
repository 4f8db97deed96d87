"""Render templates: every text is escaped, and no character steers how the text around it is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from docmill.worker.logs import seen
from docmill.worker.reports.filters import FILTERS
from docmill.worker.web import assets
from docmill.worker.web.page import Page, Values
from docmill.worker.web.words import ago, iso, period, sentence

if TYPE_CHECKING:
    from jinja2 import Environment

FOLDER = Path(__file__).parent / "templates"


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
        environment.filters |= {**FILTERS, "ago": ago, "iso": iso, "period": period, "sentence": sentence}
        environment.globals |= {"asset": assets.url, "percents": percents, **self._shared}
        # A part is rendered without the rest of its template, so it sees no macro that the template imports.
        macros = environment.get_template("parts.html.j2").module
        environment.globals |= {name: macro for name, macro in vars(macros).items() if not name.startswith("_")}
        return environment


def _harmless(value: object) -> object:
    """Return what a template writes; a text without the characters that steer how it is shown."""
    return seen(value) if type(value) is str else value  # Markup is of our own making


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
