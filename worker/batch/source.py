"""The requests of one job as a source of documents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from docmill.storage.readers.errors import finding_bugs
from docmill.storage.readers.records import Record, Rejection, SourceOptions, document
from docmill.storage.readers.streams import Counted
from docmill.worker.batch.file import BatchFile
from docmill.worker.batch.requests import Call, Refused, Request

_OPTIONS = SourceOptions()


class CallSource:
    """The documents of a batch file whose requests are of one call. ``model`` stands in answers without a model.

    With ``refused``, lines that are not carried out are rejected records of it, and so are the requests of ``unfit``
    calls, which have the reason.
    """

    takes_encoding = False

    def __init__(
        self, file: BatchFile, call: Call, model: str, *, refused: bool, unfit: Mapping[Call, str] | None = None
    ) -> None:
        self.name = file.name
        self._file = file
        self._call = call
        self._model = model
        self._refused = refused
        self._unfit = unfit or {}
        self._counted: Counted | None = None

    @property
    def bytes_read(self) -> int:
        return self._counted.bytes_read if self._counted else 0

    def size_bytes(self) -> int | None:
        return self._file.content.size_bytes

    def records(self) -> Iterator[Record | Rejection]:
        """Yield the documents, and rejections, in the order of the file's lines."""
        with finding_bugs(self._file.content.place):
            for one in self._file.requests(self._count):
                if not isinstance(one, Refused) and one.call == self._call:
                    for row in one.rows(self._model):
                        yield document(row, self._file.content.place, _OPTIONS)
                elif self._refused and (rejected := refused(one, self._unfit)) is not None:
                    yield rejected.rejection

    def _count(self, stream: Counted) -> None:
        self._counted = stream


def refused(one: Request | Refused, unfit: Mapping[Call, str]) -> Refused | None:
    """Return a line that is not carried out, with the reason; None for a request that is."""
    if isinstance(one, Refused):
        return one
    reason = unfit.get(one.call)
    return None if reason is None else Refused(one.custom_id, one.line, one.where, reason)
