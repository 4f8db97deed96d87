"""Results as a folder of parts, each a complete file, with a manifest.

The manifest is replaced after each part and has the place of the last document, so that an interrupted export
continues there. Only jobs that have ended are exported, so that no document of an earlier part is done later. When an
export continues, and when it ends, the fingerprints of the results tell if they have changed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

from sqlalchemy import func

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Document
from docmill.storage.errors import ExportBlocked, StorageError
from docmill.storage.outputs.columns import Column
from docmill.storage.results.results import DocumentPlace, Placed, columns, placed_results
from docmill.storage.results.status import JobStatus, read_status
from docmill.storage.steps import lineage
from docmill.storage.steps.conditions import Flagged
from docmill.storage.steps.jobs import require
from docmill.storage.steps.steps import find_named_way, find_way, read_steps
from docmill.storage.writers import Target
from docmill.storage.writers.formats import whole_file
from docmill.storage.writers.parts_manifest import (
    MOST_PARTS,
    NAME,
    Manifest,
    ManifestPart,
    PartFile,
    choose_manifest,
    find_leftovers,
    from_json,
    is_begun,
)

LOCK = ".lock"  # exists while a process writes

RowsAfter = Callable[[DocumentPlace | None], Iterator[Placed]]


class ExportProgress:
    """A listener to the progress of an export. This base class ignores everything."""

    def anew(self, why: str) -> None:
        """Hear that all parts are written anew, and the reason."""

    def checked(self, parts: int, of: int) -> None:
        """Hear the number of parts that were compared with the manifest, out of `of`."""

    def remarked(self, said: str) -> None:
        """Hear that a part lacks something of its results."""

    def along(self, rows: Iterator[Placed], before: int) -> Iterable[Placed]:
        """Yield the rows as they are written. `before` is the number of documents before them."""
        return rows


@dataclass(frozen=True)
class ExportedFolder:
    """A complete folder; `new` parts were written now, the others were there."""

    documents: int
    parts: int
    new: int


def export(
    database: Database,
    job_id: int,
    target: Target,
    part_documents: int,
    *,
    step: str | None = None,
    replaced: bool = False,
    progress: ExportProgress | None = None,
    flagged: Flagged | None = None,
) -> ExportedFolder:
    """Write the results of a job that has ended, or of one of its steps, in parts of `part_documents` documents.

    `flagged` is a condition on the results' flags. Parts that an earlier call wrote are kept. `replaced` permits it
    to replace another export's parts. Raises ExportBlocked, StorageError, FormatUnfit and OSError.
    """
    status = read_status(database, job_id)
    if not status.ended:
        raise ExportBlocked(
            f"job {job_id} is not finished ({status.pending:,} text{'s' * (status.pending != 1)} to do), and "
            f"parts would lack what comes: docmill status {job_id} --wait"
        )
    wanted = _make_manifest(status, step, target, part_documents, fingerprints(database, job_id, step))
    wanted = replace(wanted, flags=None if flagged is None else str(flagged))
    return write(
        target,
        wanted,
        lambda after: placed_results(database, job_id, step=step, after=after, flagged=flagged),
        columns(database, job_id, step),
        replaced=replaced,
        progress=progress,
        ending=lambda: _check_unchanged(database, wanted, step),
    )


def _make_manifest(
    status: JobStatus, step: str | None, target: Target, part_documents: int, results: dict[str, Any]
) -> Manifest:
    most = max(fingerprint["done"] for fingerprint in results.values())
    if most > part_documents * MOST_PARTS:
        least = -(-most // MOST_PARTS)
        raise StorageError(
            f"that would be {-(-most // part_documents):,} parts, more than {MOST_PARTS:,}; "
            f"put at least {least:,} documents into one"
        )
    return Manifest(
        job=status.id,
        corpus=status.corpus,
        created_at=status.created_at,
        step=status.steps[0].name if len(status.steps) == 1 else step,
        format=target.writer.name + target.compression,
        part_documents=part_documents,
        docmill=version("docmill"),
        specs={job_step.name: asdict(job_step.spec) for job_step in status.steps if job_step.name in results},
        results=results,
        job_state=status.state,
    )


def _check_unchanged(database: Database, wanted: Manifest, step: str | None) -> None:
    if not read_status(database, wanted.job).ended or fingerprints(database, wanted.job, step) != wanted.results:
        raise ExportBlocked(
            f"the results of job {wanted.job} changed while they were written (a retry or another job computes them, "
            "or some were removed): write them again when that is over, and all parts are written anew"
        )


def write(
    target: Target,
    wanted: Manifest,
    rows_after: RowsAfter,
    columns: Sequence[Column] = (),
    *,
    replaced: bool = False,
    progress: ExportProgress | None = None,
    ending: Callable[[], None] = lambda: None,
) -> ExportedFolder:
    """Write the parts that the folder lacks. `ending` is called before the manifest says that it is complete."""
    folder, progress = target.path, progress or ExportProgress()
    with _hold(folder):
        before = _read_manifest(folder)
        manifest, why_anew = choose_manifest(before, wanted, str(folder), replaced=replaced)
        sound = _find_sound(folder, manifest, progress)
        if manifest.docmill != wanted.docmill and not (manifest.complete and all(sound)):
            manifest, sound, why_anew = wanted, [], f"its parts are of docmill {manifest.docmill}"
        if why_anew is not None:
            progress.anew(why_anew)
        if manifest.complete and all(sound):
            return ExportedFolder(manifest.documents, len(manifest.parts), 0)
        manifest = replace(manifest, complete=False)
        _save(folder, manifest)
        for name in find_leftovers(_list_names(folder), manifest):  # after they are no longer listed
            (folder / name).unlink(missing_ok=True)
        new = 0
        for number, part in _write_lacking(target, manifest, sound, rows_after, columns, progress):
            manifest = manifest.with_part(number, part)
            _save(folder, manifest)
            new += 1
        ending()
        _save(folder, replace(manifest, complete=True))
    return ExportedFolder(manifest.documents, len(manifest.parts), new)


def _write_lacking(
    target: Target,
    manifest: Manifest,
    sound: list[bool],
    rows_after: RowsAfter,
    columns: Sequence[Column],
    progress: ExportProgress,
) -> Iterator[tuple[int, ManifestPart]]:
    """Write the parts that are damaged or not there yet, each with its number."""
    end: DocumentPlace | None = None
    before = number = 0
    rows: Iterator[Placed] | None = None  # of parts that follow one another
    while True:
        if number < len(sound) and sound[number]:
            part, rows = manifest.parts[number], None
        else:
            rows = iter(progress.along(rows_after(end), before)) if rows is None else rows
            made = _write_part(target.part(number), rows, columns, manifest.part_documents, progress)
            if made is None:
                return
            part = made
            yield number, part
        end, before, number = part.end, before + part.documents, number + 1


def _write_part(
    target: Target, rows: Iterator[Placed], columns: Sequence[Column], most: int, progress: ExportProgress
) -> ManifestPart | None:
    """Write the next rows as a part. Return None if there are no more rows."""
    first = next(rows, None)
    if first is None:
        return None
    last = first

    def through() -> Iterator[dict[str, Any]]:
        nonlocal last
        for last in chain([first], islice(rows, most - 1)):
            yield last[1]

    documents = target.write(through(), columns)
    if documents.remark:
        progress.remarked(f"{target.path.name}: {documents.remark}")
    files = tuple(PartFile(path.name, path.stat().st_size, _sha256(path)) for path in target.paths)
    return ManifestPart(files, int(documents), first[1]["id"], last[1]["id"], last[0])


def _find_sound(folder: Path, manifest: Manifest, progress: ExportProgress) -> list[bool]:
    """Return for each listed part True if its files are as they were written."""
    sound = []
    for part in manifest.parts:
        sound.append(all(_is_sound(folder / file.name, file) for file in part.files))
        progress.checked(len(sound), len(manifest.parts))
    return sound


def _is_sound(path: Path, file: PartFile) -> bool:
    return path.is_file() and path.stat().st_size == file.bytes and _sha256(path) == file.sha256


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _save(folder: Path, manifest: Manifest) -> None:
    with whole_file(folder / NAME) as file:
        file.write(manifest.to_json())


def _read_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of a folder; None for an empty folder. Raises StorageError for a folder of other files."""
    names = _list_names(folder)
    if NAME in names:
        manifest = from_json((folder / NAME).read_bytes()) if (folder / NAME).is_file() else None
        if manifest is None:
            raise StorageError(f"{folder / NAME} is none of docmill's; name another folder")
        return manifest
    if not all(is_begun(name) or name == LOCK for name in names):
        raise StorageError(f"{folder} has files in it and no {NAME}; name an empty folder, or one that is not there")
    return None


def _list_names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@contextmanager
def _hold(folder: Path) -> Iterator[None]:
    """Make the folder if need be, and hold it for this process alone. Raises StorageError and ExportBlocked."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except FileExistsError as error:
        raise StorageError(f"{folder} is a file, and parts go into a folder; name another") from error
    path = folder / LOCK
    with path.open("wb") as lock:
        _take(lock, path)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _take(lock: BinaryIO, path: Path) -> None:
    busy = f"{path.parent}: another process is writing parts there; wait for its end"
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ExportBlocked(busy) from error
    except OSError:  # a file system without locks
        return
    if not path.exists() or not os.path.samestat(path.stat(), os.fstat(lock.fileno())):
        raise ExportBlocked(busy)  # the other process ended, and removed the file after we had opened it


def fingerprints(database: Database, job_id: int, step: str | None = None) -> dict[str, dict[str, Any]]:
    """Return the fingerprint of a step's results, or those of all steps, by step name. Raises NotFound.

    It has the number of documents that are `done`, the time of the `latest` outcome, and the `last_document`.
    Outcomes that are done are never overwritten. So when results change, there are more (a retry succeeded), fewer
    (some were removed or dropped) or later ones (some were dropped and computed again).
    """
    job = require(database, job_id)
    by_step = {}
    with database.read() as transaction:
        steps = read_steps(transaction, job_id)
        for way in [find_way(steps, last) for last in steps] if step is None else [find_named_way(steps, step)]:
            query, outcome = lineage.select_done(job, way)
            numbers = (
                func.count().label("done"),
                func.max(outcome.created_at).label("latest"),
                func.max(Document.id).label("last_document"),
            )
            by_step[way[-1].name] = transaction.execute(query.add_columns(*numbers)).one()._asdict()
    return by_step
