"""Sources as documents: lazily, in flat memory, and with a reason for every record that is not one."""

from storage.readers.errors import (
    FieldUnknown,
    SourceEmpty,
    SourceError,
    SourceMissing,
    SourceUnreadable,
    SourceUnsupported,
)
from storage.readers.records import Record, Rejection, SourceOptions
from storage.readers.sources import Source, open_source

__all__ = [
    "FieldUnknown",
    "Record",
    "Rejection",
    "Source",
    "SourceEmpty",
    "SourceError",
    "SourceMissing",
    "SourceOptions",
    "SourceUnreadable",
    "SourceUnsupported",
    "open_source",
]
