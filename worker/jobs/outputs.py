"""Check the files and folders that results go to, before any work is done for them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from docmill.storage.readers.many_files import Pattern, is_pattern
from docmill.storage.readers.registry import document_suffixes
from docmill.storage.readers.sources import path_of
from docmill.storage.writers import Target, writer_for_stream
from docmill.storage.writers.formats import FormatUnfit
from docmill.storage.writers.parts_manifest import is_part
from docmill.tasks.kinds import STORED_KINDS
from docmill.worker.errors import WorkerError

STDOUT = Path("-")


def check_out(
    out: Path | None, file_format: str | None, kinds: Sequence[str] | None = None, name: str = "--out"
) -> None:
    """Refuse a file that could not be written, before any work is done for it.

    ``kinds`` are those of the steps whose results it gets; None if they are not known yet. Messages begin with
    ``name``.
    """
    _check_kinds(target_of(out, file_format, name), kinds, name)
    if out is None or out == STDOUT:
        return
    folder = out.absolute().parent
    if not out.name:
        raise WorkerError(f"{name}: name a file")
    if out.is_dir():
        raise WorkerError(f"{name}: {out} is a folder; name a file")
    if out.exists() and not out.is_file():
        return  # a pipe or a device: only writing shows if it takes anything
    _check_writable(folder, name)


def check_folder(
    out: Path, file_format: str | None = None, kinds: Sequence[str] | None = None, name: str = "--out"
) -> None:
    """Refuse a folder that could take no parts, before any work is done for it. Its files are checked later."""
    target = target_of(out, file_format, name)
    if target.path == STDOUT:
        raise WorkerError(f"{name}: parts need a folder; name one")
    _check_kinds(target, kinds, name)
    if out.exists() and not out.is_dir():
        raise WorkerError(f"{name}: {out} is a file, and parts go into a folder")
    _check_writable(out if out.exists() else out.absolute().parent, name)


def _check_kinds(target: Target, kinds: Sequence[str] | None, name: str) -> None:
    """Refuse a format that has no place for the outputs of steps of these kinds."""
    try:
        if kinds is not None:
            target.writer.check_takes([STORED_KINDS[kind].output for kind in kinds])
    except FormatUnfit as error:
        raise WorkerError(f"{name}: {error}") from error


def _check_writable(folder: Path, name: str) -> None:
    """Refuse a folder that takes no new file."""
    if not folder.is_dir():
        raise WorkerError(f"{name}: there is no folder {folder}")

    try:
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        raise WorkerError(f"{name}: cannot write in {folder}: {error.strerror}") from error


def target_of(out: Path | None, file_format: str | None, name: str = "--out") -> Target:
    """Return the file and its format. It is `-`, for stdout, also if no file is named. Raises WorkerError."""
    try:
        if out is None and file_format is not None:
            raise FormatUnfit("--format is that of a file: name it with --out (- is stdout)")
        if out is None or out == STDOUT:
            return Target(STDOUT, writer_for_stream(file_format))
        return Target.of(out, file_format)
    except FormatUnfit as error:
        raise WorkerError(f"{name}: {error}") from error


def check_with_input(out: Path | None, file_format: str | None, with_input: bool) -> None:
    """Refuse the texts of documents in a format that has no place for them. Raises WorkerError."""
    if not with_input:
        return
    if out is None:
        raise WorkerError("--with-input is for a file: name it with --out (- is stdout)")
    target = target_of(out, file_format)
    if target.writer.takes is not None:
        raise WorkerError(f"--with-input: {target.writer.name} has no place for texts; choose another format")


def check_out_is_no_input(
    out: Path | None, file_format: str | None, source: str, *, parts: bool = False, name: str = "--out"
) -> None:
    """Refuse a file, or a folder of parts, that would replace the source or become one of its documents next time."""
    target = target_of(out, file_format, name)
    read = path_of(source)
    if target.path == STDOUT or read is None:
        return
    pattern = Pattern(str(read)) if is_pattern(str(read)) else None
    read = read.resolve()
    written_paths = (target.part(0) if parts else target).paths
    for path in (written.resolve() for written in written_paths):
        if path == read:
            raise WorkerError(f"{name}: {path} is the source, which would be lost")
        within = path.is_relative_to(read) and path.suffix.lower() in document_suffixes()
        within = within or (path.parent == read and is_part(path.name))
        if within or (pattern is not None and pattern.matches(path)):
            raise WorkerError(
                f"{name}: {path} would be one of the source's documents the next time; name a file elsewhere"
            )
