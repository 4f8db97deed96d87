"""Files and folders for results: checked before any work is done for them, and written."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import click

from docmill.worker.cli.printing import say

if TYPE_CHECKING:
    from docmill.storage.outputs.columns import Column
    from docmill.storage.writers import Target

STDOUT = Path("-")


def check_out(
    out: Path | None, file_format: str | None = None, kinds: Sequence[str] | None = None, option: str = "--out"
) -> None:
    """Refuse a file that could not be written, before any work is done for it.

    ``kinds`` are those of the steps whose results it gets; None if they are not known yet. Messages name ``option``.
    """
    _check_kinds(target_of(out, file_format), kinds)
    if out is None or out == STDOUT:
        return
    folder = out.absolute().parent
    if not out.name:
        raise click.BadParameter("name a file", param_hint=option)
    if out.is_dir():
        raise click.BadParameter(f"{out} is a folder; name a file", param_hint=option)
    if out.exists() and not out.is_file():
        return  # a pipe or a device: whether it takes anything shows when it is written
    _check_writable(folder, option)


def check_folder(out: Path, file_format: str | None = None, kinds: Sequence[str] | None = None) -> None:
    """Refuse a folder that could take no parts, before any work is done for it. What is in it is looked at later."""
    target = target_of(out, file_format)
    if target is None:
        raise click.BadParameter("parts need a folder; name one", param_hint="--out")
    _check_kinds(target, kinds)
    if out.exists() and not out.is_dir():
        raise click.BadParameter(f"{out} is a file, and parts go into a folder", param_hint="--out")
    _check_writable(out if out.exists() else out.absolute().parent)


def _check_kinds(target: Target | None, kinds: Sequence[str] | None) -> None:
    """Refuse a format that has no place for the outputs of steps of these kinds."""
    from docmill.storage.writers.base import FormatUnfit
    from docmill.tasks.kinds import STORED_KINDS

    try:
        if target is not None and kinds is not None:
            target.writer.check_takes([STORED_KINDS[kind].output for kind in kinds])
    except FormatUnfit as error:
        raise click.BadParameter(str(error), param_hint="--out") from error


def _check_writable(folder: Path, option: str = "--out") -> None:
    """Refuse a folder that takes no new file."""
    if not folder.is_dir():
        raise click.BadParameter(f"there is no folder {folder}", param_hint=option)
    import tempfile

    try:
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        raise click.BadParameter(f"cannot write in {folder}: {error.strerror}", param_hint=option) from error


def target_of(out: Path | None, file_format: str | None) -> Target | None:
    """The file and its format, before any work is done for it; None for stdout and where nothing is written."""
    from docmill.storage.writers import Target, writer_for_stream
    from docmill.storage.writers.base import FormatUnfit

    try:
        if out is None and file_format is not None:
            raise FormatUnfit("--format is that of a file: name it with --out (- is stdout)")
        if out is None or out == STDOUT:
            writer_for_stream(file_format)
            return None
        return Target.of(out, file_format)
    except FormatUnfit as error:
        raise click.BadParameter(str(error), param_hint="--out") from error


def check_out_is_no_input(out: Path | None, file_format: str | None, source: str, *, parts: bool = False) -> None:
    """Refuse a file, or a folder of parts, that would replace the source or become one of its documents next time."""
    from docmill.storage.readers.patterns import Pattern, is_pattern
    from docmill.storage.readers.registry import document_suffixes
    from docmill.storage.readers.sources import path_of
    from docmill.storage.writers.parts_manifest import is_part

    target = target_of(out, file_format)
    read = path_of(source)
    if target is None or read is None:
        return
    pattern = Pattern(source) if is_pattern(source) else None
    read = read.resolve()
    written_paths = (target.part(0) if parts else target).paths
    for path in (written.resolve() for written in written_paths):
        if path == read:
            raise click.BadParameter(f"{path} is the source, which would be lost", param_hint="--out")
        within = path.is_relative_to(read) and path.suffix.lower() in document_suffixes()
        within = within or (path.parent == read and is_part(path.name))
        if within or (pattern is not None and pattern.matches(path)):
            raise click.BadParameter(
                f"{path} would be one of the source's documents the next time; name a file elsewhere",
                param_hint="--out",
            )


def write_out(
    out: Path,
    rows: Iterable[dict[str, Any]],
    file_format: str | None = None,
    documents: int | None = None,
    columns: Sequence[Column] = (),
    what: str = "results",
) -> int:
    """Write rows to a file, and say how many, or to stdout: as JSON lines, or in the given format. Return the number.

    ``documents`` is the most rows that there may be, for the progress of a file. ``what`` is what they are called.
    """
    from docmill.storage.writers import write_stream
    from docmill.storage.writers.base import FormatUnfit
    from docmill.worker import fault_points
    from docmill.worker.cli.show import WritingBar

    rows = fault_points.along("export", rows)
    target = target_of(out, file_format)
    if target is None:
        from docmill.worker.cli.stdout import Harmless

        harmless = Harmless(sys.stdout.buffer, file_format or "jsonl", sys.stdout.isatty())
        n = write_stream(rows, cast(BinaryIO, harmless), file_format, columns)
        sys.stdout.buffer.flush()
        return n
    try:
        with WritingBar() as shown:
            written = target.write(rows if documents is None else shown.along(rows, documents), columns)
        say(f"Wrote {written:,} {what} to {target}.")
        if written.remark:
            say(written.remark)
        return int(written)
    except FormatUnfit as error:
        raise click.BadParameter(str(error), param_hint="--out") from error
