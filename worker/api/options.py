"""Options of the Python API: the options of the command line, with underscores."""

from __future__ import annotations

from collections.abc import Mapping
from keyword import iskeyword
from typing import Any

from docmill.tasks import kinds
from docmill.tasks.errors import BadOption, hint
from docmill.tasks.kinds.options import key
from docmill.worker.settings import Settings
from docmill.worker.submit.options import Request, Work, checked


def python_name(spelling: str) -> str:
    """Return an option's name in Python: `from_` for --from, `top_k` for --top-k."""
    name = spelling.replace("-", "_")
    return f"{name}_" if iskeyword(name) else name


_OF_KINDS = {python_name(key(name, field)): name for name, field in kinds.OPTIONS.items()}
NAMES = (*_OF_KINDS, *(name for name in Work.model_fields if name not in {"source", "task"}))


def request_of(
    settings: Settings, source: str, task: str, given: Mapping[str, Any], key: str | None = None
) -> Request:
    """Return the request in the options of a call. None stands for an option that was not given.

    Raises BadOption and UnknownKind.
    """
    for name in given:
        if name not in NAMES:
            advice = hint(name, NAMES, "`docmill run --help` lists the options.")
            raise BadOption(f"There is no option {name}. {advice}")
    values = {name: value for name, value in given.items() if value is not None}
    of_kind = {_OF_KINDS[name]: values.pop(name) for name in [*values] if name in _OF_KINDS}
    options = kinds.options(task, **{"dtype": settings.dtype, **of_kind})
    return checked(options, {"source": source, "task": task, "idempotency_key": key, **values})
