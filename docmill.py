"""The Python API of docmill, and the entry point of its command and processes.

`run` and `search` work on this machine; `connect` connects to a fleet. docs/python.md describes them.

docmill's packages are named `worker`, `tasks` and `storage`, and so are many people's own modules. Where PYTHONPATH
or another package offers one of these names first, docmill still loads its own, which lie beside this file.
"""

from __future__ import annotations

import gc
import importlib.util
import runpy
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from docmill.worker.api import Error, Hit, Job, Mill, Status, TimedOut, Unreachable, connect, run, search

__all__ = ["Error", "Hit", "Job", "Mill", "Status", "TimedOut", "Unreachable", "connect", "run", "search"]

_FOLDER = Path(__file__).resolve().parent
_PACKAGES = ("storage", "tasks", "worker")


def __getattr__(name: str) -> Any:
    """Return a part of the Python API, which is loaded when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _load_own_packages()
    from docmill.worker import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]


def main() -> None:
    """Run the `docmill` command."""
    _load_own_packages()
    from docmill.worker.cli import main as command

    command()


def command_of(module: str) -> list[str]:
    """Return the command that runs one of docmill's modules in a new process, whatever its folder or PYTHONPATH."""
    return [sys.executable, "-P", str(_FOLDER / "docmill.py"), module]


def _load_own_packages() -> None:
    for name in _PACKAGES:
        own = _FOLDER / name / "__init__.py"
        found = importlib.util.find_spec(name)
        if found is not None and found.origin is not None and Path(found.origin).resolve() == own:
            continue
        spec = importlib.util.spec_from_file_location(name, own, submodule_search_locations=[str(own.parent)])
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])


if __name__ == "__main__":
    # Importing libraries makes some hundred thousand objects and no garbage.
    gc.set_threshold(200_000, 1, 1)
    _load_own_packages()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
