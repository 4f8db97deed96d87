"""Errors of docmill, told apart from bugs. A bug shows its traceback, except for a bug of a reader."""

from __future__ import annotations

import errno

from docmill.storage import errors as of_storage
from docmill.tasks.errors import HubUnreachable, ServerUnreachable, TaskError
from docmill.worker.errors import BrokerUnreachable, WorkerError

BAD_INPUT, UNREACHABLE = 2, 3
_OF_WRITES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})  # reads never have these errors


def exit_code(error: Exception) -> int | None:
    """Return the exit code for an error that its sentence explains; None for a bug."""
    away = (
        *(of_storage.DatabaseUnreachable, of_storage.DatabaseBusy, of_storage.DatabaseReadOnly),
        *(of_storage.RightMissing, of_storage.SchemaOutOfDate, of_storage.UnexpectedDatabaseError),
        *(BrokerUnreachable, HubUnreachable, ServerUnreachable),
    )
    if isinstance(error, away):
        return UNREACHABLE
    if isinstance(error, of_storage.StorageError | TaskError | WorkerError) or _refused(error):
        return BAD_INPUT
    return None


def sentence(error: Exception) -> str:
    """Return the sentence for a user about an error that has an exit code.

    With DOCMILL_LOG_LEVEL=debug a bug of a reader also has the lines of code that led there.
    """
    from docmill.storage.readers import ReaderFailed

    if isinstance(error, OSError):
        verb, what = ("write", "the output") if error.errno in _OF_WRITES else ("use", "a file")
        return f"cannot {verb} {error.filename2 or error.filename or what}: {error.strerror}"
    if isinstance(error, ReaderFailed):
        from docmill.worker.settings import load_settings  # only here: it needs all features to load

        return f"{error}\n{error.trace}" if load_settings().log_level == "debug" else str(error)
    return str(error)


def _refused(error: Exception) -> bool:
    """Return True if the disk is full or broken, or refuses the access or the name.

    The system's message is enough.
    """
    others = {errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.EIO, errno.ESTALE}
    return isinstance(error, OSError) and error.errno in _OF_WRITES | others
