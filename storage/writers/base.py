"""The declaration of a writer: a format of files for results."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from docmill.storage.errors import StorageError
from docmill.storage.extras import Extra, install
from docmill.storage.outputs.output_types import OutputType

Row: TypeAlias = Mapping[str, Any]  # a result as `storage.results.results` gives it


class FormatUnfit(StorageError):
    """These results cannot be written in this format."""


class Written(int):
    """A number of results that were written, with a remark for the user on what their file lacks."""

    remark: str

    def __new__(cls, results: int, remark: str = "") -> Written:
        made = super().__new__(cls, results)
        made.remark = remark
        return made


@dataclass(frozen=True)
class Writer:
    """A format: the name that `--format` takes, the ending of its files, and the function that writes them.

    `write` is given the results, the columns of their table, and the open files; it returns how many results it
    wrote (`Written` where there is a remark), and raises FormatUnfit for one that has no place in the format.
    `lines`: what it writes can be compressed, and sent to a stream. `takes` are the types of outputs that it writes,
    one at a time; None is all of them, and several steps. `extra` has the library that it needs. `beside` is the path
    of a second file, which is given to `write` after the first. `only_of` names the command whose results
    alone have a place in it; None is any.
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

    def check_installed(self) -> None:
        """Raise FormatUnfit if the library that writes this format is not there."""
        if self.extra is not None and not self.extra.is_installed:
            raise FormatUnfit(f"{self.title} needs another library: {install(self.extra.name)}")

    def check_takes(self, outputs: Sequence[OutputType]) -> None:
        """Raise FormatUnfit unless this format has a place for the outputs of these steps."""
        if self.takes is not None and not (len(outputs) == 1 and outputs[0] in self.takes):
            names = " and ".join(output.plural for output in self.takes)
            raise FormatUnfit(f"only {names} are written as {self.title}, of one step")


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A new file beside the target, which takes its name when the block has ended well.

    A link is followed to what it names; a pipe or a device is written to, never replaced. A file that is replaced
    passes its mode on; a new one is its user's alone.
    """
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    path = path.resolve()
    mode = path.stat().st_mode & 0o777 if path.exists() else None
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with open(handle, "w+b") as file:  # noqa: PTH123 - a descriptor, not a path
            yield file
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
