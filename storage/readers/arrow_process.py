"""The process that reads an Arrow file.

It asks for the next bytes by {"read": [null, n]}. It answers {"columns": [name, …]}, or {"error"} for another kind of
file, and then sends rows. {"damaged": [first, last]} is a batch with invalid content. {"broken": why} means that the
rest cannot be read, and {"end"} is the end.
"""

from __future__ import annotations

import sys
from typing import Any, BinaryIO

from storage.readers.confinement import Needs
from storage.readers.records import SourceOptions
from storage.readers.sandbox import begin, confine, receive, send
from storage.readers.table_process import AskedFor, batch_rows, frames, load

_MAGIC = b"ARROW1\0\0"  # before the stream in a file with a footer


def main() -> None:
    begin(Needs())
    load()
    confine()
    asked = receive(sys.stdin.buffer)
    assert asked is not None
    head, _ = asked
    serve(AskedFor(None), SourceOptions(**head["options"]), sys.stdout.buffer)


class _Stream:
    """A source as pyarrow reads it, which knows if it has ended."""

    closed = False
    mode = "rb"

    def __init__(self, source: Any) -> None:
        self._source = source
        self._ahead: bytes = source.read(len(_MAGIC))
        if self._ahead == _MAGIC:
            self._ahead = b""
        self.ended = False

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        """Do nothing, since there is nothing to close."""

    def read(self, n: int = -1) -> bytes:
        ahead, self._ahead = self._ahead[:n], self._ahead[n:]
        data = ahead + (self._source.read(n - len(ahead)) if len(ahead) < n else b"")
        self.ended = len(data) < n
        return data


def serve(source: Any, options: SourceOptions, out: BinaryIO) -> None:
    from pyarrow import ipc

    try:
        stream = _Stream(source)
        reader = ipc.open_stream(stream)
        columns: list[str] = reader.schema.names
    except Exception as error:  # whatever the library raises on a file that it cannot read
        send(out, {"error": type(error).__name__})
        return
    send(out, {"columns": columns})
    given = 0
    while True:
        try:
            batch = reader.read_next_batch()
        except StopIteration:
            # pyarrow takes the end of the file for the end mark; then a file that was cut short would seem whole.
            send(out, {"broken": "the file ends before its end mark"} if stream.ended else {"end": True})
            return
        except Exception:  # as above
            send(out, {"broken": "the file is damaged"})
            return
        _send(batch, given, options, out)
        given += batch.num_rows


def _send(batch: Any, given: int, options: SourceOptions, out: BinaryIO) -> None:
    last = given + batch.num_rows
    try:
        _look_through(batch)
        step = batch_rows(batch.nbytes, batch.num_rows)
        for start in range(0, batch.num_rows, step):
            part = batch.slice(start, step)
            for frame in frames(part, given + 1, options):
                send(out, {}, frame)
            given += part.num_rows
    except Exception:  # as above
        send(out, {"damaged": [given + 1, last]})


def _look_through(batch: Any) -> None:
    """Raise if a length or an index leads out of its buffer. Bytes that are not UTF-8 are mended later."""
    import pyarrow

    as_binary = {pyarrow.string(): pyarrow.binary(), pyarrow.large_string(): pyarrow.large_binary()}
    for column in batch:
        kind = as_binary.get(column.type)
        column.validate()
        (column if kind is None else column.view(kind)).validate(full=True)


if __name__ == "__main__":
    main()
