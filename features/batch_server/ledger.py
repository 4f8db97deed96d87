"""The keys, files and batches of `docmill serve`, in tables of the store.

A server keeps nothing else, so several may stand behind one address. A file is stored in blocks, and seen once it is
whole. Whoever carries a batch on holds it under a lease, and each change of its status is one conditional update.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from io import RawIOBase
from typing import Any, TypeVar

from sqlalchemy import (
    ColumnElement,
    ForeignKey,
    Index,
    UniqueConstraint,
    and_,
    delete,
    false,
    func,
    or_,
    select,
    update,
)

from docmill.storage.core.database import Database
from docmill.storage.core.schema import (
    Base,
    Job,
    JobKey,
    Json,
    ShardCount,
    Step,
    column,
    db_now,
    new_metadata,
    partial_index,
)
from docmill.storage.core.transaction import Transaction
from docmill.storage.errors import LeaseLost, StorageError
from docmill.storage.steps import jobs
from docmill.storage.steps.jobs import UNFINISHED
from docmill.storage.steps.sharding import OPEN_SHARDS

VALIDATING, IN_PROGRESS, FINALIZING, CANCELLING = "validating", "in_progress", "finalizing", "cancelling"
COMPLETED, FAILED, EXPIRED, CANCELLED = "completed", "failed", "expired", "cancelled"
OPEN = (VALIDATING, IN_PROGRESS, FINALIZING, CANCELLING)
INPUT, OUTPUT = "batch", "batch_output"
BLOCK_BYTES = 2**20
LEASE_S = 15.0
UNFINISHED_UPLOAD_S = 24 * 3600.0
COST_LIMIT = "cost_limit_reached"
AT_LIMIT = "the batches of your key have reached its limit of costs; ask the operator of this server to raise it"
MOST_LOOKED_AT = 1_000  # batches in progress


class Refused(StorageError):
    """The ledger cannot do this; the message says what to do. `code` is a word for programs."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class ServerTable(Base):
    """The base class of these tables, which `docmill db upgrade` makes."""

    metadata = new_metadata()


class ApiKey(ServerTable):
    """A key of the server by its name; the key itself is stored as its SHA-256. A revoked key keeps its name.

    Jobs of its batches share the workers as one, in proportion to its `weight`. Its open batches have at most
    `max_requests` lines, and the files that it uploads at most `max_bytes`. Once its batches cost `max_cost`, their
    jobs are paused. NULL is no limit.
    """

    __tablename__ = "api_key"
    name = column(str, primary_key=True)
    sha256 = column(bytes, unique=True)
    weight = column(int, default=1)
    max_requests = column(int, nullable=True)
    max_bytes = column(int, nullable=True)
    max_cost = column(float, nullable=True)
    created_at = column(float)
    revoked_at = column(float, nullable=True)


class ApiFile(ServerTable):
    """A file of a key. It is hidden until it `is_whole`; `lines` counts its line ends."""

    __tablename__ = "api_file"
    id = column(str, primary_key=True)
    key = column(str, ForeignKey("api_key.name"))
    filename = column(str)
    purpose = column(str)
    n_bytes = column(int, default=0)
    lines = column(int, default=0)
    sha256 = column(str, nullable=True)
    is_whole = column(bool, default=False)
    created_at = column(float)
    expires_at = column(float, nullable=True)
    idempotency_key = column(str, nullable=True)

    __table_args__ = (
        Index("ix_api_file_key_created_at_id", "key", "created_at", "id"),
        UniqueConstraint("key", "idempotency_key"),
    )


class ApiFileBlock(ServerTable):
    """A piece of a file's bytes, of `BLOCK_BYTES` but for the last."""

    __tablename__ = "api_file_block"
    file_id = column(str, ForeignKey("api_file.id", ondelete="CASCADE"), primary_key=True)
    seq = column(int, primary_key=True)
    data = column(bytes)


class ApiBatch(ServerTable):
    """A batch, with the fields that clients see. `times` has the time at which it got each status.

    `plan` is what its lines were read with, and for each set of parameters in the order of their first lines a job
    or the reason against it (`clerk`). `cost` is noted for keys with a limit of costs. `ends_as` is the status after
    finalizing. `owner` has the lease.
    """

    __tablename__ = "api_batch"
    id = column(str, primary_key=True)
    key = column(str, ForeignKey("api_key.name"))
    idempotency_key = column(str, nullable=True)
    status = column(str)
    endpoint = column(str)
    input_file_id = column(str)  # no foreign key: the file may be deleted after the batch
    completion_window = column(str)
    labels = column(Json, nullable=True)  # the metadata
    times = column(Json)
    created_at = column(float)
    expires_at = column(float)
    weight = column(int, default=1)
    cost = column(float, default=0.0)
    plan = column(Json, nullable=True)
    errors = column(Json, nullable=True)
    n_lines = column(int)
    n_requests = column(int, default=0)
    n_completed = column(int, default=0)
    n_failed = column(int, default=0)
    output_file_id = column(str, nullable=True)
    error_file_id = column(str, nullable=True)
    ends_as = column(str, default=COMPLETED)
    owner = column(str, nullable=True)
    lease_until = column(float, nullable=True)

    __table_args__ = (
        Index("ix_api_batch_key_created_at_id", "key", "created_at", "id"),
        UniqueConstraint("key", "idempotency_key"),
        partial_index(
            "ix_api_batch_open",
            "created_at",
            where="status IN ('validating', 'in_progress', 'finalizing', 'cancelling')",
        ),
    )

    is_expired: bool

    @property
    def jobs(self) -> list[int]:
        """The numbers of its jobs."""
        return [call["job"] for call in (self.plan or {}).get("calls", ()) if "job" in call]


Entry = TypeVar("Entry", ApiFile, ApiBatch)


def new_id(prefix: str) -> str:
    """Return an id that nobody guesses."""
    return prefix + secrets.token_hex(12)


def add_key(database: Database, name: str, **limits: Any) -> str:
    """Store a new key and return it. Its name may never have been used. Raises Refused."""
    secret = f"sk-docmill-{secrets.token_urlsafe(32)}"

    def work(transaction: Transaction) -> bool:
        row = transaction.insert(ApiKey).values(name=name, sha256=_hash(secret), created_at=db_now(), **limits)
        return transaction.scalar(row.on_conflict_do_nothing().returning(ApiKey.name)) is not None

    if not database.write(work):
        raise Refused(f"there is a key named {name}, or there was; choose another name", "name_taken")
    return secret


def list_keys(database: Database) -> list[ApiKey]:
    """Return all keys by their age."""
    with database.read() as transaction:
        return [ApiKey.of(row) for row in transaction.execute(select(ApiKey).order_by(ApiKey.created_at))]


def change_key(database: Database, name: str, **values: Any) -> None:
    """Change limits of a key that is not revoked. Raises Refused if there is no such key."""
    query = update(ApiKey).where(ApiKey.name == name, ApiKey.revoked_at.is_(None)).values(**values)
    if database.write(lambda transaction: transaction.execute(query).rowcount) == 0:
        raise Refused(f"there is no key named {name}, or it is revoked; `docmill keys list` lists them", "no_key")


def revoke_key(database: Database, name: str) -> None:
    """Refuse a key from now on. Its batches go on. Raises Refused if there is no such key."""
    change_key(database, name, revoked_at=db_now())


def find_key(database: Database, secret: str) -> ApiKey | None:
    """Return the row of a key; None if it is unknown or revoked."""
    query = select(ApiKey).where(ApiKey.sha256 == _hash(secret), ApiKey.revoked_at.is_(None))
    with database.read() as transaction:
        row = transaction.execute(query).one_or_none()
    return None if row is None else ApiKey.of(row)


def _hash(secret: str) -> bytes:
    # A key has 256 random bits, so a slow hash would protect nothing more.
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


class FileWriter:
    """Writes a file into the store, block by block. It stays hidden until `publish`."""

    def __init__(self, database: Database, key: str, filename: str, purpose: str, **more: Any) -> None:
        self.id = new_id("file-")
        self.n_bytes = self.lines = 0
        self._database = database
        self._digest = hashlib.sha256()
        self._buffer = bytearray()
        self._n_blocks = 0
        values = {"key": key, "filename": filename, "purpose": purpose, "created_at": db_now(), "is_whole": False}
        database.write(
            lambda transaction: transaction.execute(
                transaction.insert(ApiFile)
                .values(id=self.id, n_bytes=0, lines=0, **values, **more)
                .on_conflict_do_nothing()
            )
        )

    def write(self, data: bytes) -> None:
        """Take more bytes of the file."""
        self._digest.update(data)
        self.n_bytes += len(data)
        self.lines += data.count(b"\n")
        self._buffer += data
        while len(self._buffer) >= BLOCK_BYTES:
            self._store(BLOCK_BYTES)

    def _store(self, size: int) -> None:
        values = {"file_id": self.id, "seq": self._n_blocks, "data": bytes(self._buffer[:size])}
        del self._buffer[:size]
        self._n_blocks += 1
        self._database.write(
            lambda transaction: transaction.execute(
                transaction.insert(ApiFileBlock).values(**values).on_conflict_do_nothing()
            )
        )

    def flush(self) -> str:
        """Store what is left, and return the SHA-256 of the whole in hexadecimal digits."""
        if self._buffer:
            self._store(len(self._buffer))
        return self._digest.hexdigest()

    def publish(self, transaction: Transaction, keep_s: float, **more: Any) -> None:
        """Show the file, once it was flushed. It is removed so many seconds after its begin."""
        more["expires_at"] = ApiFile.created_at + keep_s
        values = {"n_bytes": self.n_bytes, "lines": self.lines, "sha256": self._digest.hexdigest(), "is_whole": True}
        transaction.execute(update(ApiFile).where(ApiFile.id == self.id).values(**values, **more))

    def discard(self) -> None:
        """Remove what was written."""
        self._database.write(
            lambda transaction: transaction.execute(
                delete(ApiFile).where(ApiFile.id == self.id, ApiFile.is_whole.is_(False))
            )
        )


def add_file(
    database: Database, key: ApiKey, written: FileWriter, idempotency_key: str | None, keep_s: float
) -> ApiFile:
    """Publish an upload, or return the one that came with the idempotency key before. Raises Refused."""
    digest = written.flush()

    def work(transaction: Transaction) -> str:
        _lock_key(transaction, key)
        same = and_(ApiFile.key == key.name, ApiFile.is_whole, _came_with(ApiFile, idempotency_key))
        earlier = transaction.execute(select(ApiFile.id, ApiFile.sha256).where(same)).one_or_none()
        if earlier is not None and earlier.sha256 != digest:
            raise _other_arguments()
        if earlier is not None:
            return str(earlier.id)
        _check_bytes(transaction, key, written.n_bytes)
        written.publish(transaction, keep_s, idempotency_key=idempotency_key)
        return written.id

    file_id = database.write(work)
    if file_id != written.id:
        written.discard()
    return require(database, ApiFile, key, file_id)


def check_bytes(database: Database, key: ApiKey, n: int) -> None:
    """Raise Refused if a key may not store so many bytes more."""
    with database.read() as transaction:
        _check_bytes(transaction, key, n)


def _check_bytes(transaction: Transaction, key: ApiKey, n: int) -> None:
    if key.max_bytes is None:
        return
    stored = select(func.sum(ApiFile.n_bytes)).where(ApiFile.key == key.name, ApiFile.purpose == INPUT)
    if (used := int(transaction.scalar(stored) or 0)) + n > key.max_bytes:
        raise Refused(
            f"your key may store {key.max_bytes:,} bytes and has stored {used:,}; delete files that you need no more",
            "storage_limit_exceeded",
        )


def _lock_key(transaction: Transaction, key: ApiKey) -> None:
    """Requests of one key that change what it has take turns."""
    transaction.execute(transaction.for_update(select(ApiKey.name).where(ApiKey.name == key.name)))


def _came_with(table: type[ApiFile | ApiBatch], idempotency_key: str | None) -> ColumnElement[bool]:
    return false() if idempotency_key is None else table.idempotency_key == idempotency_key


def _other_arguments() -> Refused:
    return Refused("this Idempotency-Key came with another request before; use a new one", "idempotency_key_reused")


def _own(table: type[Entry], key: ApiKey) -> ColumnElement[bool]:
    if table is ApiFile:
        lives = or_(ApiFile.expires_at.is_(None), ApiFile.expires_at > db_now())
        return and_(ApiFile.key == key.name, ApiFile.is_whole, lives)
    return ApiBatch.key == key.name


def require(database: Database, table: type[Entry], key: ApiKey, entry_id: str) -> Entry:
    """Return a file or a batch of a key. Raises Refused if the key has none of this id."""
    with database.read() as transaction:
        row = transaction.execute(select(table).where(_own(table, key), table.id == entry_id)).one_or_none()
    if row is None:
        what, path = ("file", "/v1/files") if table is ApiFile else ("batch", "/v1/batches")
        raise Refused(f"your key has no {what} {entry_id!r}; {path} lists those that it has", "not_found")
    return table.of(row)


def list_page(
    database: Database,
    table: type[Entry],
    key: ApiKey,
    *,
    after: str | None,
    limit: int,
    oldest_first: bool = False,
    purpose: str | None = None,
) -> tuple[list[Entry], bool]:
    """Return up to `limit` files or batches of a key behind the one with the id `after`, and True if there are more.

    Raises Refused if the key has none of that id.
    """
    query = select(table).where(_own(table, key))
    if purpose is not None:
        query = query.where(ApiFile.purpose == purpose)
    if after is not None:
        mark = require(database, table, key, after)
        at, same = table.created_at, table.created_at == mark.created_at
        older = or_(at > mark.created_at, and_(same, table.id > mark.id))
        newer = or_(at < mark.created_at, and_(same, table.id < mark.id))
        query = query.where(older if oldest_first else newer)
    order = (table.created_at, table.id) if oldest_first else (table.created_at.desc(), table.id.desc())
    with database.read() as transaction:
        rows = transaction.execute(query.order_by(*order).limit(limit + 1)).all()
    return [table.of(row) for row in rows[:limit]], len(rows) > limit


def read_blocks(database: Database, file_id: str) -> Iterator[bytes]:
    """Yield the bytes of a file, block by block."""
    seq = 0
    while (data := _block(database, file_id, seq)) is not None:
        yield data
        seq += 1


def _block(database: Database, file_id: str, seq: int) -> bytes | None:
    query = select(ApiFileBlock.data).where(ApiFileBlock.file_id == file_id, ApiFileBlock.seq == seq)
    with database.read() as transaction:
        return transaction.scalar(query)


class StoredBytes(RawIOBase):
    """A stored file as a stream that cannot seek. `check` is called before each block, and may raise."""

    def __init__(self, database: Database, file_id: str, check: Callable[[], None] = lambda: None) -> None:
        self._blocks = read_blocks(database, file_id)
        self._check = check
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with what is left of a block."""
        if not self._left:
            self._check()
            self._left = memoryview(next(self._blocks, b""))
        n = min(len(buffer), len(self._left))
        buffer[:n], self._left = self._left[:n], self._left[n:]
        return n


def delete_file(database: Database, key: ApiKey, file_id: str) -> None:
    """Remove a file of a key. Raises Refused if there is none, or if an open batch needs it."""
    require(database, ApiFile, key, file_id)

    def work(transaction: Transaction) -> None:
        _lock_key(transaction, key)
        needed = select(ApiBatch.id).where(ApiBatch.input_file_id == file_id, ApiBatch.status.in_(OPEN))
        if (batch := transaction.scalar(needed.limit(1))) is not None:
            raise Refused(f"{batch} still reads this file; cancel the batch, or wait for its end", "file_in_use")
        _remove_file(file_id, transaction)

    database.write(work)


def remove_old(database: Database) -> None:
    """Remove expired files that no open batch needs, and what is left of uploads that were cut off."""
    needed = select(ApiBatch.id).where(ApiBatch.input_file_id == ApiFile.id, ApiBatch.status.in_(OPEN)).exists()
    cut_off = and_(ApiFile.is_whole.is_(False), ApiFile.created_at < db_now() - UNFINISHED_UPLOAD_S)
    expired = and_(ApiFile.expires_at < db_now(), ~needed)
    with database.read() as transaction:  # most often there is none; a read waits for no writer
        ids = transaction.scalars(select(ApiFile.id).where(or_(cut_off, expired)).limit(100)).all()
    for file_id in ids:
        database.write(partial(_remove_file, file_id))


def _remove_file(file_id: str, transaction: Transaction) -> None:
    transaction.execute(delete(ApiFile).where(ApiFile.id == file_id))


def create_batch(
    database: Database, key: ApiKey, arguments: Mapping[str, Any], window_s: float, idempotency_key: str | None
) -> ApiBatch:
    """Store a new batch, or return the one that came with the idempotency key before.

    `arguments` are columns of the batch. Raises Refused.
    """
    batch_id = new_id("batch_")

    def work(transaction: Transaction) -> str:
        _lock_key(transaction, key)
        same = and_(ApiBatch.key == key.name, _came_with(ApiBatch, idempotency_key))
        earlier = transaction.execute(select(ApiBatch).where(same)).one_or_none()
        if earlier is not None:
            if any(getattr(earlier, name) != value for name, value in arguments.items()):
                raise _other_arguments()
            return str(earlier.id)
        of_key = select(func.sum(ApiBatch.n_lines)).where(ApiBatch.key == key.name, ApiBatch.status.in_(OPEN))
        n_open = int(transaction.scalar(of_key) or 0)
        if key.max_requests is not None and n_open + arguments["n_lines"] > key.max_requests:
            raise Refused(
                f"your key may have {key.max_requests:,} open requests and has {n_open:,}; wait until a batch ends",
                "request_limit_exceeded",
            )
        if key.max_cost is not None and _spent(transaction, key) >= key.max_cost:
            raise Refused(AT_LIMIT, COST_LIMIT)
        now = transaction.execute(select(db_now())).scalar_one()
        row = transaction.insert(ApiBatch).values(
            id=batch_id,
            key=key.name,
            idempotency_key=idempotency_key,
            status=VALIDATING,
            times={},
            created_at=now,
            expires_at=now + window_s,
            weight=key.weight,
            cost=0.0,
            n_requests=0,
            n_completed=0,
            n_failed=0,
            ends_as=COMPLETED,
            **arguments,
        )
        transaction.execute(row.on_conflict_do_nothing())  # it is there if only the answer of the commit was lost
        return batch_id

    return require(database, ApiBatch, key, database.write(work))


def _spent(transaction: Transaction, key: ApiKey) -> float:
    return float(transaction.scalar(select(func.sum(ApiBatch.cost)).where(ApiBatch.key == key.name)) or 0.0)


def batches_with_limits(database: Database) -> list[tuple[ApiKey, ApiBatch]]:
    """Return the batches in progress of keys that have a limit of costs, each with its key."""
    limited = select(ApiKey).where(ApiKey.max_cost.is_not(None))
    with database.read() as transaction:
        keys = {key.name: ApiKey.of(key) for key in transaction.execute(limited)}
        query = select(ApiBatch).where(ApiBatch.status == IN_PROGRESS, ApiBatch.key.in_(keys))
        return [(keys[row.key], ApiBatch.of(row)) for row in transaction.execute(query)]


def note_cost(database: Database, key: ApiKey, batch: ApiBatch, cost: float) -> bool:
    """Note the cost of a batch so far. Return True, and tell its client, if its key has reached the limit."""
    ours = update(ApiBatch).where(ApiBatch.id == batch.id, ApiBatch.status == IN_PROGRESS)

    def work(transaction: Transaction) -> bool:
        _lock_key(transaction, key)
        transaction.execute(ours.values(cost=cost))
        is_over = key.max_cost is not None and _spent(transaction, key) >= key.max_cost
        if is_over:
            told = {
                "code": COST_LIMIT,
                "line": None,
                "message": f"{AT_LIMIT[0].upper()}{AT_LIMIT[1:]}.",
                "param": None,
            }
            transaction.execute(ours.values(errors=[told]))
        return is_over

    return database.write(work)


def cancel_batch(database: Database, key: ApiKey, batch_id: str) -> ApiBatch:
    """Ask for the end of a batch. Raises Refused if it has ended, or is about to."""
    changed = database.write(
        lambda transaction: move(
            transaction, batch_id, CANCELLING, (VALIDATING, IN_PROGRESS), ApiBatch.key == key.name
        )
    )
    batch = require(database, ApiBatch, key, batch_id)
    if not changed and batch.status not in {CANCELLING, CANCELLED}:
        raise Refused(f"the batch is {batch.status} and cannot be cancelled any more; read its files", "batch_ended")
    return batch


def move(
    transaction: Transaction,
    batch_id: str,
    status: str,
    before: Collection[str],
    condition: ColumnElement[bool],
    **values: Any,
) -> bool:
    """Give a batch another status, if it has one of those `before`. Return False if it has not."""
    there = select(ApiBatch.times, db_now().label("now")).where(
        ApiBatch.id == batch_id, ApiBatch.status.in_(before), condition
    )
    row = transaction.execute(transaction.for_update(there)).one_or_none()
    if row is None:
        return False
    changed = {"status": status, "times": {**row.times, status: row.now}, **values}
    transaction.execute(update(ApiBatch).where(ApiBatch.id == batch_id).values(**changed))
    return True


def due(database: Database) -> list[str]:
    """Return the ids of batches that can be carried on and that nobody holds, the oldest first.

    Jobs of theirs that are over are ended, for which workers take longer.
    """
    free = or_(ApiBatch.lease_until.is_(None), ApiBatch.lease_until < db_now())
    expired = (ApiBatch.expires_at < db_now()).label("is_expired")
    query = select(ApiBatch.id, ApiBatch.status, ApiBatch.plan, expired).where(ApiBatch.status.in_(OPEN), free)
    with database.read() as transaction:
        order = (ApiBatch.status == IN_PROGRESS, ApiBatch.created_at)  # of the others each has something to be done
        rows = transaction.execute(query.order_by(*order).limit(MOST_LOOKED_AT)).all()
        ids = [call["job"] for row in rows for call in (row.plan or {}).get("calls", ()) if "job" in call]
        going_on = {*transaction.scalars(select(Job.id).where(Job.id.in_(ids), Job.state.in_(UNFINISHED)))}
        is_open = and_(ShardCount.job_id.in_(going_on), ShardCount.state.in_(OPEN_SHARDS))
        computing = select(ShardCount.job_id).where(is_open).group_by(ShardCount.job_id)
        over = going_on.difference(transaction.scalars(computing.having(func.sum(ShardCount.n) > 0)))
    going_on -= {job_id for job_id in over if jobs.finish(database, job_id)}
    waits = {
        row.id
        for row in rows
        if row.status == IN_PROGRESS
        and not row.is_expired
        and any(call.get("job") in going_on for call in row.plan["calls"])
    }
    return [row.id for row in rows if row.id not in waits]


def hold(database: Database, batch_id: str, owner: str) -> ApiBatch | None:
    """Take a batch that nobody holds, and return it, with `is_expired`; None if another was first."""
    free = or_(ApiBatch.lease_until.is_(None), ApiBatch.lease_until < db_now(), ApiBatch.owner == owner)
    taken = update(ApiBatch).where(ApiBatch.id == batch_id, ApiBatch.status.in_(OPEN), free)
    taken = taken.values(owner=owner, lease_until=db_now() + LEASE_S)
    if database.write(lambda transaction: transaction.execute(taken).rowcount) == 0:
        return None
    with database.read() as transaction:
        is_expired = (ApiBatch.expires_at < db_now()).label("is_expired")
        return ApiBatch.of(transaction.execute(select(ApiBatch, is_expired).where(ApiBatch.id == batch_id)).one())


def renew(database: Database, batch: ApiBatch, owner: str) -> bool:
    """Renew the lease of a batch. Return False if it was lost, or if the batch has another status by now."""
    ours = update(ApiBatch).where(ApiBatch.id == batch.id, ApiBatch.owner == owner, ApiBatch.status == batch.status)
    kept = ours.values(lease_until=db_now() + LEASE_S)
    return bool(database.write(lambda transaction: transaction.execute(kept).rowcount))


def give_back(database: Database, batch_id: str, owner: str) -> None:
    """Let others take a batch at once."""
    free = update(ApiBatch).where(ApiBatch.id == batch_id, ApiBatch.owner == owner).values(lease_until=None)
    database.write(lambda transaction: transaction.execute(free))


def advance(
    database: Database, batch: ApiBatch, owner: str, status: str, files: Mapping[FileWriter, float], **values: Any
) -> None:
    """Give a held batch its next status, and show its files in the same transaction. Raises LeaseLost.

    `files` have the seconds for which each is kept.
    """

    def work(transaction: Transaction) -> bool:
        if not move(transaction, batch.id, status, (batch.status,), ApiBatch.owner == owner, **values):
            return False
        for file, keep_s in files.items():
            file.publish(transaction, keep_s)
        return True

    if not database.write(work):
        raise LeaseLost(f"{batch.id} was taken over by another, or cancelled")


def input_of(database: Database, batch: ApiBatch) -> ApiFile:
    """Return the file of a batch. Raises Refused if it is gone."""
    with database.read() as transaction:
        row = transaction.execute(select(ApiFile).where(ApiFile.id == batch.input_file_id)).one_or_none()
    if row is None:
        raise Refused(f"the input file {batch.input_file_id} is gone; upload it again", "no_input_file")
    return ApiFile.of(row)


def key_of_job(batch_id: str, number: int) -> str:
    """Return the idempotency key of a batch's job for its set of parameters with this number."""
    return f"{batch_id}#{number}"


def find_jobs(database: Database, batch_id: str, most: int) -> list[int]:
    """Return the jobs of a batch, which has at most so many; of one that is still validated, too."""
    keys = [key_of_job(batch_id, number) for number in range(1, most + 1)]
    with database.read() as transaction:
        return list(transaction.scalars(select(JobKey.job_id).where(JobKey.key.in_(keys)).order_by(JobKey.job_id)))


def count_requests(database: Database, batch: ApiBatch) -> tuple[int, int]:
    """Return the numbers of completed and of failed requests of a batch so far.

    While it is in progress they are in proportion to its texts, since equal requests are one text.
    """
    if batch.status not in {IN_PROGRESS, CANCELLING, FINALIZING} or not batch.jobs:
        return batch.n_completed, batch.n_failed
    of_jobs = and_(ShardCount.job_id.in_(batch.jobs), ShardCount.state != "split")
    sums = (func.sum(count) for count in (ShardCount.n_done, ShardCount.n_failed, ShardCount.n_contents))
    before = (func.sum(count) for count in (Step.n_prior_done, Step.n_prior_failed))
    with database.read() as transaction:
        shards = transaction.execute(select(*sums).where(of_jobs)).one()
        prior = transaction.execute(select(*before).where(Step.job_id.in_(batch.jobs))).one()
    done, failed, texts, prior_done, prior_failed = (int(n or 0) for n in (*shards, *prior))
    total = max(1, texts + prior_done + prior_failed)
    n_requests = batch.n_requests - batch.n_failed  # those that were not refused
    return n_requests * (done + prior_done) // total, batch.n_failed + n_requests * (failed + prior_failed) // total
