"""Servers with OpenAI's API that run until the test ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.tasks.backends.remote.api_server import ApiServer, Script


@pytest.fixture
def api() -> Iterator[Callable[[Script], ApiServer]]:
    """Start a server that a script answers for."""
    with ExitStack() as stack:
        yield lambda script: stack.enter_context(ApiServer(script).running())
