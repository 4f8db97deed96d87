"""The Python API in this process, with device processes as forks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from docmill.worker.process import device_start
from tests.worker.harness import forked_device


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of an embedded store that the tests of a module share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_start, "start_device", forked_device)
        yield tmp_path_factory.mktemp("store")
