"""Servers with OpenAI's API that run until the test ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.tasks.backends.remote.api_server import ApiServer

Serve = Callable[..., ApiServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Return a function that starts a server, which may have a script."""
    with ExitStack() as stack:
        yield lambda *script: stack.enter_context(ApiServer(*script).running())
