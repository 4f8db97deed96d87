"""The table of idempotency keys."""

from __future__ import annotations

from storage.core.tables import Base, Json, column


class JobKey(Base):
    """The idempotency key of a job, with the arguments that the command had.

    `job_id` is no foreign key, so that the number is still known after the job was removed; the arguments are deleted
    with the job.
    """

    __tablename__ = "job_key"
    key = column(str, primary_key=True)
    job_id = column(int, index=True)
    arguments = column(Json, nullable=True)
    created_at = column(float)
