"""The rows of the torture table: each makes a mishap happen to a job and counts the result."""

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

from bench.torture.outputs import MALFORMED_LINE, POISON, POISON_ID, Texts, score, write_corpus
from bench.torture.programs import Peer, Program

SOURCE = "corpus"  # a folder of files of JSON lines
AGAIN, ROOM, END, BY_HAND = "same command again", "make room", "end what was left running", "repair by hand"
FULL_S = 12.0  # a program that runs this long on a full disk waits for room
FULL_BYTES = 256 * 1024  # a disk with less room than this is full
LARGE = "4g"
LOG_LINE_BYTES = 21
MISSED, HUNG = "ended before it was killed", "hung"


@dataclass(frozen=True)
class Result:
    """One cell of the table: the counts after all commands of the row, or only a note."""

    lost: int | None
    doubled: int | None
    recomputed: int | None
    seconds: float | None
    exit_codes: list[int]
    actions: list[str]
    note: str = ""

    @classmethod
    def without_counts(cls, note: str) -> Result:
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

    def begin(self, corpus: Mapping[str, str], inserted: str = "") -> None:
        """Begin a new measurement: write the corpus, with ``inserted`` as a line in the middle."""
        self.corpus, self.codes, self.actions, self.notes, self.seconds = corpus, [], [], [], 0.0
        self.log.unlink(missing_ok=True)
        write_corpus(self.folder / SOURCE, corpus, inserted=inserted)

    def start(self, *, poison: str = "") -> Program:
        arguments = (SOURCE, str(self.texts.model), self.dtype)
        return Program(self.peer, self.folder, self.log, arguments, len(self.corpus), poison)

    def record(self, program: Program, code: int) -> None:
        """Record the end of a program."""
        self.codes.append(code)
        if program.hung:
            self.notes.append(HUNG)
        if program.left_processes:
            self.actions.append(END)
        self.seconds += program.seconds or 0.0

    def run(self, *, poison: str = "") -> None:
        program = self.start(poison=poison)
        self.record(program, program.finish())

    def count_computed(self) -> Counter[str]:
        """Return the number of times that each text was computed."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return Counter(self.texts.text_by_key[key] for key in lines if key in self.texts.text_by_key)

    def is_half_computed(self) -> bool:
        """Return True once half as many texts are computed as the corpus has."""
        half = len(self.corpus) // 2
        # Reading the log takes time, so check its size first. The log also has the texts of a library's own trials.
        is_large = self.log.exists() and self.log.stat().st_size >= half * LOG_LINE_BYTES
        return is_large and self.count_computed().total() >= half

    def measure_output_bytes(self) -> int:
        """Return the size of the output, including temporary files that become output."""
        paths = [*self.folder.glob("out*"), *self.folder.glob(".out*"), *self.folder.glob("out/**/*")]
        return sum(_measure_bytes(path) for path in paths)

    def finish(self, needed: int, *, poison: str = "") -> Result:
        """Give the same command again if a document is lost. Return the counts after that.

        ``needed`` is the number of texts that had to be computed.
        """
        output = score(self.folder, self.corpus, self.texts.vectors)
        if output.lost and AGAIN not in self.actions and HUNG not in self.notes:
            self.actions.append(AGAIN)
            self.run(poison=poison)
            output = score(self.folder, self.corpus, self.texts.vectors)
        if output.lost or output.doubled:
            self.actions.append(BY_HAND)
        computed = self.count_computed()
        computed.pop(POISON, None)
        return Result(
            output.lost,
            output.doubled,
            max(computed.total() - needed, 0),
            round(self.seconds, 1),
            list(self.codes),
            list(self.actions),
            ", ".join(self.notes),
        )


def _measure_bytes(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:  # renamed meanwhile
        return 0


@dataclass(frozen=True)
class RunBytes:
    """The bytes that a run leaves in its output and in its whole work folder."""

    output: int
    folder: int


FIRST_THREE = ("first run", "again, unchanged", "1 % of texts changed")
EQUAL = "10 % equal texts"


def run_three_times(site: Site) -> Iterator[tuple[str, Result]]:
    """Run a program, run it again, and run it with a hundredth of the texts changed."""
    texts = site.texts
    runs = [
        (texts.make_corpus(), len(texts.texts)),
        (texts.make_corpus(), 0),
        (texts.make_changed_corpus(), len(texts.replacements)),
    ]
    for row, (corpus, needed) in zip(FIRST_THREE, runs, strict=True):
        site.begin(corpus)
        site.run()
        yield row, site.finish(needed)


def repeat_texts(site: Site) -> tuple[Result, RunBytes]:
    """Give a tenth of the documents the text of another. Return also the bytes that the run wrote."""
    site.begin(site.texts.make_repeating_corpus())
    site.run()
    folder_bytes = sum(path.lstat().st_blocks * 512 for path in site.folder.rglob("*"))
    return site.finish(len(set(site.corpus.values()))), RunBytes(site.measure_output_bytes(), folder_bytes)


def kill_at_half(site: Site, _run_bytes: RunBytes) -> Result:
    """Kill the user's process when half of the texts are computed."""
    site.begin(site.texts.make_corpus())
    program = site.start()
    if not program.wait(site.is_half_computed):
        site.notes.append(MISSED)
    site.record(program, program.kill())
    return site.finish(len(site.corpus))


def add_deadly_document(site: Site, _run_bytes: RunBytes) -> Result:
    """Add a document that kills the process that computes it, each time."""
    [key] = [key for key, text in site.texts.text_by_key.items() if text == POISON]
    site.begin(site.texts.make_corpus(), json.dumps({"id": POISON_ID, "text": POISON}) + "\n")
    site.run(poison=key)
    return site.finish(len(site.corpus), poison=key)


def add_malformed_record(site: Site, _run_bytes: RunBytes) -> Result:
    """Add a line to the corpus that is not JSON."""
    site.begin(site.texts.make_corpus(), MALFORMED_LINE)
    site.run()
    return site.finish(len(site.corpus))


def kill_while_writing(site: Site, run_bytes: RunBytes) -> Result:
    """Kill all processes when the output has half of its final size."""
    site.begin(site.texts.make_corpus())
    program = site.start()
    if not program.wait(lambda: site.measure_output_bytes() >= run_bytes.output // 2):
        site.notes.append(MISSED)
    site.record(program, program.kill_all())
    return site.finish(len(site.corpus))


def fill_disk(site: Site, run_bytes: RunBytes) -> Result:
    """Give the work folder room for half of the output. Make more room when the program has ended or waits."""
    if os.geteuid() != 0:
        return Result.without_counts("not measured: only root mounts a small file system")
    with _small_disk(site.folder, run_bytes.folder - run_bytes.output // 2) as make_room:
        site.begin(site.texts.make_corpus())
        program = site.start()
        if program.wait(_make_full_check(site.folder, FULL_S)):
            site.notes.append("waited for room")
        site.actions.append(ROOM)
        make_room()
        site.record(program, program.finish())
        return site.finish(len(site.corpus))


def run_two_at_once(site: Site, _run_bytes: RunBytes) -> Result:
    """Start the program twice at the same moment."""
    site.begin(site.texts.make_corpus())
    programs = [site.start(), site.start()]
    for program in programs:
        site.record(program, program.finish())
    site.seconds = max(program.seconds or 0.0 for program in programs)
    return site.finish(len(site.corpus))


OTHERS: dict[str, Callable[[Site, RunBytes], Result]] = {
    "kill -9 at half": kill_at_half,
    "a deadly document": add_deadly_document,
    "a malformed record": add_malformed_record,
    "killed while writing": kill_while_writing,
    "disk full": fill_disk,
    "two runs at once": run_two_at_once,
}
ROWS = (*FIRST_THREE, EQUAL, *OTHERS)


@contextmanager
def _small_disk(folder: Path, size: int) -> Iterator[Callable[[], object]]:
    """Mount a file system of ``size`` bytes on the folder. Yield a function that makes it large."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield lambda: subprocess.run(["mount", "-o", f"remount,size={LARGE}", folder], check=True)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def _make_full_check(folder: Path, seconds: float) -> Callable[[], bool]:
    """Return a function that returns True once the disk became full more than ``seconds`` ago."""
    full_since: list[float] = []

    def was_full_long_ago() -> bool:
        if shutil.disk_usage(folder).free < FULL_BYTES and not full_since:
            full_since.append(time.monotonic())
        return bool(full_since) and time.monotonic() > full_since[0] + seconds

    return was_full_long_ago
