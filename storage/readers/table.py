"""Tables, read in sandboxed processes, and the messages between such a process and docmill.

It has no file: it asks for bytes, and they are read here. It costs some 8 µs a row (measured with 7 columns and 200
characters: 14 µs of processor time in all, against 6 without it), which is little beside storing the document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import orjson

from storage.readers.errors import SourceError, SourceUnreadable
from storage.readers.records import Rejection, Row, Rows, SourceOptions, check_columns
from storage.readers.sandbox import Confined, Ended
from storage.readers.streams import BrokenStream

FRAME_BYTES = 2**20  # of rows, or more where one row has more


@dataclass(frozen=True)
class Program:
    """A module that reads tables, what it is told, and what it means when it does not open one.

    Its first answer is {"columns": [name, …]}, or is given to `refused`. `environment` are variables that it may see.
    """

    module: str
    refused: Callable[[dict[str, Any]], SourceError]
    asked: dict[str, Any] = field(default_factory=dict)
    environment: frozenset[str] = frozenset()


def rows(program: Program, stream: BinaryIO | None, name: str, options: SourceOptions) -> Rows:
    """A table's rows in its order; damage costs the rest of the rows that it is among.

    Raises FieldUnknown, what `refused` gives, SourceUnreadable where the process ends before it opened the table, and
    BrokenStream where it ends later.
    """
    opened = False
    with closing(Confined(program.module, environment=program.environment)) as process:
        try:
            for head, body in _answers(process, program.asked, stream, options):
                if not opened:
                    if "columns" not in head:
                        raise program.refused(head)
                    check_columns(head["columns"], name, options)
                    opened = True
                yield from said(head, body, name)
        except (Ended, BrokenStream) as error:
            if not opened:
                raise SourceUnreadable(f"{name}: {error}") from error
            raise BrokenStream(str(error)) from error


def said(head: dict[str, Any], body: bytes, name: str) -> Iterator[Row | Rejection]:
    """The rows in one frame of the process. Raises BrokenStream where it says that there are no more."""
    if (broken := head.get("broken")) is not None:
        raise BrokenStream(broken)
    if (damaged := head.get("damaged")) is not None:
        first, last = damaged
        yield Rejection(f"{name}:{first}", f"the file is damaged: rows {first:,} to {last:,} cannot be read")
    for line in body.splitlines():
        number, fields, flags = orjson.loads(line)
        where = f"{name}:{number}"
        if isinstance(fields, str):
            yield Rejection(where, fields)
        else:
            yield Row(fields, number, where, tuple(flags), clean=b"\\u0000" not in line)


def _answers(
    process: Confined, asked: dict[str, Any], stream: BinaryIO | None, options: SourceOptions
) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Yield the process's answers about the table, and send it the bytes that it asks for. Raises Ended."""
    wanted = {
        "text_field": options.text_field,
        "meta_fields": options.meta_fields,
        "id_field": options.id_field,
        "max_record_bytes": options.max_record_bytes,
    }
    process.send(asked | {"options": wanted})
    while True:
        head, body = process.receive(options.max_record_bytes + FRAME_BYTES)
        if (place := head.get("read")) is not None:
            assert stream is not None
            offset, n = place
            if offset is not None:
                stream.seek(offset)
            process.send({}, stream.read(n))
        elif "end" in head:
            return
        else:
            yield head, body
