"""The results of a job as an Arrow table, by pyarrow (an extra)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from docmill.storage.core.database import Database
from docmill.storage.core.installation import install
from docmill.storage.outputs.columns import Column, Form, OutputColumn
from docmill.storage.readers.registry import PARQUET
from docmill.storage.results.results import columns, failures, has_several_steps, keeps_first, results
from docmill.worker.api.documents import Read
from docmill.worker.api.errors import Error

if TYPE_CHECKING:
    from pyarrow import Table

Found: TypeAlias = Mapping[tuple[str, str | None], Mapping[str, Any]]

_KEY, _PLACE = "key", "place"
_SUPERSEDED = "a later row has the same id and other contents"
_REMOVED = {"status": "removed"}
_DUPLICATE = {"status": "duplicate", "reason": "an earlier document is a near duplicate of it"}
_ABOUT = (Column.of("status", Form.TEXT), Column.of("reason", Form.TEXT))


def require_arrow() -> None:
    """Raise Error if pyarrow is not installed."""
    if not PARQUET.is_installed:
        raise Error(f"a table of results needs another library: {install(PARQUET.name)}")


def by_row(database: Database, job_id: int, read: Sequence[Read]) -> Table:
    """Return a table with a row for each record that was read, in their order.

    "status" is done, failed, skipped, rejected, superseded or, with `keep_first`, duplicate; "reason" says why there
    is no result.
    """
    from docmill.storage.writers import arrow

    found = _found(database, job_id, read)
    reasons = [one.reason or found.get((_PLACE, one.where), {}).get("reason") for one in read]
    last = {one.key: one.digest for one, reason in zip(read, reasons, strict=True) if reason is None}
    missing = _DUPLICATE if keeps_first(database, job_id) else _REMOVED
    rows = [_row(one, reason, last, found, missing) for one, reason in zip(read, reasons, strict=True)]
    return arrow.table(_columns(columns(database, job_id), _ABOUT), rows)


def of_job(database: Database, job_id: int, step: str | None) -> Table:
    """Return a table of the results of a job or of one of its steps."""
    from docmill.storage.results.columnar import read_table
    from docmill.storage.writers import arrow

    wanted = _columns(columns(database, job_id, step))
    if step is None and has_several_steps(database, job_id):
        return arrow.table(wanted, list(results(database, job_id)))
    return read_table(database, job_id, wanted, step)


def _found(database: Database, job_id: int, read: Sequence[Read]) -> Found:
    """Return results and failures by the key of their document, and rejections by the place of their record."""
    wanted = {(_KEY, one.key) for one in read} | {(_PLACE, one.where) for one in read}
    found = {}
    for failure in failures(database, job_id):
        if failure["status"] != "superseded":  # a row that a later one equals has that one's result
            found[_PLACE if failure["status"] == "rejected" else _KEY, failure["id"]] = failure
    for result in results(database, job_id):
        if (place := (_KEY, result["id"])) in wanted:
            found[place] = {**result, "status": "done"}
    return found


def _row(
    one: Read,
    rejected: str | None,
    last: Mapping[str | None, bytes],
    found: Found,
    missing: Mapping[str, Any],
) -> Mapping[str, Any]:
    if rejected is not None:
        return {"id": one.key, "status": "rejected", "reason": rejected}
    if last[one.key] != one.digest:
        return {"id": one.key, "status": "superseded", "reason": _SUPERSEDED}
    return found.get((_KEY, one.key), {"id": one.key, **missing})


def _columns(of_results: Sequence[Column], about: Sequence[Column] = ()) -> list[Column]:
    """Return the columns of a table. A record's property whose name is taken is called `record_NAME`."""
    taken = {column.name for column in (*of_results, *about) if not isinstance(column, OutputColumn)}
    first, *rest = [
        replace(column, name=f"record_{column.name}")
        if isinstance(column, OutputColumn) and column.name in taken
        else column
        for column in of_results
    ]
    return [first, *about, *rest]
