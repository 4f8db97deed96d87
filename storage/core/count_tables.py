"""The tables of kept counts, so that metrics cost the same however many shards and results there are.

Triggers keep them (migration 0030), so they hold for every writer: workers of the release before, and SQL by hand.
On PostgreSQL a trigger adds rows and never waits for another writer: the count of a key is the sum of its rows, which
are merged from time to time. On SQLite a key has one row.
"""

from __future__ import annotations

from sqlalchemy import Index

from storage.core.tables import Base, column


class ShardCount(Base):
    """Shards of a job by lane and state. `n_suspect` of the `n` are suspects."""

    __tablename__ = "shard_count"
    id = column(int, primary_key=True)
    job_id = column(int)  # no foreign key: a count is no reason to keep a job
    lane = column(str)
    state = column(str)
    n = column(int)
    n_suspect = column(int)

    __table_args__ = (Index("ix_shard_count_job_id_lane_state", "job_id", "lane", "state"),)


class WorkCount(Base):
    """Work by lane.

    `name` says which: texts (`label` is a status), tokens_in and tokens_out (a model), commits, lapses, failures (a
    class of reason), flags (a flag), and records (the result of reading a record; without a lane). Failures and flags
    are those of the stored outcomes. The others only grow: they stay when their shards are deleted.
    """

    __tablename__ = "work_count"
    id = column(int, primary_key=True)
    name = column(str)
    lane = column(str)
    label = column(str)
    n = column(int)

    __table_args__ = (Index("ix_work_count_name_lane_label", "name", "lane", "label"),)
