"""Render templates: every text is escaped, and no character steers how the text around it is shown.

Files that pages load stand at addresses with their hashes, so that a browser keeps them for good.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from docmill.worker.formatting import FILTERS, duration
from docmill.worker.logs import seen
from docmill.worker.web.page import Page, Values

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


TEMPLATES, STATIC = Path(__file__).parent / "templates", Path(__file__).parent / "static"
TYPES = MappingProxyType(
    {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
)
MINUTE_S, DAY_S = 60, 86_400


class Renderer:
    """The templates of docmill and of further folders. `shared` are values that all of them show."""

    def __init__(self, shared: Values, folders: Iterable[Path] = ()) -> None:
        self._shared = shared
        self._folders = [TEMPLATES, *folders]

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
            loader=FileSystemLoader(self._folders), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
            lstrip_blocks=True, finalize=_harmless,
        )  # fmt: skip
        environment.filters |= {**FILTERS, "ago": ago, "iso": iso, "sentence": sentence}
        environment.globals |= {"asset": url, "percents": percents, **self._shared}
        # A part is rendered without the rest of its template, so it sees no macro that the template imports.
        macros = environment.get_template("parts.html.j2").module
        environment.globals |= {name: macro for name, macro in vars(macros).items() if not name.startswith("_")}
        return environment


def _harmless(value: object) -> object:
    """Return what a template writes; a text without the characters that steer how it is shown."""
    return seen(value) if type(value) is str else value  # Markup is of our own making


def percents(counts: Sequence[int]) -> list[tuple[float, float]]:
    """Return where each count begins on a bar of 100, and how wide it is there. All are 0 of nothing."""
    total, start, places = sum(counts), 0.0, []
    for count in counts:
        width = 100 * count / total if total else 0.0
        places.append((round(start, 3), round(width, 3)))
        start += width
    return places


def merged(*values: Values) -> Mapping[str, object]:
    """Return the values of a page and of its parts together."""
    together: dict[str, object] = {}
    for part in values:
        together |= part
    return together


class Asset(NamedTuple):
    """A file and its media type. `mark` is a part of the hash of its bytes."""

    body: bytes
    media_type: str
    mark: str


@cache
def assets() -> Mapping[str, Asset]:
    """Return the files by their names."""
    files = {}
    for path in sorted(STATIC.iterdir()):
        if path.suffix in TYPES:
            body = path.read_bytes()
            files[path.name] = Asset(body, TYPES[path.suffix], sha256(body).hexdigest()[:16])
    return MappingProxyType(files)


def url(name: str) -> str:
    """Return the path of a file. Raises KeyError for a name that there is not."""
    return f"/static/{assets()[name].mark}/{name}"


def ago(moment: float, now: float) -> str:
    """Return how long ago a moment was: `just now`, `5 min ago`, `3 h ago`, `2 days ago`."""
    seconds = max(0.0, now - moment)
    return "just now" if seconds < MINUTE_S else f"{duration(seconds)} ago"


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
