"""The parts that pages are made of: a request, a page, and a change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from docmill.worker.errors import WorkerError

if TYPE_CHECKING:
    from docmill.storage.core.database import Database
    from docmill.worker.settings import Settings

Values: TypeAlias = Mapping[str, object]  # what a template shows, by name
LARGEST = 2**63 - 1  # a number that every table can have


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
    allows_changes: bool
    path: Mapping[str, str]
    query: Mapping[str, str] = field(default_factory=dict)
    form: Mapping[str, str] = field(default_factory=dict)
    from_another_site: bool = False

    def id(self, name: str) -> int:
        """Return a number in the path. Raises PageRefused if no row can have it."""
        number = int(self.path[name])
        if number > LARGEST:
            raise PageRefused(f"There is no {name} {number}.", HTTPStatus.NOT_FOUND)
        return number

    def number(self, name: str) -> int | None:
        """Return a number in the query, None if it is not there. Raises PageRefused."""
        value = self.query.get(name)
        if value is None:
            return None
        if not value.isdecimal() or not value.isascii() or len(value) > 18:
            raise PageRefused(f"{name}={value} in the address is no number. Follow a link of the page instead.")
        return int(value)

    def choice(self, name: str, choices: Mapping[str, object]) -> str | None:
        """Return a value in the query that must be one of these, None if it is not there. Raises PageRefused."""
        value = self.query.get(name) or None
        if value is not None and value not in choices:
            raise PageRefused(f"{name}={value} in the address is unknown; there are {', '.join(choices)}.")
        return value


Read: TypeAlias = Callable[[PageRequest], Values]


@dataclass(frozen=True)
class Page:
    """A page at a path such as `/jobs/{job:int}`. `template` is a file in `worker/web/templates`, or in `folder`.

    `read` returns what the template shows. A page with a `name` stands in the navigation. Of a page with `parts` the
    browser asks for each part again, as `?part=NAME`: its function returns what the block NAME of the template shows.
    The whole page shows what `read` and all parts return.
    """

    path: str
    template: str
    read: Read
    name: str | None = None
    parts: Mapping[str, Read] = field(default_factory=dict)
    folder: Path | None = None


@dataclass(frozen=True)
class Change:
    """A change that a form posts to a path. It is refused unless changes are allowed.

    `act` makes it, and returns the path of the page to show next, and a sentence that says what was done.
    """

    path: str
    act: Callable[[PageRequest], tuple[str, str]]
