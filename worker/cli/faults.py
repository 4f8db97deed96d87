"""Which exit code an error has; a bug has none and shows its traceback."""

from __future__ import annotations

OK, SOME_FAILED, BAD_INPUT, UNREACHABLE = 0, 1, 2, 3


def exit_code(error: Exception) -> int | None:
    """The code for an error of ours that its sentence explains, None for a bug."""
    from storage.errors import DatabaseBusy, DatabaseReadOnly, DatabaseUnreachable, SchemaOutOfDate, StorageError
    from tasks.errors import HubUnreachable, TaskError
    from worker.errors import BrokerUnreachable, EmbeddedServerError, WorkerError

    away = (
        DatabaseUnreachable,
        DatabaseBusy,
        DatabaseReadOnly,
        SchemaOutOfDate,
        BrokerUnreachable,
        EmbeddedServerError,
        HubUnreachable,
    )
    if isinstance(error, away):
        return UNREACHABLE
    if isinstance(error, StorageError | TaskError | WorkerError):
        return BAD_INPUT
    return None
