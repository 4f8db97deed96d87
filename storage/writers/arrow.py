"""Results as Arrow tables, by pyarrow (an extra): in memory, and for Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from docmill.storage.outputs.columns import Column, Form
from docmill.storage.writers.base import Row
from docmill.storage.writers.jsonl import dumped

if TYPE_CHECKING:
    import numpy as np
    from pyarrow import Array, DataType, Table


def array(form: Form, values: Sequence[Any], type_: DataType | None = None) -> Array:
    """Return a column's values as an array of a type, or of the form's."""
    import pyarrow as pa

    return pa.array([_value(form, value) for value in values], form.arrow() if type_ is None else type_)


def type_of(column: Column, rows: Sequence[Row]) -> DataType:
    """Return the type of a column with these rows. Vectors of one length are lists of fixed size."""
    import pyarrow as pa

    size = _size([column.value(row) for row in rows]) if column.form is Form.VECTOR else None
    return column.form.arrow() if size is None else pa.list_(pa.float32(), size)


def table(columns: Sequence[Column], rows: Sequence[Row]) -> Table:
    """Return a table of results. Vectors of one length are a list of fixed size."""
    import pyarrow as pa

    made = {}
    for column in columns:
        values = [column.value(row) for row in rows]
        fixed = _fixed(values) if column.form is Form.VECTOR else None
        made[column.name] = array(column.form, values) if fixed is None else fixed
    return pa.table(made)


def _fixed(vectors: Sequence[np.ndarray[Any, Any] | None]) -> Array | None:
    """Return vectors as lists of fixed size, and null where there is none; None unless all have one length."""
    import numpy as np
    import pyarrow as pa

    size = _size(vectors)
    if size is None:
        return None
    empty = np.zeros(size, np.float32)
    values = np.concatenate([empty if vector is None else vector for vector in vectors])
    lacking = pa.array([vector is None for vector in vectors])
    return pa.FixedSizeListArray.from_arrays(pa.array(values), size, mask=lacking)


def _size(vectors: Sequence[np.ndarray[Any, Any] | None]) -> int | None:
    """Return the length that all vectors have; None if they differ, or have windows, or if there is none."""
    shapes = {vector.shape for vector in vectors if vector is not None}
    return shape[0] if len(shapes) == 1 and len(shape := shapes.pop()) == 1 else None


def _value(form: Form, value: Any) -> Any:
    if value is None:
        return None
    if form is Form.JSON:
        return dumped(value).decode()
    return value.ravel() if form is Form.VECTOR else value
