"""A job's results as a file that a browser saves."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import BinaryIO, cast

from starlette.responses import Response, StreamingResponse

from docmill.storage.results.status import JobStatus, read_status
from docmill.storage.writers import excel
from docmill.storage.writers.formats import CSV_FOR_EXCEL, JSONL, FormatUnfit, Writer
from docmill.worker.exports import read_table
from docmill.worker.web.page import PageRefused, PageRequest

PATH = "/jobs/{job:int}/results{suffix}"
MOST_DOCUMENTS = 50_000  # of a job whose results the page writes
_WRITERS: Mapping[str, tuple[str, Writer]] = MappingProxyType(
    {
        writer.suffix: (name, writer)
        for name, writer in (("Excel", excel.WRITER), ("CSV", CSV_FOR_EXCEL), ("JSON lines", JSONL))
    }
)
_CHUNK = 1 << 16  # bytes


def list_formats(status: JobStatus) -> dict[str, str]:
    """Return the names of the formats in which the page offers a job's results, by the endings of their files."""
    if not status.ended or not status.done or status.documents > MOST_DOCUMENTS:
        return {}
    return {
        suffix: name
        for suffix, (name, writer) in _WRITERS.items()
        if writer.extra is None or writer.extra.is_installed
    }


def download(request: PageRequest) -> Response:
    """Return the results of a job as a file. Raises NotFound and PageRefused."""
    status, suffix = read_status(request.database, request.id("job")), request.path["suffix"]
    if suffix not in list_formats(status):
        raise PageRefused(f"There is no such file of job {status.id}.", HTTPStatus.NOT_FOUND)
    if request.from_another_site:
        said = f"This is a link of another site. The page of job {status.id} has the same file."
        raise PageRefused(said, HTTPStatus.FORBIDDEN)
    writer = _WRITERS[suffix][1]
    file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 - it is closed once it was sent
    try:
        table = read_table(request.database, status.id, writer, with_input=True)
        writer.write(table.rows, table.columns, file)
    except (FormatUnfit, OSError) as error:
        file.close()
        said = f"The file cannot be written: {error}. `docmill results {status.id} --out FILE` takes other formats."
        raise PageRefused(said, HTTPStatus.SERVICE_UNAVAILABLE) from error
    name = "-".join(dict.fromkeys(step.spec.kind for step in status.steps))
    headers = {"Content-Disposition": f'attachment; filename="{name}-{status.id}{suffix}"'}
    return StreamingResponse(_chunks(file), media_type="application/octet-stream", headers=headers)


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    with file:
        file.seek(0)
        while chunk := file.read(_CHUNK):
            yield chunk
