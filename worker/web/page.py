"""Pages: a request, a page, a change, and the templates that show them.

Every text is escaped, and no character changes how the text around it is shown. The addresses of files that pages
load have their hashes, so a browser keeps them for good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, cached_property
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from docmill.storage.core.database import Database
from docmill.worker.errors import WorkerError
from docmill.worker.formatting import FILTERS, duration
from docmill.worker.logs import escape_unseen
from docmill.worker.settings import Settings

Values: TypeAlias = Mapping[str, object]  # what a template shows, by name
TEMPLATES, STATIC = Path(__file__).parent / "templates", Path(__file__).parent / "static"
TYPES = MappingProxyType(
    {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
)
MINUTE_S = 60
MOST_DIGITS = 18  # of a number that every table can have


class PageRefused(WorkerError):
    """The request cannot be answered. `status` is the status of HTTP that says so."""

    def __init__(self, message: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class PageRequest:
    """A request: the store, and the values in the path, the query and the form.

    `from_another_site` is True for a link that another site's page led to: such a request must cost little.
    """

    database: Database
    settings: Settings
    path: Mapping[str, str]
    query: Mapping[str, str] = field(default_factory=dict)
    form: Mapping[str, str] = field(default_factory=dict)
    from_another_site: bool = False

    @property
    def job(self) -> int:
        """The number of the job in the path. Raises PageRefused if no job can have it."""
        if not _is_number(self.path["job"]):
            raise PageRefused("There is no such job.", HTTPStatus.NOT_FOUND)
        return int(self.path["job"])

    def number(self, name: str) -> int | None:
        """Return a number in the query, None if it is not there. Raises PageRefused."""
        value = self.query.get(name)
        if value is None:
            return None
        if not _is_number(value):
            raise PageRefused(f"{name}={value} in the address is not a number. Follow a link of the page instead.")
        return int(value)

    def choice(self, name: str, choices: Mapping[str, object]) -> str | None:
        """Return a value in the query that must be one of these, None if it is not there. Raises PageRefused."""
        value = self.query.get(name) or None
        if value is not None and value not in choices:
            raise PageRefused(f"{name}={value} in the address is unknown; there are {', '.join(choices)}.")
        return value


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS


Change: TypeAlias = Callable[[PageRequest], tuple[str, str]]  # returns the path of the next page, and a notice


@dataclass(frozen=True)
class Page:
    """A page at a path such as `/jobs/{job}`. `template` is a file in `worker/web/templates`, or in `folder`.

    `read` returns the values for the template. A page with a `name` stands in the navigation. `parts` are names of
    blocks of the template, which the browser asks for again and again, as `?part=NAME`. When `read` returns
    `has_ended`, the browser reloads the page.
    """

    path: str
    template: str
    read: Callable[[PageRequest], Values]
    name: str | None = None
    parts: tuple[str, ...] = ()
    folder: Path | None = None


class Renderer:
    """The templates of docmill and of further folders. `shared` are values that all of them show."""

    def __init__(self, shared: Values, folders: Iterable[Path]) -> None:
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
    """Return a value for a template to write, with the codes of unseen characters if it is a text."""
    return escape_unseen(value) if type(value) is str else value  # Markup is of our own making


def percents(counts: Sequence[int]) -> list[tuple[float, float]]:
    """Return where each count begins on a bar of 100, and its width there; all are 0 if there is nothing."""
    total, start, places = sum(counts), 0.0, []
    for count in counts:
        width = 100 * count / total if total else 0.0
        places.append((round(start, 3), round(width, 3)))
        start += width
    return places


@cache
def assets() -> Mapping[str, bytes]:
    """Return the files by their names."""
    return MappingProxyType({path.name: path.read_bytes() for path in STATIC.iterdir() if path.suffix in TYPES})


@cache
def url(name: str) -> str:
    """Return the path of a file, with a part of the hash of its bytes. Raises KeyError for an unknown name."""
    return f"/static/{sha256(assets()[name]).hexdigest()[:16]}/{name}"


def ago(moment: float, now: float) -> str:
    """Return how long ago a moment was: `just now`, `1 min ago`, `3 h ago`, `2 days ago`."""
    seconds = max(0.0, now - moment)
    if seconds < 1.5 * MINUTE_S:
        return "just now" if seconds < MINUTE_S else "1 min ago"
    return f"{duration(seconds)} ago"


def sentence(text: str) -> Markup:
    """Return a command's message as HTML: text in backticks is code, and a first word has a capital letter."""
    is_word = text.partition(" ")[0].rstrip(":,").isalpha()
    capital = escape_unseen(text[:1].upper() + text[1:] if is_word else text)
    pieces = [escape(piece) for piece in capital.split("`")]
    if len(pieces) % 2 == 0:  # a backtick without a second one
        return escape(capital)
    return Markup("").join(
        Markup("<code>{}</code>").format(piece) if place % 2 else piece for place, piece in enumerate(pieces)
    )


def iso(moment: float) -> str:
    """Return a moment as machines read it."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
