"""Several files as one source, and the rules for links among them: a folder, a pattern such as `data/**/*.jsonl`, and
a folder of parts that docmill wrote.
"""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import lru_cache, partial
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

from docmill.storage.readers.documents import NO_SUFFIX, DocumentReader, DocumentSource
from docmill.storage.readers.errors import (
    FieldUnknown,
    KindUnknown,
    SourceError,
    SourceUnsupported,
)
from docmill.storage.readers.files import FileSource, Source, SourceFile, on_disk, up_to
from docmill.storage.readers.records import Record, Rejection, SourceOptions, without_metadata
from docmill.storage.readers.registry import advise_extras, document_suffixes
from docmill.storage.readers.streams import is_folder, kind, open_regular, path_text
from docmill.storage.writers import parts_manifest

File = TypeVar("File")  # a path to open, or the bytes of a member of an archive
Walk: TypeAlias = Iterator[tuple[str, Path] | Rejection]  # names in keys and messages, and the paths to open
LEFT_OUT = (FieldUnknown, SourceUnsupported)  # such a file is left out, and is no rejection
# Written by docmill beside documents; the next run must not read them as documents.
_OF_RESULTS = frozenset(("task", "tokens_in", "tokens_out", "flags"))
Open = Callable[[SourceFile, SourceOptions], Source]
_ANY_DEPTH = "**"
_PARTS_GO_ON = "the `docmill results` command that began them writes what is missing"
_MOST_MANIFEST = 64 * 2**20  # more than a manifest with the most parts


class FilesSource(Source, Generic[File]):
    """The documents of several files in a fixed order, each read by the reader for its name.

    The key of a record is `path#id` (`one_of_many`), without an id `path:number`; that of a file which is one
    document is its path, and that of an archive's member `path/member`. A file that cannot be opened is a rejection.

    Raises SourceUnsupported if there is none, FieldUnknown for the first file, and the first file's error if none can
    be opened.
    """

    def __init__(
        self,
        name: str,
        options: SourceOptions,
        walk: Callable[[], Iterator[tuple[str, File] | Rejection]],
        open_file: Callable[[File, SourceOptions, str], Source],
    ) -> None:
        self.name = name
        self.ignored: Counter[str] = Counter()
        self.reasons: dict[str, str] = {}
        self._options = options
        self._walk = walk
        self._open_file = open_file
        self._bytes_before = 0
        self._current: Source | None = None
        self._check()

    @property
    def bytes_read(self) -> int:
        return self._bytes_before + (self._current.bytes_read if self._current else 0)

    def records(self) -> Iterator[Record | Rejection]:
        self.ignored.clear()
        self.reasons.clear()
        self._bytes_before, self._current = 0, None
        return up_to(self._options.limit, self._items())

    def _items(self) -> Iterator[Record | Rejection]:
        with closing(DocumentReader(self._options)) as self._documents:
            for entry in self._walk():
                if isinstance(entry, Rejection):
                    yield entry
                    continue
                try:
                    yield from self._read(*entry)
                except SourceError as error:
                    yield from self._refuse(entry[0], error)

    def _read(self, path: str, file: File) -> Iterator[Record | Rejection]:
        """Yield the records of one file."""
        source = self._open_file(file, self._options, path)
        if isinstance(source, DocumentSource):
            source.reader = self._documents  # else each document would start a process
        self._bytes_before, self._current = self.bytes_read, source
        try:
            for item in source.records():
                yield self._within(path, item) if isinstance(item, Rejection) else item
        finally:  # also if the limit is reached within this file
            self.ignored.update(source.ignored)
            for suffix, reason in source.reasons.items():
                self.reasons.setdefault(suffix, reason)

    def _refuse(self, path: str, error: SourceError) -> Iterator[Rejection]:
        """Yield the rejection of a file that cannot be opened, or count it."""
        if isinstance(error, KindUnknown):
            self.ignored[Path(path).suffix or NO_SUFFIX] += 1
        else:
            yield self._within(path, Rejection(path_text(path), str(error), fatal=True))

    def _within(self, path: str, rejection: Rejection) -> Rejection:
        """Return the rejection together with its file, which tells pruning the documents it may be."""
        if not self._options.one_of_many or rejection.keys or rejection.below is not None:
            return rejection
        return replace(rejection, below=path_text(path))

    def _check(self) -> None:
        """Open the first readable file, so that a wrong field name is found before a job is made."""
        refused: SourceError | None = None
        for entry in self._walk():
            if isinstance(entry, Rejection):
                continue
            try:
                self._open_file(entry[1], self._options, entry[0])
            except FieldUnknown:
                raise
            except SourceError as error:
                refused = refused or error
            else:
                return
        raise refused or SourceUnsupported(f"no file matches {self.name}")


def is_hidden(name: str) -> bool:
    """Return True for a name that no source reads: hidden, a lock of Office, or a folder that macOS adds to zips."""
    return (name.startswith((".", "~$")) and name not in {".", ".."}) or name == "__MACOSX"


def without_results(source: Source) -> Source:
    """Return the source of one of many files. Raises SourceUnsupported for results that docmill wrote."""
    if isinstance(source, FileSource) and source.fields >= _OF_RESULTS:
        raise SourceUnsupported("it holds results that docmill wrote; to read them name the file")
    return source


def with_file(path: str, error: SourceError) -> SourceError:
    """Return the error with the name of its file."""
    said = str(error)
    return error if Path(path).name in said else type(error)(f"{path_text(path)}: {said}")


def within(root: Path, path: str) -> tuple[str, Path] | Rejection:
    """Return the file that a link leads to, or the reason why it is not opened."""
    where = path_text(path)
    try:
        target = (root / path).resolve(strict=True)
        mode = target.stat().st_mode
    except (OSError, RuntimeError):
        return Rejection(where, "a link that leads nowhere", below=where)
    if not target.is_relative_to(root):
        return Rejection(where, "a link that leads out of the folder", below=where)
    if stat.S_ISDIR(mode):
        return Rejection(where, "a link to a folder; links to folders are not followed", below=where)
    if not stat.S_ISREG(mode):
        return Rejection(where, f"{kind(mode)}, not a file", below=where)
    return path, target


class MixedSource(FilesSource[File], ABC):
    """Files of documents and of records: those of a folder, or the members of an archive.

    `ignored` also counts files of records without the text and files whose library is missing; `reasons` has the
    reasons. Raises SourceUnsupported if there is no document, and FieldUnknown if there are only records that lack a
    field.
    """

    @abstractmethod
    def _is_document(self, path: str) -> bool:
        """Return True for a file that is one document."""

    @abstractmethod
    def _read_document(self, path: str, file: File) -> Record | Rejection:
        """Return the document of a file."""

    @abstractmethod
    def _say_nothing_is_read(self) -> str:
        """Return a message that no file can be read."""

    def _check(self) -> None:
        """Look for a file that can be read, and raise the reason if there is none."""
        refused: SourceError | None = None
        for entry in self._walk():
            if isinstance(entry, Rejection):
                return
            path, file = entry
            if self._is_document(path):
                without_metadata(self.name, self._options)
                return
            try:
                self._open_file(file, self._options, path)
            except SourceError as error:
                if isinstance(error, FieldUnknown) and self._options.meta_fields:
                    raise
                refused = refused or with_file(path, error)
            else:
                return
        raise refused or SourceUnsupported(self._say_nothing_is_read())

    def _read(self, path: str, file: File) -> Iterator[Record | Rejection]:
        if not self._is_document(path):
            yield from super()._read(path, file)
            return
        before = self._documents.bytes_read
        item = self._read_document(path, file)
        self._bytes_before, self._current = self.bytes_read + self._documents.bytes_read - before, None
        yield item

    def _refuse(self, path: str, error: SourceError) -> Iterator[Rejection]:
        # A prompt that reads metadata gets every field of it, or the file is rejected.
        if isinstance(error, LEFT_OUT) and not (isinstance(error, FieldUnknown) and self._options.meta_fields):
            suffix = Path(path).suffix
            self.ignored[suffix] += 1
            self.reasons.setdefault(suffix, str(with_file(path, error)))
        else:
            yield from super()._refuse(path, error)


class FolderSource(MixedSource[Path]):
    """The documents below `root`, in the order of their paths, listed one folder at a time.

    `reader_of` returns the reader for a file's name, if there is one. Hidden files and folders are skipped
    (`is_hidden`). A link that leads out of the root, a link to a folder, a pipe, a socket and a device are rejected
    and never opened.
    """

    def __init__(self, root: Path, options: SourceOptions, reader_of: Callable[[str], Open | None]) -> None:
        self._root = root.resolve()
        self._reader_of = reader_of
        self._suffixes = document_suffixes()
        entries = partial(walk, self._root, self._selects)
        super().__init__(path_text(self._root), replace(options, one_of_many=True), entries, self._open)

    def _is_document(self, path: str) -> bool:
        return Path(path).suffix.lower() in self._suffixes

    def _read_document(self, path: str, file: Path) -> Record | Rejection:
        # Links were resolved before and are not followed again, since they may have changed.
        return self._documents.read(path, partial(open_regular, file, follow=False))

    def _say_nothing_is_read(self) -> str:
        others = ", ".join(f"{n} {suffix}" for suffix, n in self.ignored.most_common(5))
        return (
            f"no {', '.join(self._suffixes)}, .jsonl, .csv, .zip or other files in {self.name} that are read"
            + (f" (it has {others})" if others else "")
            + advise_extras(self.ignored)
        )

    def _open(self, file: Path, options: SourceOptions, path: str) -> Source:
        content = on_disk(file, path, follow=False)
        reader = self._reader_of(Path(path).name)
        assert reader is not None
        return without_results(reader(content, options))

    def _selects(self, path: str, is_folder: bool) -> bool:
        name = path.rpartition("/")[2]
        if is_hidden(name):
            return False
        if is_folder or self._is_document(name) or self._reader_of(name) is not None:
            return True
        self.ignored[Path(name).suffix or NO_SUFFIX] += 1
        return False


def walk(root: Path, selects: Callable[[str, bool], bool]) -> Walk:
    """Yield each selected file's path below a folder and the path to open, in the order of the paths.

    `selects(path, is_folder)` returns True for a file to read, and for a folder to look into. One folder is listed at
    a time. Raises SourceError for the root itself.
    """
    folders = [_list(root, "", selects)]
    while folders:
        entry = next(folders[-1], None)
        if entry is None:
            folders.pop()
        elif isinstance(entry, str):
            folders.append(_list(root, entry, selects))
        else:
            yield entry


def _list(
    root: Path, below: str, selects: Callable[[str, bool], bool]
) -> Iterator[str | tuple[str, Path] | Rejection]:
    """Yield the selected entries of one folder (`""` or `a/b/`), sorted: folders by name, files with their path."""
    listing: list[tuple[str, bool]] = []  # a million names take about 100 MB; DirEntry objects take far more
    try:
        with os.scandir(root / below) as entries:
            for entry in entries:
                folder = entry.is_dir(follow_symlinks=False)
                if selects(below + entry.name, folder or (entry.is_symlink() and is_folder(Path(entry.path)))):
                    # With a slash, so that a folder sorts as its documents' paths do.
                    name = entry.name + "/" if folder else entry.name
                    listing.append((name, entry.is_file(follow_symlinks=False)))
    except OSError as error:
        if not below:
            raise SourceError(f"{path_text(root)}: {error.strerror}") from error
        where = path_text(below)
        yield Rejection(where, f"the folder cannot be read: {error.strerror}", below=where.rstrip("/"))
    for name, is_plain in sorted(listing):
        path = below + name
        if name.endswith("/"):
            yield path
        else:
            yield (path, root / path) if is_plain else within(root, path)


def is_pattern(source: str) -> bool:
    """Return True if `*`, `?` or `[` make the source a pattern: no file has this name."""
    return _special(source) and not os.path.lexists(source) and _wildcard(_parts(source)) is not None


class Pattern:
    """A path with `*`, `?` and `[…]` within a name, and `**` for folders at any depth, or none.

    Only a name with a leading dot in the pattern matches one in the path. `root` is the folder before the first name
    with a wildcard.
    """

    def __init__(self, source: str) -> None:
        parts = _parts(source)
        fixed = _wildcard(parts)
        assert fixed is not None
        self.root = Path(*parts[:fixed]).resolve()
        self._parts = parts[fixed:]
        self._reached = lru_cache(maxsize=1)(self._states)  # of the folder that is listed

    def __str__(self) -> str:
        return path_text(self.root.joinpath(*self._parts))

    def matches(self, path: Path) -> bool:
        """Return True if the pattern matches this path, which need not exist."""
        return path.is_relative_to(self.root) and self._selects(path.relative_to(self.root).as_posix(), False)

    def walk(self) -> Walk:
        """Yield each matching file's path below the root, and the path to open, in the order of the paths."""
        return walk(self.root, self._selects) if is_folder(self.root) else iter(())

    def _selects(self, path: str, is_folder: bool) -> bool:
        folder, _, name = path.rpartition("/")
        states = self._step(self._reached(folder), name)
        return any(state < len(self._parts) for state in states) if is_folder else len(self._parts) in states

    def _states(self, folder: str) -> frozenset[int]:
        """Return the possible numbers of parts that the names of a folder have matched."""
        states = self._closed({0})
        for name in filter(None, folder.split("/")):
            states = self._step(states, name)
        return states

    def _step(self, states: frozenset[int], name: str) -> frozenset[int]:
        """Return the possible numbers of matched parts after this name."""
        after = set()
        for state in states:
            if state == len(self._parts):
                continue
            part = self._parts[state]
            if is_hidden(name) and not part.startswith(name[0]):
                continue
            if part == _ANY_DEPTH:
                after.add(state)
            elif fnmatchcase(name, part):
                after.add(state + 1)
        return self._closed(after)

    def _closed(self, states: Iterable[int]) -> frozenset[int]:
        """Add the states that are reached without a name, since `**` may match nothing."""
        closed = set(states)
        for state in sorted(closed):
            while state < len(self._parts) and self._parts[state] == _ANY_DEPTH:
                state += 1  # noqa: PLW2901
                closed.add(state)
        return frozenset(closed)


def _parts(source: str) -> tuple[str, ...]:
    return Path(os.path.abspath(source)).parts  # noqa: PTH100 - `resolve` would follow links below the pattern


def _wildcard(parts: tuple[str, ...]) -> int | None:
    """Return the number of the first name with a wildcard, which is no name of a folder such as `letters [1916]`."""
    for n, part in enumerate(parts):
        if _special(part) and not os.path.lexists(Path(*parts[: n + 1])):
            return n
    return None


def _special(text: str) -> bool:
    return any(character in text for character in "*?[")


def parts_in(folder: Path) -> list[str] | None:
    """Return the files of an export's parts, in order; None if it is no folder of parts.

    Raises SourceError if a part is missing or cut short, or if there are no parts.
    """
    try:
        with open_regular(folder / parts_manifest.NAME) as opened:
            raw = opened.read(_MOST_MANIFEST + 1)
    except (SourceError, OSError):
        return None
    if len(raw) > _MOST_MANIFEST or (manifest := parts_manifest.from_json(raw)) is None:
        return None
    if not manifest.complete:
        raise SourceError(f"{path_text(folder)} has not all of its parts; {_PARTS_GO_ON}")
    if not manifest.parts:
        raise SourceUnsupported(f"{path_text(folder)} has no results in it")
    files = [part.files[0] for part in manifest.parts]
    for file in files:
        path = folder.resolve() / file.name
        if not path.is_file() or path.stat().st_size != file.bytes:
            raise SourceError(f"{path_text(path)} is not as it was written; {_PARTS_GO_ON}")
    return [file.name for file in files]
