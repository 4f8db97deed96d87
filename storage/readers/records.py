"""Rows, records and rejections, and the rules that turn a row of a file into a document."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import chain
from typing import Any, BinaryIO, NamedTuple

import orjson

from docmill.storage.core.normalize import normalize, normalize_json
from docmill.storage.readers.errors import FieldUnknown, SourceUnsupported
from docmill.storage.templates import is_messages

MAX_ID_BYTES = 2_000  # PostgreSQL's limit for one entry of an index is 2,704 bytes
MAX_FLOAT_ID = 2.0**53  # larger integers collide as 64-bit floats, and one document would replace another
MAX_FIELDS = 100_000
MAX_DEPTH = 100  # of nesting: far below the limits of Python and the databases
HEAD_ROWS = 100
_SHOWN_FIELDS = 20
_OPTIONS = {
    "encoding": "says itself how its texts are encoded",
    "sheet": "has no sheets",
    "header_row": "has no sheets",
    "ocr": "has no scanned pages",
}


@dataclass(frozen=True)
class SourceOptions:
    """Options of reading a source. A longer record than `max_record_bytes` is rejected and never held in memory.

    `meta_fields` are the fields that a prompt reads beside the text. `encoding` is Python's name for the encoding of
    texts without a byte order mark; None is UTF-8. `sheet` is the name of a workbook's sheet,
    `header_row` the number of its row with the names of the columns, and `ocr` has the languages of scanned pages.
    """

    text_field: str = "text"
    id_field: str = "id"
    meta_fields: tuple[str, ...] = ()
    limit: int | None = None
    max_record_bytes: int = 256 * 2**20
    encoding: str | None = None
    sheet: str | None = None
    header_row: int | None = None
    ocr: str | None = None
    one_of_many: bool = False  # one of a source's files: its ids are unique within it only


class KeyKind(IntEnum):
    """The origin of a key: an id that is a string or a number, or the record's place if it has no id."""

    STRING = 0
    NUMBER = 1
    PLACE = 2


@dataclass(frozen=True, slots=True)
class Record:
    """A document: its key, its text as it is stored, and its other fields as metadata.

    `where` is for messages, as `corpus.jsonl:17`: the line on which the record begins.
    """

    key: str
    text: str
    meta: dict[str, Any]
    flags: tuple[str, ...]
    where: str
    key_kind: KeyKind = dataclasses.field(default=KeyKind.STRING, compare=False)


@dataclass(frozen=True, slots=True)
class Rejection:
    """A record that cannot be a document, with the reason in one sentence and without its text.

    It could not be read, or a later record of the same id is read instead (`superseded`). After a `fatal` rejection
    the rest of the file could not be read. Pruning must know which documents the record may be: `keys` are their ids,
    and `below` is a file or folder that holds all of them. Without either it may be any.
    """

    where: str
    reason: str
    fatal: bool = False
    keys: tuple[str, ...] = dataclasses.field(default=(), compare=False)
    below: str | None = dataclasses.field(default=None, compare=False)
    superseded: bool = False


# A member of an archive: its name and bytes, its rejection, or the suffix of its name if its kind is not read.
Member = tuple[str, bytes] | Rejection | str


class Row(NamedTuple):
    """A record as it stands in its file, at the place `where`. A `clean` row has nothing to replace."""

    fields: dict[str, Any]
    where: str
    flags: tuple[str, ...]
    clean: bool


Rows = Generator[Row | Rejection, None, None]
RowReader = Callable[[BinaryIO, str, SourceOptions], Rows]


def document(row: Row, name: str, options: SourceOptions) -> Record | Rejection:
    """Return the row as a document. The row's fields are consumed."""
    fields, flags = row.fields, row.flags
    if not row.clean:
        fields, replaced = normalize_json(fields)
        flags += replaced
    if is_messages(fields.get(options.text_field)):
        fields[options.text_field] = orjson.dumps(fields[options.text_field]).decode()
    if not isinstance(fields.get(options.text_field), str):
        keys = keys_of(fields, name, row.where, options)
        return Rejection(row.where, _why_no_text(fields, options.text_field), keys=keys)
    text = fields.pop(options.text_field)
    key = fields.pop(options.id_field, None)
    if isinstance(key, float) and abs(key) >= MAX_FLOAT_ID:
        return Rejection(row.where, f'"{options.id_field}" is a number too large to be kept apart from its neighbors')
    if isinstance(key, bool) or not isinstance(key, int | float | str | None):
        return Rejection(row.where, f'"{options.id_field}" is {_kind(key)}, not a string or a number')
    key, kind = _key(key, name, row.where, options)
    if len(key) * 4 > MAX_ID_BYTES and len(key.encode()) > MAX_ID_BYTES:
        return Rejection(row.where, id_too_long(key))
    return Record(key, text, fields, flags, row.where, kind)


def keys_of(fields: Mapping[str, Any], name: str, where: str, options: SourceOptions) -> tuple[str, ...]:
    """Return the key of a record with these fields as a tuple; an empty one if it has no valid id."""
    key = fields.get(options.id_field)
    if isinstance(key, bool) or not isinstance(key, int | float | str | None):
        return ()
    return (_key(key, name, where, options)[0],)


def _key(key: float | str | None, name: str, where: str, options: SourceOptions) -> tuple[str, KeyKind]:
    if key is None or key == "":
        return where, KeyKind.PLACE
    kind = KeyKind.STRING if isinstance(key, str) else KeyKind.NUMBER
    return f"{name}#{key}" if options.one_of_many else str(key), kind


def find_missing_field(head: Sequence[Collection[str]], options: SourceOptions) -> FieldUnknown | None:
    """Return the error of a wanted field that all of the first records lack.

    The default `id` may be missing, since a record without an id gets its place. An id field that was named may not.
    """
    if not head:
        return None
    names = dict.fromkeys(chain.from_iterable(head))
    wanted = [("--text-field", options.text_field)]
    if options.id_field != SourceOptions.id_field:
        wanted.append(("--id-field", options.id_field))
    for option, field in wanted:
        if field not in names:
            there = quote_names(names)
            return FieldUnknown(f'no record has a field "{field}"; it has {there}: name one with {option}')
    for field in options.meta_fields:
        if field not in names:
            there = quote_names(name for name in names if name not in {options.text_field, options.id_field})
            return FieldUnknown(
                f'none of the first records has a field "{field}" for the prompt or question; there is {there}. '
                f"Where few records have it, write {{meta.{field}?}}, or {field}? with --messages"
            )
    return None


def without_metadata(name: str, options: SourceOptions) -> None:
    """Raise FieldUnknown if a prompt reads metadata of documents that have none."""
    if options.meta_fields:
        raise FieldUnknown(
            f"{name} has texts alone and no metadata; {{meta.{options.meta_fields[0]}}} in a prompt would be nothing"
        )


def refuse_options(source: str, options: SourceOptions, *taken: str) -> None:
    """Raise SourceUnsupported for an option of reading that has no meaning for a source; `taken` are those that have.

    One of many files may be of another kind than the option is for.
    """
    if options.one_of_many:
        return
    for name, why in _OPTIONS.items():
        if name not in taken and getattr(options, name) is not None:
            raise SourceUnsupported(f"{source} {why}: leave out --{name.replace('_', '-')}")


def check_columns(columns: Sequence[str], name: str, options: SourceOptions) -> None:
    """Raise FieldUnknown if a table lacks the text's column, or has too many columns, or two with one name."""
    if len(columns) > MAX_FIELDS:
        raise FieldUnknown(f"{name}: it has {len(columns):,} columns; up to {MAX_FIELDS:,} are read")
    if len(set(columns)) != len(columns):
        twice = [column for column, n in Counter(columns).items() if n > 1]
        raise FieldUnknown(f"{name}: more than one column is named {quote_names(sorted(twice))}")
    if columns[:1] == ["document"] and "remarks" in columns and options.id_field == SourceOptions.id_field:
        advice = "to read it, add --id-field document, and --text-field"
        raise FieldUnknown(f"{name}: docmill wrote this table for people; {advice}")
    wrong = find_missing_field([columns], options)
    if wrong is not None:
        raise FieldUnknown(f"{name}: {wrong}")


def quote_names(names: Iterable[str]) -> str:
    """Return field names for a message: quoted, normalized, and limited in number."""
    shown = [f'"{normalize(name)[0][:60]}"' for name in names]
    if not shown:
        return "none"
    more = f" and {len(shown) - _SHOWN_FIELDS} more" if len(shown) > _SHOWN_FIELDS else ""
    return ", ".join(shown[:_SHOWN_FIELDS]) + more


def id_too_long(key: str) -> str:
    return f"the id takes {len(key.encode()):,} bytes; at most {MAX_ID_BYTES:,} are stored"


def too_long(limit: int) -> str:
    return f"longer than {limit:,} bytes, the limit for one document"


def _why_no_text(fields: dict[str, Any], wanted: str) -> str:
    if wanted not in fields:
        return f'no field "{wanted}"; the record has {quote_names(fields)}'
    return f'"{wanted}" is {_kind(fields[wanted])}, not a string'


def _kind(value: object) -> str:
    names = {bool: "a boolean", int: "a whole number", float: "a fraction", list: "an array", dict: "an object"}
    return "null" if value is None else names.get(type(value), "of another type")
