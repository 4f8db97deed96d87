"""Results on stdout without characters that a terminal would obey."""

from __future__ import annotations

import io
import json
from typing import BinaryIO

from docmill.worker.cli.formatting import printable
from docmill.worker.logs import UNSEEN


def escaped(text: str) -> str:
    """Return the same value in JSON with the characters that a terminal would obey, or not show, as escapes.

    JSON has none below U+0020 but its own line ends and tabs.
    """
    return UNSEEN.sub(lambda match: match[0] if match[0] in "\r\n\t" else json.dumps(match[0])[1:-1], text)


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
