"""Results on stdout without characters that a terminal would obey."""

from __future__ import annotations

import io
import re
from typing import BinaryIO

from worker.cli.formatting import printable

# JSON escapes the characters below U+0020 by itself. Terminals obey some of these as well, and JSON allows them.
_CONTROLS = re.compile("[\x7f-\x9f]")


def escaped(json: str) -> str:
    """Return the same JSON value with every control character written as an escape."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", json)


class Harmless(io.RawIOBase):
    """A stream for whole lines of JSON or CSV.

    JSON is escaped wherever it goes, since its value stays. CSV has no escapes, so it is changed only for a terminal.
    """

    def __init__(self, stream: BinaryIO, form: str, is_terminal: bool) -> None:
        self._stream = stream
        self._form = form
        self._is_terminal = is_terminal

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        if not self._form.startswith("csv"):
            return self._stream.write(escaped(data.decode()).encode())
        if self._is_terminal:
            return self._stream.write(printable(data.decode(), keep="\r\n\t").encode())
        return self._stream.write(data)

    def flush(self) -> None:
        self._stream.flush()
