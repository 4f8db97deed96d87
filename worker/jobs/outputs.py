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


def require_target(
    out: Path | None,
    file_format: str | None = None,
    *,
    source: str | None = None,
    parts: bool = False,
    name: str = "--out",
) -> Target:
    """Return the file that results go to, or the folder of their parts, with its format. Without a file it is stdout.

    Raises WorkerError, before any work is done, for a target that cannot be written, and for one that would replace
    the source or become one of its documents next time. Messages begin with ``name``.
    """
    target = _find_target(out, file_format, name)
    if target.path == STDOUT:
        if parts:
            raise WorkerError(f"{name}: parts need a folder; name one")
        return target
    (_check_folder if parts else _check_file)(target.path, name)
    if source is not None:
        _check_is_no_input(target.part(0) if parts else target, source, name)
    return target


def _find_target(out: Path | None, file_format: str | None, name: str) -> Target:
    try:
        if out is None and file_format is not None:
            raise FormatUnfit("--format is that of a file: name it with --out (- is stdout)")
        if out is None or out == STDOUT:
            return Target(STDOUT, writer_for_stream(file_format))
        return Target.of(out, file_format)
    except FormatUnfit as error:
        raise WorkerError(f"{name}: {error}") from error


def _check_file(file: Path, name: str) -> None:
    if not file.name:
        raise WorkerError(f"{name}: name a file")
    if file.is_dir():
        raise WorkerError(f"{name}: {file} is a folder; name a file")
    if file.exists() and not file.is_file():
        return  # a pipe or a device: only writing shows if it takes anything
    _check_writable(file.absolute().parent, name)


def _check_folder(folder: Path, name: str) -> None:
    if folder.exists() and not folder.is_dir():
        raise WorkerError(f"{name}: {folder} is a file, and parts go into a folder")
    _check_writable(folder if folder.exists() else folder.absolute().parent, name)


def _check_writable(folder: Path, name: str) -> None:
    """Refuse a folder that takes no new file."""
    if not folder.is_dir():
        raise WorkerError(f"{name}: there is no folder {folder}")
    try:
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        raise WorkerError(f"{name}: cannot write in {folder}: {error.strerror}") from error


def _check_is_no_input(target: Target, source: str, name: str) -> None:
    read = path_of(source)
    if read is None:
        return
    pattern = Pattern(str(read)) if is_pattern(str(read)) else None
    read = read.resolve()
    for path in (written.resolve() for written in target.paths):
        if path == read:
            raise WorkerError(f"{name}: {path} is the source, which would be lost")
        within = path.is_relative_to(read) and path.suffix.lower() in document_suffixes()
        within = within or (path.parent == read and is_part(path.name))
        if within or (pattern is not None and pattern.matches(path)):
            raise WorkerError(
                f"{name}: {path} would be one of the source's documents the next time; name a file elsewhere"
            )


def check_kinds(target: Target, kinds: Sequence[str]) -> None:
    """Refuse a format that has no place for the outputs of steps of these kinds. Raises WorkerError."""
    try:
        target.writer.check_takes([STORED_KINDS[kind].output for kind in kinds])
    except FormatUnfit as error:
        raise WorkerError(f"--out: {error}") from error


def check_takes_inputs(target: Target) -> None:
    """Refuse a format that has no place for the texts of documents. Raises WorkerError."""
    if target.writer.takes is not None:
        raise WorkerError(f"--with-input: {target.writer.name} has no place for texts; choose another format")
