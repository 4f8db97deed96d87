"""Browsers without a window: requests to the application, as a browser would send them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from starlette.testclient import TestClient

from docmill.storage.core.database import Database
from docmill.worker.settings import Settings
from docmill.worker.web.http_server import serve
from docmill.worker.web.server import make_app
from docmill.worker.web.site import Site

Browse = Callable[..., TestClient]


@pytest.fixture
def browse(database: Database, settings: Settings) -> Browse:
    """A function that opens a browser on the store's pages. It takes an address, and fields of `Site`."""
    return partial(open_browser, database, settings)


@pytest.fixture
def empty(sqlite: Database, settings: Settings) -> Browse:
    """The same on an empty SQLite file, for tests to which the store does not matter."""
    return partial(open_browser, sqlite, settings)


@pytest.fixture
def url(sqlite: Database, settings: Settings) -> Iterator[str]:
    """The address of a real server of the store's pages, on which changes are allowed."""
    with serve(make_app(Site(sqlite, settings, allows_changes=True)), "127.0.0.1", 0) as address:
        yield address.rstrip("/")


def open_browser(
    database: Database, settings: Settings, base_url: str = "http://127.0.0.1:8321", **site: Any
) -> TestClient:
    return TestClient(make_app(Site(database, settings, **site)), base_url=base_url, follow_redirects=False)
