"""Exit codes of commands and of errors. A bug has none and shows its traceback, except for a bug of a reader."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from docmill.worker.cli.printing import warn

if TYPE_CHECKING:
    from docmill.storage.results.status import JobStatus

OK, SOME_FAILED, BAD_INPUT, UNREACHABLE, SOME_REJECTED = 0, 1, 2, 3, 4


def exit_code(error: Exception) -> int | None:
    """The code for an error of ours that its sentence explains, None for a bug."""
    from docmill.storage import errors as of_storage
    from docmill.tasks.errors import HubUnreachable, ServerUnreachable, TaskError
    from docmill.worker.errors import BrokerUnreachable, EmbeddedServerError, WorkerError

    away = (
        *(of_storage.DatabaseUnreachable, of_storage.DatabaseBusy, of_storage.DatabaseReadOnly),
        *(of_storage.RightMissing, of_storage.SchemaOutOfDate, of_storage.UnexpectedDatabaseError),
        *(BrokerUnreachable, EmbeddedServerError, HubUnreachable, ServerUnreachable),
    )
    if isinstance(error, away):
        return UNREACHABLE
    if isinstance(error, of_storage.StorageError | TaskError | WorkerError) or _cannot_write(error):
        return BAD_INPUT
    return None


def sentence(error: Exception) -> str:
    """Return the sentence for a user about an error that has an exit code.

    With DOCMILL_LOG_LEVEL=debug a bug of a reader also has the lines of code that led there.
    """
    from docmill.storage.readers import ReaderFailed
    from docmill.worker.settings import load_settings

    if isinstance(error, OSError):
        return f"cannot write {error.filename or 'the output'}: {error.strerror}"
    if isinstance(error, ReaderFailed) and load_settings().log_level == "debug":
        return f"{error}\n{error.trace}"
    return str(error)


def _cannot_write(error: Exception) -> bool:
    """Return True if the disk is full or takes no writes. The system's own message says enough then."""
    return isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT}


def exit_code_of(status: JobStatus, max_failures: float | None = None) -> int:
    """Return 0 when every document has its result, and say what to do where not.

    1 says that documents failed, or that the job was stopped; 4 that all is well but for records that were rejected.
    """
    if status.failed or status.rejected:
        listed = f"docmill failures {status.id}"
        retried = f"; to try the failed again: docmill retry {status.id}" if status.failed else ""
        warn(f"What failed, and why: {listed}{retried}")
    bearable = max_failures is not None and status.texts and 100 * status.failed / status.texts <= max_failures
    if status.state != "done" or (status.failed and not bearable):
        return SOME_FAILED
    return SOME_REJECTED if status.rejected else OK
