"""Errors of a source that cannot be read at all. A problem of one record is a Rejection, not an error.

SourceError (a StorageError)
├── SourceMissing        no such file or folder
├── SourceUnreadable     no rights, a pipe, a device, or not UTF-8
├── SourceUnsupported    it lacks a library, or what it needs to be read
│   └── KindUnknown      a kind of file that no reader takes
├── SourceEmpty          a folder without a document
└── FieldUnknown         no record has the field that was named, or two columns share a name
"""

from __future__ import annotations

from storage.errors import StorageError


class SourceError(StorageError):
    """The source cannot be read."""


class SourceMissing(SourceError):
    """There is no such file or folder."""


class SourceUnreadable(SourceError):
    """The source may not be read or is not a file."""


class SourceUnsupported(SourceError):
    """It cannot be read here, or not in this way."""


class KindUnknown(SourceUnsupported):
    """No reader takes this kind of file."""


class SourceEmpty(SourceError):
    """The folder holds no document."""


class FieldUnknown(SourceError):
    """No record has the field that was named."""
