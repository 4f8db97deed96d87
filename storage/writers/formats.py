"""The formats that need no further library: JSON lines, CSV for spreadsheets, and vectors as NumPy's own array.

CSV has a header line, other values than text as JSON, and no cell that a spreadsheet would compute. Excel takes a CSV
file for one in the machine's old encoding unless it begins with a byte order mark, which other programs take for a
part of the first column's name. So the mark is there only where it is asked for.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import orjson

from docmill.storage.outputs.columns import Column
from docmill.storage.outputs.output_types import VECTOR
from docmill.storage.writers.base import FormatUnfit, Row, Writer

# What spreadsheets take for a formula, also after white space, quotes and marks that nobody sees, which some of them
# take away. An apostrophe counts too: what `escape_formula` put before a text can be told from what was there.
_FORMULA = re.compile(
    r"""[\s\x00-\x1f"'\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]*[=+@＝＋－＠﹦﹢﹣﹫-]|'*[\t\r\n]"""
)


def json_lines(rows: Iterable[Row]) -> Iterator[bytes]:
    """Yield rows as JSON lines; float32 vectors with as many digits as bring the same float32 back."""
    for row in rows:
        yield to_json(row) + b"\n"


def to_json(value: object) -> bytes:
    """Return a value as JSON; vectors in it as lists."""
    import numpy as np

    if isinstance(value, dict):
        value = {
            key: np.ascontiguousarray(item) if isinstance(item, np.ndarray) else item for key, item in value.items()
        }
    elif isinstance(value, np.ndarray):
        value = np.ascontiguousarray(value)
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def write_jsonl(rows: Iterable[Row], _columns: Sequence[Column], file: BinaryIO) -> int:
    """Write a line for each row."""
    n = 0
    for line in json_lines(rows):
        file.write(line)
        n += 1
    return n


JSONL = Writer("jsonl", ".jsonl", write_jsonl, title="JSON lines", lines=True)


def escape_formula(text: str) -> str:
    """Return a text that no spreadsheet computes: an apostrophe before a formula makes it text."""
    return f"'{text}" if _FORMULA.match(text) else text


def unescape_formula(cell: str) -> str:
    """Return the text that `escape_formula` made this cell of."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell[1:]) else cell


def write_csv_for_excel(rows: Iterable[Row], columns: Sequence[Column], file: BinaryIO) -> int:
    """Write what `write_csv` does, with a byte order mark before it."""
    file.write(codecs.BOM_UTF8)
    return write_csv(rows, columns, file)


def write_csv(rows: Iterable[Row], columns: Sequence[Column], file: BinaryIO) -> int:
    """Write these columns as RFC 4180 says, in UTF-8. Without rows there is no header either."""
    # Not closed, since the file is not ours to close.
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    try:
        writer = csv.writer(text)
        n = 0
        for row in rows:
            if not n:
                writer.writerow([_cell(column.name) for column in columns])
            writer.writerow([_cell(column.value(row)) for column in columns])
            n += 1
        return n
    finally:
        text.detach()


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, int | float):
        return to_json(value).decode()
    return escape_formula(value if isinstance(value, str) else to_json(value).decode())


CSV = Writer("csv", ".csv", write_csv, title="CSV", lines=True)
CSV_FOR_EXCEL = Writer(
    "csv-excel",
    ".csv",
    write_csv_for_excel,
    title="CSV for Excel",
    note="is CSV with the byte order mark that Excel needs",
    lines=True,
)


def ids_path(path: Path) -> Path:
    """Return where the ids of vectors are: `vectors.ids.jsonl` beside `vectors.npy`."""
    return path.with_name(f"{path.stem}.ids.jsonl")


def write_vectors(rows: Iterable[Row], _columns: Sequence[Column], file: BinaryIO, ids: BinaryIO) -> int:
    """Write a float32 array of shape (vectors, dim), and a line for each vector: {"id"}, with "window" ([start, end]
    in characters) where every window was kept. Return how many documents there are."""
    import numpy as np

    n = n_vectors = dim = 0
    for row in rows:
        if "vector" not in row:
            raise FormatUnfit("these results have no vectors; only vectors are written as .npy")
        vectors = np.atleast_2d(np.asarray(row["vector"], dtype="<f4"))
        if not n:
            dim = vectors.shape[1]
            file.write(_header(0, dim))
        elif vectors.shape[1] != dim:
            raise FormatUnfit(f"vectors of {dim} and of {vectors.shape[1]} numbers are no one array")
        file.write(vectors.tobytes())
        windows = row.get("windows") or [None] * len(vectors)
        for window in windows:
            ids.write(to_json({"id": row["id"]} | ({"window": window} if window is not None else {})) + b"\n")
        n, n_vectors = n + 1, n_vectors + len(vectors)
    file.seek(0)
    file.write(_header(n_vectors, dim))
    return n


def _header(n_vectors: int, dim: int) -> bytes:
    """Return NumPy's header (format version 1.0). It leaves room for more rows, so all have one length."""
    import numpy as np

    made = io.BytesIO()
    shape = {"descr": "<f4", "fortran_order": False, "shape": (n_vectors, dim)}
    np.lib.format.write_array_header_1_0(made, shape)
    return made.getvalue()


NPY = Writer("npy", ".npy", write_vectors, title=".npy", takes=(VECTOR,), beside=ids_path)
