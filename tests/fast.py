"""The fast subset: tests that start no server and no command of docmill, and load no model."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import PurePath
from typing import Any

from tests.faults.servers import Server
from tests.worker.harness import Docmill

MARKER = "fast"
_SLOW_MARKERS = ("slow", "faults", "long", "gliner", "vllm", "soak", "schedulers", "wheel")
# These fixtures start a server or load a model.
_SLOW_FIXTURES = frozenset(
    {"_postgres_or_reason", "_pgvector_or_reason", "_redis_or_reason", "bench", "benches", "writer"}
)
_SERVER_PARAMS = frozenset({"postgresql", "redis"})
# A test module that imports one of these loads model libraries or starts programs.
_SLOW_IMPORTS = frozenset({"architectures", "decoders", "open_backend", "torch", "subprocess"})
# The tests of these files start a process for each reading, which imports a large library.
_SLOW_FILES = frozenset({"test_dataset.py", "test_s3.py"})


def is_fast(
    file: PurePath,
    *,
    markers: Collection[str],
    fixtures: Collection[str],
    params: Iterable[Any],
    names: dict[str, Any],
) -> bool:
    """Return True for a test of the fast subset.

    `fixtures` are all that the test asks for, directly or not; `names` are the names of its module and what they$
    stand for.
    """
    return (
        file.name not in _SLOW_FILES
        and not any(marker in markers for marker in _SLOW_MARKERS)
        and _SLOW_FIXTURES.isdisjoint(fixtures)
        and not any(param in _SERVER_PARAMS for param in params if isinstance(param, str))
        and _SLOW_IMPORTS.isdisjoint(names)
        and not any(isinstance(value, type) and issubclass(value, (Docmill, Server)) for value in names.values())
    )
