"""Browsers without a window: requests to the application, as a browser would send them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from docmill.storage.core.database import Database
from docmill.worker.settings import Settings
from docmill.worker.web.server import make_app
from docmill.worker.web.site import Site

Browse = Callable[..., TestClient]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


@pytest.fixture
def browse(database: Database, settings: Settings) -> Browse:
    """A browser on the store's page, which is made with these fields of `Site`."""

    def open_page(base_url: str = "http://127.0.0.1:8321", **site: Any) -> TestClient:
        return TestClient(make_app(Site(database, settings, **site)), base_url=base_url, follow_redirects=False)

    return open_page


@pytest.fixture
def empty(sqlite_url: str, settings: Settings) -> Browse:
    """The same on an empty SQLite file, where the store is of no matter."""

    def open_page(base_url: str = "http://127.0.0.1:8321", **site: Any) -> TestClient:
        app = make_app(Site(Database(sqlite_url), settings, **site))
        return TestClient(app, base_url=base_url, follow_redirects=False)

    return open_page
