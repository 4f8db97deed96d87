"""Results as Arrow tables, by pyarrow (an extra): in memory, as Parquet, and from values as the store has them.

`ResultColumns` makes no Python object for each label, span or number: pyarrow reads the JSON of many rows at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import Array, DataType, Table, json, parquet

from docmill.storage.outputs.columns import Column, Form, OutputColumn
from docmill.storage.outputs.output_types import Output, OutputType
from docmill.storage.writers.formats import Row, to_json

_GROUP_ROWS, _GROUP_CHARS = 10_000, 64 * 2**20
Values = Sequence[Any]
_DATA = "data"


def array(form: Form, values: Sequence[Any], type_: DataType | None = None) -> Array:
    """Return a column's values as an array of a type, or of the form's."""
    return pa.array([_value(form, value) for value in values], form.arrow() if type_ is None else type_)


def type_of(column: Column, rows: Sequence[Row]) -> DataType:
    """Return the type of a column with these rows. Vectors of one length are lists of fixed size."""
    size = _size([column.value(row) for row in rows]) if column.form is Form.VECTOR else None
    return column.form.arrow() if size is None else pa.list_(pa.float32(), size)


def table(columns: Sequence[Column], rows: Sequence[Row]) -> Table:
    """Return a table of results. Vectors of one length are a list of fixed size."""
    return pa.table(
        {
            column.name: array(column.form, [column.value(row) for row in rows], type_of(column, rows))
            for column in columns
        }
    )


def _size(vectors: Sequence[np.ndarray[Any, Any] | None]) -> int | None:
    """Return the length that all vectors have; None if they differ, or have windows, or if there is none."""
    shapes = {vector.shape for vector in vectors if vector is not None}
    return shape[0] if len(shapes) == 1 and len(shape := shapes.pop()) == 1 else None


def _value(form: Form, value: Any) -> Any:
    if value is None:
        return None
    if form is Form.JSON:
        return to_json(value).decode()
    if form is Form.INTEGER:
        return value if -(2**63) <= value < 2**63 else None  # JSON has integers up to 2^64
    if form is Form.NUMBER:
        return float(value)  # pyarrow refuses whole numbers above 2^53
    return value.ravel() if form is Form.VECTOR else value


def write_parquet(rows: Iterable[Row], columns: Sequence[Column], file: BinaryIO) -> int:
    """Write one table; a column of JSON has that as its type, since each value may have other fields.

    The first rows decide if vectors are lists of fixed size.
    """
    groups = _groups(rows)
    group, n = next(groups, []), 0
    schema = pa.schema([(column.name, type_of(column, group)) for column in columns])
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        while group:
            arrays = [
                array(column.form, [column.value(row) for row in group], schema.field(number).type)
                for number, column in enumerate(columns)
            ]
            writer.write_table(pa.table(arrays, schema=schema))
            n += len(group)
            group = next(groups, [])
    return n


def _groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Yield the rows in groups that fit in memory, by the length of their texts."""
    group, n_chars = list[Row](), 0
    for row in rows:
        group.append(row)
        n_chars += sum(len(value) for value in row.values() if isinstance(value, str))
        if len(group) == _GROUP_ROWS or n_chars >= _GROUP_CHARS:
            yield group
            group, n_chars = [], 0
    if group:
        yield group


@dataclass(frozen=True)
class ResultColumns:
    """Results of a step as they are stored, column by column. JSON is text.

    `values` has `key`, `meta` and `document_flags` of the documents, and the columns of outcomes by their names.
    """

    task: str
    output: OutputType
    values: Mapping[str, Values]

    @property
    def size(self) -> int:
        return len(self.values["key"])

    def table(self, columns: Sequence[Column]) -> Table:
        """Return a table with these columns. Vectors are bytes (see `join_tables`)."""
        parsed = self._parsed(columns)
        return pa.table({column.name: self._array(column, parsed) for column in columns})

    def _array(self, column: Column, parsed: Table | None) -> Array:
        if not isinstance(column, OutputColumn):
            return pa.array(self._plain(column.name), column.form.arrow())
        place, *keys = column.stored or (None,)
        if place == _DATA and parsed is not None:
            return _at(parsed[str(keys[0])].combine_chunks(), keys[1:])
        if place is None or place == _DATA:
            return array(column.form, [column.value(result) for result in self._results])
        type_ = pa.large_binary() if column.form is Form.VECTOR else column.form.arrow()
        return pa.array(self.values[str(place)], type_)

    def _plain(self, name: str) -> Values:
        """Return a column that does not depend on the type of the outputs."""
        if name == "id":
            return self.values["key"]
        if name == "task":
            return [self.task] * self.size
        if name == "flags":
            return self._flags()
        if name == "meta":  # in the form of JSON lines, whatever the database made of it
            return [orjson.dumps(orjson.loads(text)).decode() for text in self.values[name]]
        return self.values[name]

    def _flags(self) -> list[list[str]]:
        """Return the flags of the documents and of their outputs. Few combinations exist, so each is read once."""
        # Joined texts, since Python's garbage collection does not look at texts as it does at tuples.
        both = [*map("\n".join, zip(self.values["document_flags"], self.values["flags"], strict=True))]
        read = {pair: [flag for flags in pair.split("\n") for flag in orjson.loads(flags)] for pair in {*both}}
        return [read[pair] for pair in both]

    @cached_property
    def _results(self) -> list[dict[str, Any]]:
        """Return the results as JSON lines have them, for columns that only `Column.value` can make."""
        rows = zip(*(self.values[name] for name in ("text", "vector", _DATA)), strict=True)
        return [
            self.output.result(Output(text, vector, None if data is None else orjson.loads(data)))
            for text, vector, data in rows
        ]

    def _parsed(self, columns: Sequence[Column]) -> Table | None:
        """Return a table of the JSON of outputs, as far as the columns need it; None if pyarrow cannot read it."""
        types = _types(columns)
        if not types:
            return None
        lines = "\n".join("{}" if line is None else line for line in self.values[_DATA]).encode()
        try:
            return json.read_json(
                pa.BufferReader(lines),
                read_options=json.ReadOptions(use_threads=False, block_size=len(lines) + 1),
                parse_options=json.ParseOptions(
                    explicit_schema=pa.schema(list(types.items())), unexpected_field_behavior="ignore"
                ),
            )
        except pa.ArrowInvalid:
            return None


def join_tables(tables: Sequence[Table], columns: Sequence[Column]) -> Table:
    """Return the tables of pages as one. Vectors of one length are lists of fixed size."""
    if not tables:
        return table(columns, [])
    whole = pa.concat_tables(tables)
    for number, name in enumerate(whole.column_names):
        if pa.types.is_large_binary(whole.schema.field(name).type):
            whole = whole.set_column(number, name, _vectors(whole[name]))
    return whole


def _types(columns: Sequence[Column]) -> dict[str, DataType]:
    """Return the types of the keys of `data` that columns read. A whole list is declared by its own column."""
    return {
        str(column.stored[1]): column.form.arrow()
        for column in columns
        if isinstance(column, OutputColumn) and column.stored[:1] == (_DATA,) and len(column.stored) == 2
    }


def _at(values: Array, keys: Sequence[str | int]) -> Array:
    """Return the values under keys of lists and structs; null if a list is too short."""
    for key in keys:
        if isinstance(key, str):
            values = pc.struct_field(values, key)
        else:
            places = pc.add(values.offsets[:-1], key)
            inside = pc.greater(pc.list_value_length(values), key)
            values = values.values.take(pc.if_else(inside, places, None))
    return values


def _vectors(blobs: Any) -> Any:
    """Return the bytes of vectors as lists, of fixed size if all have one length."""
    sizes = pc.unique(pc.drop_null(pc.binary_length(blobs))).to_pylist()
    if len(sizes) != 1:
        return pa.chunked_array([_lists(chunk) for chunk in blobs.chunks], Form.VECTOR.arrow())
    return pa.chunked_array([_fixed_from_bytes(chunk, sizes[0]) for chunk in blobs.chunks])


def _fixed_from_bytes(blobs: Any, size_bytes: int) -> Array:
    filled = pc.fill_null(blobs, bytes(size_bytes))
    values = pa.Array.from_buffers(pa.float32(), len(blobs) * size_bytes // 4, [None, filled.buffers()[2]])
    return pa.FixedSizeListArray.from_arrays(values, size_bytes // 4, mask=pc.is_null(blobs))


def _lists(blobs: Any) -> Array:
    vectors = [None if blob is None else np.frombuffer(blob, "<f4") for blob in blobs.to_pylist()]
    return pa.array(vectors, Form.VECTOR.arrow())
