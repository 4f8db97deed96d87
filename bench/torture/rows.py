"""The rows of the torture table: what happens to a job, and what is there in the end."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.torture.outputs import CUT, ID_OF_POISON, POISON, Texts, score, write_corpus
from bench.torture.programs import Peer, Program

SOURCE = "corpus"  # a folder of files of JSON lines
AGAIN, ROOM, END, BY_HAND = "same command again", "make room", "end what was left running", "repair by hand"
FULL_S = 12.0  # a program that does not end on a full disk waits for room
FULL_BYTES = 256 * 1024
LARGE = "4g"
MISSED, HUNG = "ended before it was killed", "hung"


@dataclass(frozen=True)
class Result:
    """One cell of the table, of all commands that it took together. Without counts it is the note."""

    lost: int | None
    doubled: int | None
    recomputed: int | None
    seconds: float | None
    exit_codes: list[int]
    actions: list[str]
    note: str = ""

    @classmethod
    def missing(cls, note: str) -> Result:
        return cls(None, None, None, None, [], [], note)


@dataclass
class Site:
    """A work folder with a corpus, in which a peer's program runs."""

    peer: Peer
    texts: Texts
    dtype: str
    folder: Path
    log: Path
    corpus: Mapping[str, str] = field(default_factory=dict)
    codes: list[int] = field(default_factory=list)
    actions: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def put(self, corpus: Mapping[str, str], inserted: str = "") -> None:
        """Write the corpus. A new measurement begins."""
        self.corpus, self.codes, self.actions, self.notes, self.seconds = corpus, [], [], [], 0.0
        self.log.unlink(missing_ok=True)
        write_corpus(self.folder / SOURCE, corpus, inserted=inserted)

    def start(self, *, poison: str = "") -> Program:
        arguments = (SOURCE, str(self.texts.model), self.dtype)
        return Program(self.peer, self.folder, self.log, arguments, len(self.corpus), poison)

    def ended(self, program: Program, code: int) -> None:
        self.codes.append(code)
        if program.hung:
            self.notes.append(HUNG)
        if program.left:
            self.actions.append(END)
        self.seconds += program.seconds or 0.0

    def run(self, *, poison: str = "") -> None:
        program = self.start(poison=poison)
        self.ended(program, program.finish())

    def computed(self) -> Counter[str]:
        """Return the number of times that each text of the corpus was computed."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return Counter(self.texts.keys[key] for key in lines if key in self.texts.keys)

    def computed_half(self) -> Callable[[], bool]:
        """Return a question: were half of the corpus's texts computed?"""
        line, half = 21, len(self.corpus) // 2

        def question() -> bool:
            # Only a log of enough bytes is worth to be read: a library's own trials are in it, too.
            big = self.log.exists() and self.log.stat().st_size >= half * line
            return big and self.computed().total() >= half

        return question

    def out_bytes(self) -> int:
        """The size of what is, or becomes, the output."""
        found = [*self.folder.glob("out*"), *self.folder.glob(".out*"), *self.folder.glob("out/**/*")]
        return sum(_size(path) for path in found)

    def result(self, needed: int, *, poison: str = "") -> Result:
        """Give the same command again where anything is missing, and count what is there then."""
        found = score(self.folder, self.corpus, self.texts.vectors)
        if found.lost and AGAIN not in self.actions and HUNG not in self.notes:
            self.actions.append(AGAIN)
            self.run(poison=poison)
            found = score(self.folder, self.corpus, self.texts.vectors)
        if found.lost or found.doubled:
            self.actions.append(BY_HAND)
        counts = self.computed()
        counts.pop(POISON, None)
        return Result(
            found.lost,
            found.doubled,
            max(counts.total() - needed, 0),
            round(self.seconds, 1),
            list(self.codes),
            list(self.actions),
            ", ".join(self.notes),
        )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:  # renamed meanwhile
        return 0


@dataclass(frozen=True)
class Extent:
    """The bytes that a run leaves in its output, and in its whole work folder."""

    out: int
    all: int


FIRST_THREE = ("first run", "again, unchanged", "1 % of texts changed")
EQUAL = "10 % equal texts"


def first_three(site: Site) -> Iterator[tuple[str, Result]]:
    """A first run, the same again, and the same with a hundredth of other texts."""
    texts = site.texts
    steps = [(texts.corpus(), len(texts.texts)), (texts.corpus(), 0), (texts.changed(), len(texts.others))]
    for row, (corpus, needed) in zip(FIRST_THREE, steps, strict=True):
        site.put(corpus)
        site.run()
        yield row, site.result(needed)


def equal_texts(site: Site) -> tuple[Result, Extent]:
    """A tenth of the documents have a text that another has. The run says how much a run writes."""
    site.put(site.texts.repeating())
    site.run()
    used = sum(path.lstat().st_blocks * 512 for path in site.folder.rglob("*"))
    return site.result(len(set(site.corpus.values()))), Extent(site.out_bytes(), used)


def killed_at_half(site: Site, _extent: Extent) -> Result:
    site.put(site.texts.corpus())
    program = site.start()
    if not program.wait(site.computed_half()):
        site.notes.append(MISSED)
    site.ended(program, program.kill())
    return site.result(len(site.corpus))


def poisoned(site: Site, _extent: Extent) -> Result:
    """One document kills the process that computes it, each time."""
    [key] = [key for key, text in site.texts.keys.items() if text == POISON]
    site.put(site.texts.corpus(), json.dumps({"id": ID_OF_POISON, "text": POISON}) + "\n")
    site.run(poison=key)
    return site.result(len(site.corpus), poison=key)


def malformed(site: Site, _extent: Extent) -> Result:
    """One line of the corpus is not JSON."""
    site.put(site.texts.corpus(), CUT)
    site.run()
    return site.result(len(site.corpus))


def power_cut(site: Site, extent: Extent) -> Result:
    """Kill everything when the output has half of the bytes that it has in the end."""
    site.put(site.texts.corpus())
    program = site.start()
    if not program.wait(lambda: site.out_bytes() >= extent.out // 2):
        site.notes.append(MISSED)
    site.ended(program, program.kill_all())
    return site.result(len(site.corpus))


def disk_full(site: Site, extent: Extent) -> Result:
    """Give the work folder half of the room that its output needs, and room when the program has ended or waits."""
    if os.geteuid() != 0:
        return Result.missing("not measured: only root mounts a small file system")
    with _small_disk(site.folder, extent.all - extent.out // 2) as make_room:
        site.put(site.texts.corpus())
        program = site.start()
        if program.wait(_full_for(site.folder, FULL_S)):
            site.notes.append("waited for room")
        site.actions.append(ROOM)
        make_room()
        site.ended(program, program.finish())
        return site.result(len(site.corpus))


def two_at_once(site: Site, _extent: Extent) -> Result:
    site.put(site.texts.corpus())
    programs = [site.start(), site.start()]
    for program in programs:
        site.ended(program, program.finish())
    site.seconds = max(program.seconds or 0.0 for program in programs)
    return site.result(len(site.corpus))


OTHERS: dict[str, Callable[[Site, Extent], Result]] = {
    "kill -9 at half": killed_at_half,
    "a deadly document": poisoned,
    "a malformed record": malformed,
    "killed while writing": power_cut,
    "disk full": disk_full,
    "two runs at once": two_at_once,
}
ROWS = (*FIRST_THREE, EQUAL, *OTHERS)


@contextmanager
def _small_disk(folder: Path, size: int) -> Iterator[Callable[[], object]]:
    """Mount a file system of so many bytes. Yields what makes it large."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield lambda: subprocess.run(["mount", "-o", f"remount,size={LARGE}", folder], check=True)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def _full_for(folder: Path, seconds: float) -> Callable[[], bool]:
    since: list[float] = []

    def question() -> bool:
        if shutil.disk_usage(folder).free < FULL_BYTES and not since:
            since.append(time.monotonic())
        return bool(since) and time.monotonic() > since[0] + seconds

    return question
