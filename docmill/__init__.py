"""The Python API of docmill.

`run` and `search` work on this machine; `connect` connects to a fleet. docs/python.md describes them.

The folders `worker`, `tasks` and `storage` of the repository are the packages `docmill.worker`, `docmill.tasks` and
`docmill.storage`.
"""

from typing import TYPE_CHECKING, Any

__all__ = [
    "Error",
    "Hit",
    "Job",
    "Mill",
    "Status",
    "TimedOut",
    "Unreachable",
    "connect",
    "run",
    "run_async",
    "search",
]

if TYPE_CHECKING:
    from docmill.worker.api import (
        Error,
        Hit,
        Job,
        Mill,
        Status,
        TimedOut,
        Unreachable,
        connect,
        run,
        run_async,
        search,
    )

    __version__: str
else:

    def __getattr__(name: str) -> Any:
        """Return a part of the Python API, which is loaded when it is first used, or the version."""
        if name == "__version__":
            from importlib.metadata import version

            return version("docmill")
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from docmill.worker import api

        return getattr(api, name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
