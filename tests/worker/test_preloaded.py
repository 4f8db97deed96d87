"""The modules that the servers of commands load once."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from tests.worker.preloaded import WITH_MODELS

OURS = sorted(name for name in WITH_MODELS if name.startswith("docmill."))


@pytest.mark.parametrize("module", OURS)
def test_every_module_of_ours_that_is_preloaded_exists(module: str) -> None:
    assert find_spec(module) is not None
