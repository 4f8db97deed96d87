"""The jobs that a nemesis finds at work, what they must come to, and the books that say so in the end."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import select

from docmill.storage.core.schema import Job
from docmill.storage.leases.policy import POISON
from docmill.storage.results.results import failures, results
from docmill.tasks.backends.weightless import vector
from tests.fault_points import MARKER
from tests.faults.background_commands import Errands
from tests.faults.checker import check, read_books, some
from tests.faults.fleet import Fleet
from tests.faults.nemesis import Storm

TASKS = ("translate", "summarize", "embed")
ENDED = ("done", "cancelled", "stopped")


@dataclass
class Ordered:
    """A job as it was asked for; `id` is known once its command came through."""

    name: str
    task: str
    texts: dict[str, str]  # by document
    id: int | None = None
    cancelled: bool = False

    @property
    def poison(self) -> set[str]:
        return {key for key, text in self.texts.items() if MARKER in text}


@dataclass
class Workload:
    """Jobs of every kind whose corpora overlap, given by commands that may be killed."""

    fleet: Fleet
    errands: Errands
    storm: Storm
    ordered: list[Ordered] = field(default_factory=list)

    def begin(self) -> None:
        """The jobs that are there from the start. Two ask for the same of the same texts, some of them poison."""
        n = self.storm.texts
        poison = {f"poison-{i}": f"{MARKER} number {i} kills whoever computes it." for i in range(self.storm.poison)}
        first = self._order("first", "translate", numbered(0, n) | poison)
        twin = self._order("twin", "translate", dict(list(poison.items())[:1]) | numbered(n // 2, n))
        brief = self._order("brief", "summarize", numbered(0, n))
        self._order("vectors", "embed", numbered(n // 4, n))
        doomed = self._order("doomed", "translate", numbered(5 * n, n))
        for ordered in self.ordered:
            self.give(ordered)
        self.steer = [("pause", twin), ("priority", brief), ("cancel", doomed), ("resume", twin), ("pause", first)]
        self.steer += [("resume", first)]

    def steer_on(self) -> None:
        """The next of what an operator has in mind."""
        if not self.steer:
            return
        command, ordered = self.steer.pop(0)
        if ordered.id is None:  # not stored yet: later
            self.steer.insert(0, (command, ordered))
            return
        self.errands.give(command, ordered.id, *([5] if command == "priority" else []))
        ordered.cancelled = ordered.cancelled or command == "cancel"

    def another(self, kill_after_s: float) -> None:
        """One more job while the others run, whose command is killed on its way and given again."""
        number = len(self.ordered)
        n = self.storm.late_texts
        ordered = self._order(f"late-{number}", TASKS[number % len(TASKS)], numbered(10**6 + number * n // 2, n))
        self.give(ordered, kill_after_s=kill_after_s, haste=100)

    def _order(self, name: str, task: str, texts: dict[str, str]) -> Ordered:
        self.ordered.append(Ordered(name, task, texts))
        return self.ordered[-1]

    def give(self, ordered: Ordered, *, kill_after_s: float | None = None, haste: int = 1) -> None:
        path = self._file(ordered)

        def stored(printed: Any) -> None:
            ordered.id = printed["id"]

        model = f"null@{haste * self.storm.pace}"
        self.errands.give(
            "enqueue", path, "--task", ordered.task, "--model", model, kill_after_s=kill_after_s, then=stored
        )

    def _file(self, ordered: Ordered) -> Path:
        path = self.fleet.folder / f"{ordered.name}.jsonl"
        lines = (json.dumps({"id": key, "text": text}) for key, text in ordered.texts.items())
        path.write_text("\n".join(lines))
        return path

    @property
    def documents(self) -> int:
        return sum(len(ordered.texts) for ordered in self.ordered)

    def open_jobs(self) -> list[int]:
        with self.fleet.database.read() as transaction:
            return list(transaction.scalars(select(Job.id).where(Job.state.not_in(ENDED)).order_by(Job.id)))

    def audit(self) -> None:
        """Nothing is lost, nothing doubled, nothing mixed up, and nobody is blamed but poison."""
        for ordered in self.ordered:
            assert ordered.id is not None, f"{ordered.name} was never stored"
            check(self.fleet.database, ordered.id, state="cancelled" if ordered.cancelled else "done")
            _audit(self.fleet, ordered, ordered.id)


def _audit(fleet: Fleet, ordered: Ordered, job: int) -> None:
    books = read_books(fleet.database, job)
    assert set(books.contents) == set(ordered.texts), f"{ordered.name}: the store has other documents than the source"
    failed = {row["id"]: row for row in failures(fleet.database, job)}
    blamed = {key: row["reason"] for key, row in failed.items() if key not in ordered.poison}
    assert not blamed, f"{ordered.name}: documents that failed for no fault of theirs: {some(blamed.items())}"
    assert all(row["reason"] == POISON for row in failed.values()), failed
    assert ordered.cancelled or set(failed) == ordered.poison, f"{ordered.name}: poison that did not fail"
    wrong = [row["id"] for row in results(fleet.database, job) if not _is_right(ordered, row)]
    assert not wrong, f"{ordered.name}: outputs of other texts: {some(wrong)}"


def _is_right(ordered: Ordered, row: dict[str, Any]) -> bool:
    text = ordered.texts[row["id"]]
    if ordered.task == "embed":
        return bool((row["vector"] == vector(text).values).all())
    return bool(row["text"] == text)


def numbered(first: int, n: int) -> dict[str, str]:
    return {str(i): f"Text number {i} has eight words or so." for i in range(first, first + n)}
