"""Trace a text in the store, to prove that it is gone: by its hash, and by its bytes in files."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
from sqlalchemy import ColumnElement, and_, func, or_, select, tuple_

from docmill.storage.core.database import Database
from docmill.storage.core.lookups import is_current_document
from docmill.storage.core.schema import Content, Corpus, Document, OutcomeRow, Prompt
from docmill.storage.core.transaction import Transaction
from docmill.storage.search import pgvector_index

SHOWN = 100  # documents named at most
PIECE = 64  # bytes of a text to search for in a file, since a page may end within the text
BLOCK = 1 << 20


@dataclass(frozen=True)
class Trace:
    """The places of a text in the store.

    `documents` are (corpus, id) of the first documents, in any version, whose text or prompt it is. Of these
    `vanished` are no longer in their source, and `superseded` have another text now. `outcomes` counts results
    computed from the text, `output_of` results whose output it is, and `indexed` its vectors in indexes. `remnants`
    are files that hold its bytes.
    """

    sha256: str
    stored: bool
    documents: tuple[tuple[str, str], ...] = ()
    outcomes: int = 0
    output_of: int = 0
    indexed: int = 0
    remnants: tuple[str, ...] = ()
    vanished: tuple[tuple[str, str], ...] = ()
    superseded: tuple[tuple[str, str], ...] = ()

    @property
    def is_nowhere(self) -> bool:
        return not self.stored and not self.remnants


def trace(database: Database, text: str, files: Sequence[Path] = ()) -> Trace:
    """Return the places of a text, normalized as when it is stored (see `storage.core.normalize`).

    The bytes of these files are searched, too.
    """
    sha256 = hashlib.sha256(text.encode()).digest()
    remnants = _remnants(files, text)
    with database.read() as transaction:
        content_id = transaction.scalar(select(Content.id).where(Content.sha256 == sha256))
        if content_id is None:
            return Trace(sha256.hex(), stored=False, remnants=remnants)
        prompted = select(Prompt.document_id).where(Prompt.content_id == content_id)
        holds_it = or_(Document.content_id == content_id, Document.id.in_(prompted))
        named = tuple(sorted(_named(transaction, holds_it)))
        here = {*_named(transaction, and_(holds_it, is_current_document()), named)}
        vanished = {*_named(transaction, and_(Document.superseded_by.is_(None), Document.gone), named)}
        outcomes, output_of = (
            transaction.scalar(select(func.count()).select_from(OutcomeRow).where(column == content_id)) or 0
            for column in (OutcomeRow.content_id, OutcomeRow.output_id)
        )
        indexed = _indexed(transaction, content_id)
    return Trace(
        sha256=sha256.hex(),
        stored=True,
        documents=named,
        outcomes=outcomes,
        output_of=output_of,
        indexed=indexed,
        remnants=remnants,
        vanished=tuple(document for document in named if document in vanished),
        superseded=tuple(document for document in named if document not in here and document not in vanished),
    )


def _named(
    transaction: Transaction, condition: ColumnElement[bool], among: Collection[tuple[str, str]] | None = None
) -> list[tuple[str, str]]:
    """Return (corpus, id) of the first documents that meet a condition, or of those among some that are given."""
    query = select(Corpus.name, Document.key).join(Corpus, Corpus.id == Document.corpus_id).where(condition)
    if among is not None:
        query = query.where(tuple_(Corpus.name, Document.key).in_(among))
    return [(row.name, row.key) for row in transaction.execute(query.distinct().limit(SHOWN))]


def _indexed(transaction: Transaction, content_id: int) -> int:
    """Return the number of the text's vectors in side tables, whose foreign keys leave none without the text."""
    tables = [pgvector_index.side_table(spec_id) for spec_id in pgvector_index.spec_ids(transaction)]
    counts = [select(func.count()).select_from(table).where(table.c.content_id == content_id) for table in tables]
    return sum(transaction.scalar(count) or 0 for count in counts)


def _remnants(files: Sequence[Path], text: str) -> tuple[str, ...]:
    """Return the files that hold the text's beginning, middle or end, perhaps in a free page, perhaps as JSON."""
    if not text:
        return ()
    pieces = set[bytes]()
    for form in (text.encode(), orjson.dumps(text)[1:-1]):
        places = (0, max(0, (len(form) - PIECE) // 2), max(0, len(form) - PIECE))
        pieces |= {form[place : place + PIECE] for place in places}
    return tuple(str(file) for file in files if _holds(file, pieces))


def _holds(file: Path, pieces: set[bytes]) -> bool:
    end = b""
    with file.open("rb") as stream:
        while block := stream.read(BLOCK):
            window = end + block
            if any(piece in window for piece in pieces):
                return True
            end = window[-PIECE:]
    return False
