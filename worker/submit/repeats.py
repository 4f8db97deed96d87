"""Commands with an idempotency key: their arguments, and the job of a key that has one already."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from docmill.storage.core.database import Database
from docmill.storage.core.normalize import normalize
from docmill.storage.ingest.ingest import Counts
from docmill.storage.readers import credentials
from docmill.storage.readers.memory import NAME
from docmill.storage.readers.sources import path_of
from docmill.storage.steps import job_keys
from docmill.storage.steps.job_keys import IdempotencyKey, KeyedJob
from docmill.tasks.kinds.options import flag
from docmill.worker.submit.options import Request, Work


def key_of(request: Request) -> IdempotencyKey | None:
    """Return the key of a request, with the arguments that were given; None for a request without a key."""
    if request.idempotency_key is None:
        return None
    given = request.model_dump(mode="json", include=set(Work.model_fields) - {"source"}, exclude_defaults=True)
    named = {flag(name, Work.model_fields[name]): value for name, value in given.items()}
    options = type(request.options).model_fields
    of_kind = {flag(name, options[name]): value for name, value in request.options.given().items()}
    precision = {} if request.options.dtype == "auto" else {"--dtype": request.options.dtype}
    arguments = {"the source": _source(request.source)} | named | of_kind | precision
    return IdempotencyKey(request.idempotency_key, {name: _storable(value) for name, value in arguments.items()})


def _storable(value: Any) -> Any:
    """Return an argument as the store can hold it: without NUL and halves of characters."""
    if isinstance(value, str):
        return normalize(value)[0]
    if isinstance(value, dict):
        return {_storable(key): _storable(one) for key, one in value.items()}
    return [_storable(one) for one in value] if isinstance(value, list | tuple) else value


def _source(source: str) -> str:
    """Return a source as it is compared: a path from the root, a URL without secrets."""
    if source.startswith(NAME) or (path := path_of(source)) is None:
        return credentials.shown(source)
    return credentials.shown(str(path.absolute()))


def job_of(database: Database, key: IdempotencyKey | None) -> KeyedJob | None:
    """Return the job of a key if there is nothing more to read for it. Raises KeyReused."""
    found = None if key is None else job_keys.find(database, key)
    return found if found is not None and found.is_read else None


def counts(job: KeyedJob) -> Counts:
    """Return the counts of the job's reading; the numbers of its texts are in its status."""
    of_reading: dict[str, Any] = {
        field.name: getattr(job.ingest, f"n_{field.name}")
        for field in fields(Counts)
        if hasattr(job.ingest, f"n_{field.name}")
    }
    return Counts(**of_reading)
