"""Files of the clients of `docmill serve`, stored in blocks. A file is hidden until it is whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from typing import Self

from sqlalchemy import ColumnElement, ForeignKey, Index, UniqueConstraint, and_, delete, func, or_, select, update

from docmill.features.batch_server import keys
from docmill.features.batch_server.keys import ApiKey, Entry, Refused
from docmill.storage.core.database import Database
from docmill.storage.core.lookups import pages
from docmill.storage.core.schema import Base, column, db_now
from docmill.storage.core.transaction import Transaction
from docmill.storage.errors import StorageError

INPUT, OUTPUT = "batch", "batch_output"
BLOCK_BYTES = 2**20


class ApiFile(Entry):
    """A file of a key. It is hidden until it `is_whole`; `lines` counts a last line without a line end, too."""

    __tablename__ = "api_file"
    path, noun = "/v1/files", "file"
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

    @classmethod
    def is_shown(cls) -> ColumnElement[bool]:
        """Return the condition that a file is whole and has not expired."""
        return and_(cls.is_whole, or_(cls.expires_at.is_(None), cls.expires_at > db_now()))


class ApiFileBlock(Base):
    """A piece of a file. Every piece but the last has `BLOCK_BYTES`."""

    metadata = keys.METADATA
    __tablename__ = "api_file_block"
    file_id = column(str, ForeignKey("api_file.id", ondelete="CASCADE"), primary_key=True)
    seq = column(int, primary_key=True)
    data = column(bytes)


class FileWriter:
    """Writes a file into the store, block by block. It stays hidden until `publish`. It expires after `keep_s`.

    The end of a `with` block removes the file unless it was published.
    """

    def __init__(self, database: Database, key: str, filename: str, purpose: str, keep_s: float) -> None:
        self.id = keys.new_id("file-")
        self.n_bytes = self._line_ends = 0
        self._last = b"\n"
        self._database = database
        self._digest = hashlib.sha256()
        self._buffer = bytearray()
        self._n_blocks = 0
        self._keep_s = keep_s
        values = {"key": key, "filename": filename, "purpose": purpose, "created_at": db_now()}
        database.write(
            lambda transaction: transaction.execute(
                transaction.insert(ApiFile).values(id=self.id, **values).on_conflict_do_nothing()
            )
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # What cannot be removed now, `remove_old` removes.
        with suppress(StorageError):
            self._database.execute(delete(ApiFile).where(ApiFile.id == self.id, ApiFile.is_whole.is_(False)))

    def write(self, data: bytes) -> None:
        """Take more bytes of the file."""
        self._digest.update(data)
        self.n_bytes += len(data)
        self._line_ends += data.count(b"\n")
        self._last = data[-1:] or self._last
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
        """Store the last block, and return the file's SHA-256 in hexadecimal digits."""
        if self._buffer:
            self._store(len(self._buffer))
        return self._digest.hexdigest()

    def publish(self, transaction: Transaction, idempotency_key: str | None = None) -> None:
        """Show the file after its flush."""
        lines = self._line_ends + (self._last != b"\n")
        values = {"n_bytes": self.n_bytes, "lines": lines, "sha256": self._digest.hexdigest(), "is_whole": True}
        shown = update(ApiFile).where(ApiFile.id == self.id).values(idempotency_key=idempotency_key, **values)
        transaction.execute(shown.values(expires_at=ApiFile.created_at + self._keep_s))


def add_file(database: Database, key: ApiKey, written: FileWriter, idempotency_key: str | None) -> ApiFile:
    """Publish an upload, or return the file that an earlier request with the key made. Raises Refused."""
    digest = written.flush()

    def work(transaction: Transaction) -> str:
        earlier = keys.find_earlier(transaction, ApiFile, key, idempotency_key, {"sha256": digest})
        if earlier is not None:
            return earlier.id
        written.publish(transaction, idempotency_key)
        _check_bytes(transaction, key, 0)
        return written.id

    return keys.require(database, ApiFile, key, database.write(work))


def check_bytes(database: Database, key: ApiKey, n: int) -> None:
    """Raise Refused if a key may not store so many bytes more."""
    with database.read() as transaction:
        _check_bytes(transaction, key, n)


def _check_bytes(transaction: Transaction, key: ApiKey, n: int) -> None:
    if key.max_bytes is None:
        return
    stored = select(func.sum(ApiFile.n_bytes)).where(ApiFile.key == key.name, ApiFile.purpose == INPUT)
    if (needed := int(transaction.scalar(stored) or 0) + n) > key.max_bytes:
        raise Refused(
            f"your key may store {key.max_bytes:,} bytes, and with this file it would store {needed:,} bytes; "
            "delete files that you no longer need",
            "storage_limit_exceeded",
        )


def read_blocks(database: Database, file_id: str) -> Iterator[bytes]:
    """Yield the bytes of a file, block by block."""
    blocks = select(ApiFileBlock.seq, ApiFileBlock.data).where(ApiFileBlock.file_id == file_id)
    for block in chain.from_iterable(pages(database, blocks, ApiFileBlock.seq, 1, after=-1)):
        yield block.data
