"""The answers to the requests of a batch file, in the order of its lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from docmill.storage.core.database import Database
from docmill.storage.core.outcomes import Reason
from docmill.storage.results.results import failures, results
from docmill.storage.results.status import JobStatus
from docmill.storage.writers.base import Row
from docmill.storage.writers.openai_batch import Line, refused, request_of, response, unanswered
from docmill.worker.batch import source
from docmill.worker.batch.file import BatchFile
from docmill.worker.batch.requests import Call, Refused, Request

_STATUS = {Reason.DOCUMENT.value: HTTPStatus.BAD_REQUEST, None: HTTPStatus.BAD_REQUEST}


class JobAnswers:
    """The results and failures of one job, read in the order of its source."""

    def __init__(self, database: Database, status: JobStatus) -> None:
        self._status = status
        self._rows: Iterator[Row] = iter(results(database, status.id))
        self._next = next(self._rows, None)
        # Documents by their id, and rejected records by their place.
        self._failures: dict[str, Mapping[str, Any]] = {row["id"]: row for row in failures(database, status.id)}

    def line(self, request: Request, created: int) -> Line:
        """Return the answer to a request; requests come in the order of the source."""
        rows = []
        # Documents of lines that an earlier run carried out and this one refuses are passed over.
        while self._next is not None and (line := request_of(self._next)["line"]) <= request.line:
            if line == request.line:
                rows.append(self._next)
            self._next = next(self._rows, None)
        if len(rows) == len(request.keys):
            return response(rows, created, request.where)
        found = next((self._failures[key] for key in (*request.keys, request.where) if key in self._failures), None)
        if found is None:
            lacking = f"job {self._status.id} is {self._status.state}, and the request has no result"
            return unanswered(request.custom_id, "batch_cancelled", lacking)
        failed = _STATUS.get(found["class"], HTTPStatus.INTERNAL_SERVER_ERROR)
        return refused(request.custom_id, request.where, found["reason"], failed)


@dataclass(frozen=True)
class Batch:
    """A batch file with the answers of its jobs by call, and the reasons against calls that make no job."""

    file: BatchFile
    jobs: Mapping[Call, JobAnswers]
    unfit: Mapping[Call, str] = field(default_factory=dict)

    def lines(self, created: int) -> Iterator[tuple[Line, bool]]:
        """Yield the answer to each line of the file, and True for a line that was refused.

        `created` is a time in seconds since 1970.
        """
        for one in self.file.requests():
            reason = source.refused(one, self.unfit)
            if reason is not None:
                yield refused(reason.custom_id, reason.where, reason.reason), True
            elif not isinstance(one, Refused):
                yield self.jobs[one.call].line(one, created), False
