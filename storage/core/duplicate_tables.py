"""The tables of near duplicates: clusters of documents, and the signatures of texts that clusters are found by."""

from __future__ import annotations

from sqlalchemy import ForeignKey, Index

from storage.core.tables import Base, Json, column


class Deduplication(Base):
    """The last search for near duplicates in a corpus.

    `method` has its options (see `storage.duplicates.methods`). Documents up to `compared_to` that are in the corpus
    are compared with each other.
    """

    __tablename__ = "deduplication"
    corpus_id = column(int, ForeignKey("corpus.id", ondelete="CASCADE"), primary_key=True)
    method = column(Json)
    compared_to = column(int)
    n_documents = column(int)
    finished_at = column(float)


class Duplicate(Base):
    """A document of a cluster of near duplicates. `first_id` is the cluster's first document, which may be this one.

    `n_documents` is the number of documents in the cluster at the last search. A document without near duplicates has
    no row. The view `near_duplicates` has the documents that are in their corpus now, by their ids.
    """

    __tablename__ = "duplicate"
    document_id = column(int, ForeignKey("document.id", ondelete="CASCADE"), primary_key=True)
    corpus_id = column(int, ForeignKey("corpus.id", ondelete="CASCADE"))
    first_id = column(int)  # no foreign key: `storage.duplicates.promotion` keeps it up to date
    n_documents = column(int)

    __table_args__ = (Index("ix_duplicate_corpus_id_first_id", "corpus_id", "first_id"),)


class Signature(Base):
    """The MinHash signature of a text: a hash of each band, little-endian uint32.

    `recipe` is a hash of the options that it depends on. `n_shingles` is the size of the text's set of shingles.
    """

    __tablename__ = "signature"
    content_id = column(int, ForeignKey("content.id", ondelete="CASCADE"), primary_key=True)
    recipe = column(int, primary_key=True)
    bands = column(bytes)
    n_shingles = column(int)
