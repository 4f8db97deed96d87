"""Readers turn sources into documents, lazily and in constant memory, with a reason for every rejected record."""

from docmill.storage.readers.errors import (
    FieldUnknown,
    ReaderFailed,
    SourceError,
    SourceMissing,
    SourceUnsupported,
)
from docmill.storage.readers.files import Source
from docmill.storage.readers.records import Record, Rejection, Row, SourceOptions
from docmill.storage.readers.sources import open_queries, open_source

__all__ = [
    "FieldUnknown",
    "ReaderFailed",
    "Record",
    "Rejection",
    "Row",
    "Source",
    "SourceError",
    "SourceMissing",
    "SourceOptions",
    "SourceUnsupported",
    "open_queries",
    "open_source",
]
