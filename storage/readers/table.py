"""Read tables with programs in processes of their own, which ask for bytes and send rows.

Such a program opens no file: it asks for bytes, which are read here. This costs about 8 µs a row, little beside
storing the document (measured with 7 columns and 200 characters: 14 µs of CPU time in all, 6 without a process).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import orjson

from docmill.storage.readers.errors import BrokenStream, SourceError, SourceUnreadable
from docmill.storage.readers.records import Rejection, Row, Rows, SourceOptions, check_columns
from docmill.storage.readers.sandbox import Confined, Ended
from docmill.storage.readers.streams import Expansion

FRAME_BYTES = 2**20  # of rows; a longer row has a frame of its own


@dataclass(frozen=True)
class Program:
    """A module that reads tables, its arguments, and the error for an answer that refuses a table.

    The first answer is {"columns": [name, …]}, or is passed to `refused`. `environment` are variables that it may
    see. `advice` is for a user whose table ended the process before it was open.
    """

    module: str
    refused: Callable[[dict[str, Any]], SourceError]
    asked: dict[str, Any] = field(default_factory=dict)
    environment: frozenset[str] = frozenset()
    advice: str = ""


def rows(program: Program, stream: BinaryIO | None, name: str, options: SourceOptions) -> Rows:
    """Yield a table's rows in order. Damage loses the rest of its batch of rows.

    Raises FieldUnknown, the error of `refused`, SourceUnreadable if the process ends before it opened the table, and
    BrokenStream if it ends later.
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
                advice = f"; {program.advice}" if program.advice else ""
                raise SourceUnreadable(f"{name}: {error}{advice}") from error
            raise BrokenStream(str(error)) from error


def said(head: dict[str, Any], body: bytes, name: str) -> Iterator[Row | Rejection]:
    """Yield the rows in one frame of the process. Raises BrokenStream for a frame that ends the reading."""
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
    n_read, expansion = 0, Expansion("save it as JSON lines")
    while True:
        head, body = process.receive(options.max_record_bytes + FRAME_BYTES)
        if stream is not None:
            expansion.add(n_read, len(body), body.count(b"\n"))
        if (place := head.get("read")) is not None:
            assert stream is not None
            offset, n = place
            if offset is not None:
                stream.seek(offset)
            raw = stream.read(n)
            n_read += len(raw)
            process.send({}, raw)
        elif "end" in head:
            return
        else:
            yield head, body
