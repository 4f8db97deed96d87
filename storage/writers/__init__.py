"""Results as files: whole or not at all, in flat memory, in the format that the name or the user asks for."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import zstandard

from storage.errors import StorageError
from storage.export.manifest import stem
from storage.installation import install
from storage.writers import delimited, jsonl, parquet, vectors
from storage.writers.files import whole_file

Row = dict[str, Any]
Write = Callable[[Iterable[Row], BinaryIO], int]

FORMATS = ("jsonl", "csv", "csv-excel", "parquet", "npy")
_SUFFIXES = {".jsonl": "jsonl", ".csv": "csv", ".parquet": "parquet", ".npy": "npy"}
# Formats that are not written here; a file of such a name that held JSON lines would open nowhere.
_NOT_WRITTEN = frozenset(
    {".arrow", ".docx", ".feather", ".html", ".npz", ".ods", ".orc", ".pdf", ".pkl", ".tsv"}
    | {".xls", ".xlsx", ".xml", ".yaml", ".yml", ".zip", ".tar", ".bz2", ".xz", ".7z"}
)
_LINES: dict[str, Write] = {"jsonl": jsonl.write, "csv": delimited.write, "csv-excel": delimited.write_for_excel}


class FormatUnfit(StorageError):
    """These results cannot be written in this format."""


@dataclass(frozen=True)
class Target:
    """A file, or a folder of parts, a format and what compresses it ("", ".gz" or ".zst")."""

    path: Path
    format: str
    compression: str = ""

    @classmethod
    def of(cls, path: Path, asked: str | None = None) -> Target:
        """By the file's name, JSON lines where that says nothing, unless a format was asked for. Raises FormatUnfit
        for one that is not written here or does its own compression, and for a library that is not there."""
        suffixes = [suffix.lower() for suffix in path.suffixes]
        compression = suffixes.pop() if suffixes and suffixes[-1] in {".gz", ".zst"} else ""
        said = _SUFFIXES.get(suffixes[-1] if suffixes else "")
        if asked is not None and said is not None and _suffix(asked) != said:
            raise FormatUnfit(f"{path.name} has the name of another format than {asked}; change one of them")
        if asked is None and suffixes and suffixes[-1] in _NOT_WRITTEN:
            raise FormatUnfit(
                f"docmill writes no {suffixes[-1]} files: name one that ends in .jsonl, .csv, .parquet or .npy, "
                "or say --format"
            )
        name = asked or said or "jsonl"
        if compression and name not in _LINES:
            raise FormatUnfit(f"{path.name}: {name} files are not compressed once more; leave {compression} out")
        if name == "parquet" and not parquet.present():
            raise FormatUnfit(f"Parquet needs another library: {install('parquet')}")
        return cls(path, name, compression)

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files that are written."""
        return (self.path, vectors.ids_path(self.path)) if self.format == "npy" else (self.path,)

    def part(self, number: int) -> Target:
        """One of its parts, where it is a folder of them."""
        name = f"{stem(number)}.{_suffix(self.format)}{self.compression}"
        return Target(self.path / name, self.format, self.compression)

    def __str__(self) -> str:
        """For people: the file, and its format where its name does not say it."""
        named = any(suffix.lower().lstrip(".") == _suffix(self.format) for suffix in self.path.suffixes)
        return str(self.path) if named else f"{self.path} ({'JSON lines' if self.format == 'jsonl' else self.format})"

    def write(self, rows: Iterable[Row]) -> int:
        """Write the rows and say how many. What is replaced, is replaced by a whole file.

        Raises FormatUnfit where a row has no place in the format, OSError where the file cannot be written.
        """
        try:
            if self.format == "npy":
                with whole_file(self.path) as file, whole_file(vectors.ids_path(self.path)) as ids:
                    return vectors.write(rows, file, ids)
            if self.format == "parquet":
                with whole_file(self.path) as file:
                    return parquet.write(rows, file)
            with whole_file(self.path) as file, _compressed(file, self.compression) as stream:
                return _LINES[self.format](rows, stream)
        except vectors.NoVector as error:
            raise FormatUnfit(f"{self.path.name}: {error}") from error


def _suffix(name: str) -> str:
    """Return the ending of a format's file names: `csv` for `csv-excel`."""
    return name.partition("-")[0]


def write_stream(rows: Iterable[Row], stream: BinaryIO, asked: str | None = None) -> int:
    """Write the rows to an open stream, as JSON lines or CSV. Raises FormatUnfit for other formats."""
    name = asked or "jsonl"
    if name not in _LINES:
        raise FormatUnfit(f"{name} needs a file: name one with --out")
    return _LINES[name](rows, stream)


@contextmanager
def _compressed(file: BinaryIO, compression: str) -> Iterator[BinaryIO]:
    if compression == ".gz":
        # No name and no time: the same results are the same bytes.
        with gzip.GzipFile("", "wb", 6, file, mtime=0) as stream:
            yield cast(BinaryIO, stream)
    elif compression == ".zst":
        with zstandard.ZstdCompressor(level=6).stream_writer(file, closefd=False) as stream:
            yield cast(BinaryIO, stream)
    else:
        yield file
