"""The declaration of a format, and the formats that need no further library: JSON lines, CSV and NumPy's arrays.

CSV has a header line. Values other than texts are written as JSON, and no cell is one that a spreadsheet would
compute. Excel reads a CSV file in the machine's old encoding unless it begins with a byte order mark. Other programs
take the mark for a part of the first column's name, so only `csv-excel` has it.
"""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from traceback import clear_frames
from typing import Any, BinaryIO, TypeAlias

import orjson

from docmill.storage.errors import StorageError
from docmill.storage.extras import Extra
from docmill.storage.outputs.columns import Column
from docmill.storage.outputs.output_types import VECTOR, OutputType

Row: TypeAlias = Mapping[str, Any]  # a result as `storage.results.results` gives it
# Texts that a spreadsheet takes for a formula. Some ignore white space, quotes and invisible marks before it. An
# apostrophe counts too, so that a reader can tell the one that `escape_formula` adds from one in the text.
_FORMULA = re.compile(
    r"""[\s\x00-\x1f"'\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]*[=+@＝＋－＠﹦﹢﹣﹫-]|'*[\t\r\n]"""
)


class FormatUnfit(StorageError):
    """These results cannot be written in this format."""


class RowCount(int):
    """The number of written results, with a remark for the user if the file lacks a part of them."""

    remark: str

    def __new__(cls, results: int, remark: str = "") -> RowCount:
        made = super().__new__(cls, results)
        made.remark = remark
        return made


@dataclass(frozen=True)
class Writer:
    """A format: the name that `--format` takes, the suffix of its files, and the function that writes them.

    `write` gets the results, the columns of their table, and the open files. It returns the number of results (a
    `RowCount` if there is a remark), and raises FormatUnfit for a result that the format cannot hold. Files of
    `lines` can be compressed, and sent to a stream. `takes` are the types of outputs that it writes, of a single
    step; None is all types, and any number of steps. `extra` has the library that it needs. `beside` returns the path
    of a second file, which `write` gets after the first. `only_of` names the only command that has the format; None
    is any. Files `for_people` are opened in spreadsheets.
    """

    name: str
    suffix: str
    write: Callable[..., int]
    title: str = ""
    note: str = ""
    lines: bool = False
    takes: tuple[OutputType, ...] | None = None
    extra: Extra | None = None
    beside: Callable[[Path], Path] | None = None
    only_of: str | None = None
    for_people: bool = False

    def check_takes(self, outputs: Sequence[OutputType]) -> None:
        """Raise FormatUnfit unless this format has a place for the outputs of these steps."""
        if self.takes is not None and not (len(outputs) == 1 and outputs[0] in self.takes):
            names = " and ".join(output.plural for output in self.takes)
            raise FormatUnfit(f"only {names} are written as {self.title}, of one step")


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside the target, and rename it to the target when the block ends without an error.

    A link is followed. A pipe or a device is written to, never replaced. The new file gets the mode of the replaced
    file; otherwise only its user may read it.
    """
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    path = path.resolve()
    mode = path.stat().st_mode & 0o777 if path.exists() else None
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=".part")
    try:
        with open(handle, "w+b") as file:  # noqa: PTH123 - a descriptor, not a path
            try:
                yield file
            except BaseException as error:
                clear_frames(error.__traceback__)  # a library's writer in them ends now, and not with a closed file
                raise
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def to_json(value: object) -> bytes:
    """Return a value as JSON. Float32 numbers have as many digits as restore the same number."""
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
    for row in rows:
        file.write(to_json(row) + b"\n")
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
    """Write a byte order mark, and then CSV as `write_csv` does."""
    file.write(codecs.BOM_UTF8)
    return write_csv(rows, columns, file)


def write_csv(rows: Iterable[Row], columns: Sequence[Column], file: BinaryIO) -> int:
    """Write these columns as CSV (RFC 4180) in UTF-8. Without rows there is no header either."""
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


CSV = Writer("csv", ".csv", write_csv, title="CSV", lines=True, for_people=True)
CSV_FOR_EXCEL = Writer(
    "csv-excel",
    ".csv",
    write_csv_for_excel,
    title="CSV for Excel",
    note="is CSV with the byte order mark that Excel needs",
    lines=True,
    for_people=True,
)


def ids_path(path: Path) -> Path:
    """Return the path of the ids of vectors: `vectors.ids.jsonl` beside `vectors.npy`."""
    return path.with_name(f"{path.stem}.ids.jsonl")


def write_vectors(rows: Iterable[Row], _columns: Sequence[Column], file: BinaryIO, ids: BinaryIO) -> int:
    """Write a float32 array of shape (vectors, dim), and to `ids` a line {"id"} for each vector. Return the number of
    documents.

    If every window was kept, a line also has "window" ([start, end] in characters).
    """
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
