"""The keys of `docmill serve`, with their limits, and the rows that each key has for itself.

A server keeps everything in tables of the store, so several may stand behind one address.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from sqlalchemy import ColumnElement, and_, literal, not_, or_, select, true, update

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Attribute, Base, Budget, column, db_now, new_metadata
from docmill.storage.core.transaction import Transaction
from docmill.storage.errors import StorageError

METADATA = new_metadata()  # of the tables of this feature
_OF_KEY = "key "


class Refused(StorageError):
    """A client's request is refused; the message says what to do. `code` names the reason for programs."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class ApiKey(Base):
    """A key of the server by its name; the key itself is stored as its SHA-256. A revoked key keeps its name.

    Jobs of its batches share the workers as one, in proportion to its `weight`, and have one budget. Its open batches
    have at most `max_requests` lines, and the files that it uploads at most `max_bytes`. NULL is no limit.
    """

    metadata = METADATA
    __tablename__ = "api_key"
    name = column(str, primary_key=True)
    sha256 = column(bytes, unique=True)
    weight = column(int, default=1)
    max_requests = column(int, nullable=True)
    max_bytes = column(int, nullable=True)
    created_at = column(float)
    revoked_at = column(float, nullable=True)

    max_cost: float | None
    spent: float


def budget_of(name: str) -> str:
    """Return the name of the budget of a key's batches, which is also their `sharer`."""
    return f"{_OF_KEY}{name}"


class Entry(Base):
    """The base class of tables whose rows belong to a key. Clients name them by their ids, and list them.

    `path` is the address of the list, and `noun` the word for a row.
    """

    metadata = METADATA
    path: ClassVar[str]
    noun: ClassVar[str]
    id: Attribute[str]
    key: Attribute[str]
    created_at: Attribute[float]
    idempotency_key: Attribute[str | None]

    @classmethod
    def is_shown(cls) -> ColumnElement[bool]:
        """Return the condition for a row that clients see."""
        return true()


OneEntry = TypeVar("OneEntry", bound=Entry)


def new_id(prefix: str) -> str:
    """Return an id that nobody can guess."""
    return prefix + secrets.token_hex(12)


def add_key(database: Database, name: str, max_cost: float | None = None, **limits: Any) -> str:
    """Store a new key and return it. Its name may never have been used. Raises Refused."""
    secret = f"sk-docmill-{secrets.token_urlsafe(32)}"

    def work(transaction: Transaction) -> bool:
        row = transaction.insert(ApiKey).values(name=name, sha256=_hash(secret), created_at=db_now(), **limits)
        if transaction.scalar(row.on_conflict_do_nothing().returning(ApiKey.name)) is None:
            # It is ours if only the answer of the commit was lost.
            return transaction.scalar(select(ApiKey.sha256).where(ApiKey.name == name)) == _hash(secret)
        transaction.execute(transaction.insert(Budget).values(name=budget_of(name), max_cost=max_cost))
        return True

    if not database.write(work):
        raise Refused(f"there is a key named {name}, or there was; choose another name", "name_taken")
    return secret


def list_keys(database: Database) -> list[ApiKey]:
    """Return all keys, the oldest first, with their `max_cost` and `spent`."""
    query = select(ApiKey, Budget.max_cost, Budget.spent).join(Budget, Budget.name == literal(_OF_KEY) + ApiKey.name)
    return [ApiKey.of(row) for row in database.rows(query.order_by(ApiKey.created_at))]


def is_limited(database: Database, name: str) -> bool:
    """Return True if a key has a limit for its total costs."""
    return database.value(select(Budget.max_cost).where(Budget.name == budget_of(name))) is not None


def change_key(database: Database, name: str, **values: Any) -> None:
    """Change limits of a key that is not revoked. Raises Refused if there is no such key."""
    of_budget = {limit: values.pop(limit) for limit in ("max_cost",) if limit in values}

    def work(transaction: Transaction) -> bool:
        active = select(ApiKey.name).where(ApiKey.name == name, ApiKey.revoked_at.is_(None))
        if transaction.scalar(transaction.for_update(active)) is None:
            return False
        if values:
            transaction.execute(update(ApiKey).where(ApiKey.name == name).values(**values))
        if of_budget:
            transaction.execute(update(Budget).where(Budget.name == budget_of(name)).values(**of_budget))
        return True

    if not database.write(work):
        raise Refused(f"there is no key named {name}, or it is revoked; `docmill keys list` lists them", "no_key")


def revoke_key(database: Database, name: str) -> None:
    """Refuse a key from now on. Its batches continue. Raises Refused if there is no such key."""
    change_key(database, name, revoked_at=db_now())


def find_key(database: Database, secret: str) -> ApiKey | None:
    """Return the row of a key; None if it is unknown or revoked."""
    query = select(ApiKey).where(ApiKey.sha256 == _hash(secret), ApiKey.revoked_at.is_(None))
    row = database.row(query)
    return None if row is None else ApiKey.of(row)


def _hash(secret: str) -> bytes:
    # A key has 256 random bits, so a slow hash would protect nothing more.
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def lock_key(transaction: Transaction, name: str) -> ApiKey:
    """Return a key, and lock it: requests that change the rows of one key must not run at the same time."""
    query = transaction.for_update(select(ApiKey).where(ApiKey.name == name))
    return ApiKey.of(transaction.execute(query).one())


def find_earlier(
    transaction: Transaction,
    table: type[OneEntry],
    key: ApiKey,
    idempotency_key: str | None,
    arguments: Mapping[str, Any],
) -> OneEntry | None:
    """Return the row that an earlier request with this idempotency key made. Other requests of the key wait.

    A row that clients no longer see loses its idempotency key. Raises Refused if the earlier `arguments` differ.
    """
    lock_key(transaction, key.name)
    if idempotency_key is None:
        return None
    same = and_(table.key == key.name, table.idempotency_key == idempotency_key)
    transaction.execute(update(table).where(same, not_(table.is_shown())).values(idempotency_key=None))
    row = transaction.execute(select(table).where(same)).one_or_none()
    if row is not None and any(row._mapping[name] != value for name, value in arguments.items()):
        raise Refused(
            "this Idempotency-Key came with another request before; use a new one", "idempotency_key_reused"
        )
    return None if row is None else table.of(row)


def _own(table: type[Entry], key: ApiKey) -> ColumnElement[bool]:
    return and_(table.key == key.name, table.is_shown())


def require(database: Database, table: type[OneEntry], key: ApiKey, entry_id: str) -> OneEntry:
    """Return a row of a key. Raises Refused if the key has no row of this id."""
    row = database.row(select(table).where(_own(table, key), table.id == entry_id))
    if row is None:
        raise Refused(f"your key has no {table.noun} {entry_id!r}; {table.path} lists those that it has", "not_found")
    return table.of(row)


def list_page(
    database: Database,
    table: type[OneEntry],
    key: ApiKey,
    *conditions: ColumnElement[bool],
    after: str | None,
    limit: int,
    oldest_first: bool = False,
) -> tuple[list[OneEntry], bool]:
    """Return up to `limit` rows of a key after the row with the id `after`, and True if there are more.

    Raises Refused if the key has no row of that id.
    """
    query = select(table).where(_own(table, key), *conditions)
    if after is not None:
        mark = require(database, table, key, after)
        at, same = table.created_at, table.created_at == mark.created_at
        older = or_(at > mark.created_at, and_(same, table.id > mark.id))
        newer = or_(at < mark.created_at, and_(same, table.id < mark.id))
        query = query.where(older if oldest_first else newer)
    order = (table.created_at, table.id) if oldest_first else (table.created_at.desc(), table.id.desc())
    rows = database.rows(query.order_by(*order).limit(limit + 1))
    return [table.of(row) for row in rows[:limit]], len(rows) > limit
