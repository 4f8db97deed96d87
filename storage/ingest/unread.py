"""The part of a source that a reading could not read: documents that may lie in it have not vanished."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

_ENDS = re.compile(r"[#:/]")  # after a file's name in a key: a record's id or number, an archive's member


class Unread:
    """Records that were rejected, and files of kinds that were left out (`left_out`, by suffix).

    `first` is the place of the first rejection, and `unknown` that of the first one that may be any document. A
    source without any record `is_empty`.
    """

    def __init__(self) -> None:
        self.n_rejected = 0
        self.first: str | None = None
        self.unknown: str | None = None
        self.is_empty = False
        self.left_out: Mapping[str, int] = {}
        self._keys: set[str] = set()
        self._below: set[str] = set()

    def reject(self, place: str, keys: Collection[str] = (), below: str | None = None) -> None:
        """Note a rejection: the keys of the documents that it may be, or the file or folder that holds them."""
        self.n_rejected += 1
        self.first = self.first or place
        self._keys.update(keys)
        if below is not None:
            self._below.add(below)
        elif not keys:
            self.unknown = self.unknown or place

    def may_be_rejected(self, key: str) -> bool:
        """Return True if a rejection may be of the document with this key."""
        if self.unknown is not None or key in self._keys or key in self._below:
            return True
        return bool(self._below) and any(key[: end.start()] in self._below for end in _ENDS.finditer(key))

    def kind_left_out(self, key: str) -> str | None:
        """Return the suffix of files that were left out, if the document with this key may lie in such a file."""
        endings = {suffix for suffix in self.left_out if suffix.startswith(".")}
        names = [key, *(key[: end.start()] for end in _ENDS.finditer(key))] if endings else []
        return next((suffix for suffix in endings if any(name.endswith(suffix) for name in names)), None)
