"""Vectors as one array in NumPy's own format, which can be mapped into memory, and their ids beside it."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

from docmill.storage.outputs.columns import Column
from docmill.storage.outputs.output_types import VECTOR
from docmill.storage.writers.base import FormatUnfit, Row, Writer
from docmill.storage.writers.jsonl import dumped


def ids_path(path: Path) -> Path:
    """`vectors.npy` has its ids in `vectors.ids.jsonl`."""
    return path.with_name(f"{path.stem}.ids.jsonl")


def write(rows: Iterable[Row], _columns: Sequence[Column], file: BinaryIO, ids: BinaryIO) -> int:
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
            ids.write(dumped({"id": row["id"]} | ({"window": window} if window is not None else {})) + b"\n")
        n, n_vectors = n + 1, n_vectors + len(vectors)
    file.seek(0)
    file.write(_header(n_vectors, dim))
    return n


def _header(n_vectors: int, dim: int) -> bytes:
    """NumPy's header (format version 1.0). It leaves room for more rows, so all have one length."""
    import numpy as np

    made = io.BytesIO()
    shape = {"descr": "<f4", "fortran_order": False, "shape": (n_vectors, dim)}
    np.lib.format.write_array_header_1_0(made, shape)
    return made.getvalue()


WRITER = Writer("npy", ".npy", write, title=".npy", takes=(VECTOR,), beside=ids_path)
