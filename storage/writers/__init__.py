"""Write results to files, atomically and in constant memory, in the format that the file's name or the user sets."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

from docmill.storage.extras import PARQUET
from docmill.storage.features import load_by_name
from docmill.storage.outputs.columns import Column
from docmill.storage.writers import excel
from docmill.storage.writers.formats import (
    CSV,
    CSV_FOR_EXCEL,
    JSONL,
    NPY,
    FormatUnfit,
    Row,
    RowCount,
    Writer,
    whole_file,
)


def _write_parquet(rows: Iterable[Row], columns: Sequence[Column], file: BinaryIO) -> int:
    from docmill.storage.writers.arrow import write_parquet  # which loads pyarrow

    return write_parquet(rows, columns, file)


# Each format is a line here; features bring more. The first format is the default. If several have one suffix, a file
# with this suffix gets the first of them.
WRITERS: tuple[Writer, ...] = (
    JSONL,
    CSV,
    CSV_FOR_EXCEL,
    Writer("parquet", ".parquet", _write_parquet, title="Parquet", extra=PARQUET),
    excel.WRITER,
    NPY,
)
COMPRESSIONS = (".gz", ".zst")


def every_writer() -> tuple[Writer, ...]:
    """Return docmill's own writers and those of features. Raises StorageError."""
    return tuple(load_by_name("writers", Writer, WRITERS).values())


def names(*, any_output: bool = False) -> tuple[str, ...]:
    """Return the names of all formats; with `any_output`, of those for every type of output and for several steps."""
    return tuple(writer.name for writer in every_writer() if writer.takes is None or not any_output)


def suffixes(*, any_output: bool = False) -> tuple[str, ...]:
    """Return the suffixes of all formats, each once; with `any_output`, of those for every type of output."""
    return tuple(dict.fromkeys(writer.suffix for writer in every_writer() if writer.takes is None or not any_output))


def writer_of(name: str) -> Writer:
    """Return the writer of a format. Raises FormatUnfit."""
    for writer in every_writer():
        if writer.name == name:
            return writer
    raise FormatUnfit(f"docmill writes no {name} files; it writes {', '.join(names())}")


@dataclass(frozen=True)
class Target:
    """A file, or a folder of parts, with its writer and its compression ("", ".gz" or ".zst")."""

    path: Path
    writer: Writer
    compression: str = ""

    @classmethod
    def of(cls, path: Path, file_format: str | None = None) -> Target:
        """Return the target for a path. Without `file_format`, the suffix sets the format; the default is JSON lines.

        Raises FormatUnfit for another suffix, for a compression that the format does not take, and for a missing
        library.
        """
        endings = [suffix.lower() for suffix in path.suffixes]
        compression = endings.pop() if endings and endings[-1] in COMPRESSIONS else ""
        ending = endings[-1] if endings else ""
        named = next((writer for writer in every_writer() if writer.suffix == ending), None)
        writer = named or WRITERS[0] if file_format is None else writer_of(file_format)
        if named is not None and writer.suffix != named.suffix:
            raise FormatUnfit(f"{path.name} has the name of another format than {file_format}; change one of them")
        if file_format is None and named is None and ending and not path.is_dir():
            *first, last = suffixes()
            known = f"{', '.join(first)} or {last}"
            raise FormatUnfit(f"docmill writes no {ending} files: name one that ends in {known}, or set the format")
        if compression and not writer.lines:
            advice = f"leave {compression} out"
            raise FormatUnfit(f"{path.name}: {writer.name} files are not compressed once more; {advice}")
        if writer.extra is not None:
            writer.extra.require(writer.title, error=FormatUnfit)
        return cls(path, writer, compression)

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files that are written."""
        return (self.path,) if self.writer.beside is None else (self.path, self.writer.beside(self.path))

    def part(self, number: int) -> Target:
        """Return the target of one part of a folder."""
        name = f"part-{number:05}{self.writer.suffix}{self.compression}"
        return Target(self.path / name, self.writer, self.compression)

    def __str__(self) -> str:
        """Return the path for people, with the format if the name does not say it."""
        named = any(suffix.lower() == self.writer.suffix for suffix in self.path.suffixes)
        return str(self.path) if named else f"{self.path} ({self.writer.title})"

    def write(self, rows: Iterable[Row], columns: Sequence[Column] = ()) -> RowCount:
        """Write the rows. Return their number, with the writer's remark.

        A file is replaced only when the new file is complete. JSON lines need no columns. Raises FormatUnfit for a
        row that the format cannot hold, and OSError.
        """
        try:
            with ExitStack() as stack:
                files = [stack.enter_context(whole_file(path)) for path in self.paths]
                files[0] = stack.enter_context(_compressed(files[0], self.compression))
                n = self.writer.write(rows, columns, *files)
                return n if isinstance(n, RowCount) else RowCount(n)
        except FormatUnfit as error:
            raise FormatUnfit(f"{self.path.name}: {error}") from error


def writer_for_stream(file_format: str | None) -> Writer:
    """Return the writer of a format that a stream takes. Raises FormatUnfit."""
    writer = WRITERS[0] if file_format is None else writer_of(file_format)
    if not writer.lines:
        raise FormatUnfit(f"{writer.name} needs a file: name one with --out")
    return writer


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
