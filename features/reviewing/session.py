"""A review of a job's step: the sample, and the stored and new judgements."""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from docmill.features.reviewing import judgements
from docmill.features.reviewing.estimate import ReviewSummary, Rows, draw_sample, stratify, summarize
from docmill.features.reviewing.judgements import Judged, Verdict
from docmill.features.reviewing.population import (
    OutputToReview,
    Population,
    ReviewedStep,
    read_outputs,
    read_population,
    read_step,
)
from docmill.storage.core.database import Database
from docmill.storage.json_values import Json
from docmill.storage.outputs.columns import Column, Form
from docmill.storage.writers.formats import CSV_FOR_EXCEL, Row, Writer
from docmill.worker.errors import WorkerError

AHEAD = 50  # outputs that are read at once


@dataclass(frozen=True)
class Review:
    """The outputs of a step in their strata, and their judgements by content.

    A judgement belongs to the spec that computed the output. A step with an escalation has outputs of two specs.
    """

    database: Database
    reviewed: ReviewedStep
    seed: int
    population: Population
    strata: tuple[Rows, ...]
    judged: dict[int, Judged]

    @classmethod
    def of(cls, database: Database, job: int, step: str | None = None, seed: int | None = None) -> Review:
        """Return the review of a job's step, the last one if none is named.

        Without a seed, it continues the draw of most earlier judgements. Raises NotFound and StorageError.
        """
        reviewed = read_step(database, job, step)
        stored = {spec_id: judgements.read(database, spec_id) for spec_id in reviewed.specs}
        if seed is None:
            seeds = Counter(judgement.seed for of_spec in stored.values() for judgement in of_spec.values())
            seed = max(seeds, key=lambda candidate: (seeds[candidate], -candidate), default=0)
        outputs = read_population(database, reviewed, seed)
        judged = {
            content: judgement
            for spec_id, of_spec in stored.items()
            for content, judgement in of_spec.items()
            if outputs.spec_of(content) == spec_id
        }
        return cls(database, reviewed, seed, outputs, tuple(stratify(outputs)), judged)

    def waiting(self, size: int) -> list[int]:
        """Return the contents of a sample without a good or bad verdict; skipped ones come last."""
        contents = self.population.contents[draw_sample(self.population, self.strata, size)].tolist()
        unmet = [content for content in contents if content not in self.judged]
        return unmet + [
            content
            for content in contents
            if content in self.judged and self.judged[content].verdict is Verdict.SKIPPED
        ]

    def items(self, contents: Sequence[int]) -> Iterator[OutputToReview]:
        """Yield outputs beside their inputs. Outputs that are removed meanwhile are left out."""
        for first in range(0, len(contents), AHEAD):
            several = contents[first : first + AHEAD]
            documents = self.population.documents[self.population.rows_of(several)].tolist()
            yield from read_outputs(self.database, self.reviewed, dict(zip(several, documents, strict=True)))

    def judge(self, judged: Judged, spec: str) -> int:
        """Store the judgement of an output that `items` yielded with this spec. It may be newer than the population.

        Return 1, or 0 if the output was removed meanwhile.
        """
        return self._store(self.reviewed.ids[spec], [judged])

    def take(self, entries: Sequence[Entry], judged_by: str) -> int:
        """Store the judgements of a file, if all can be stored. Return their number. Raises WorkerError."""
        ids = self.reviewed.ids
        for entry in entries:
            if entry.spec not in ids:
                raise WorkerError(
                    f"{entry.place}: this is not an output of step {self.reviewed.step.name} of job "
                    f"{self.reviewed.job}; import the file into the job that it was exported from"
                )
        taken: dict[int, list[Judged]] = defaultdict(list)
        for spec, spec_id in ids.items():
            of_spec = [entry for entry in entries if entry.spec == spec]
            known = judgements.read(self.database, spec_id)
            contents = judgements.find_contents(self.database, spec_id, {entry.sha256 for entry in of_spec})
            for entry in of_spec:
                if entry.sha256 not in contents:
                    raise WorkerError(f"{entry.place}: the store has no output of this text, or it was removed")
                judgement = Judged(
                    contents[entry.sha256], entry.verdict, entry.judged_by or judged_by, entry.seed, entry.note
                )
                if judgement.verdict is not Verdict.SKIPPED or judgement.content_id not in known:
                    taken[spec_id].append(judgement)
        return sum(self._store(spec_id, of_spec) for spec_id, of_spec in taken.items())

    def _store(self, spec_id: int, judged: Sequence[Judged]) -> int:
        stored = judgements.store(self.database, spec_id, judged)
        ours = [judgement for judgement in judged if self.population.spec_of(judgement.content_id) == spec_id]
        self.judged.update({judgement.content_id: judgement for judgement in ours})
        return stored

    def summary(self) -> ReviewSummary:
        """Return the shares of good outputs."""
        return summarize(self.population, self.strata, self.judged)


FIELDS = ("verdict", "note", "document", "input", "output", "seed", "spec", "text_sha256")
REQUIRED = ("verdict", "seed", "spec", "text_sha256")  # fields that a judged file must have
WORDS = {
    **dict.fromkeys(("good", "g"), Verdict.GOOD),
    **dict.fromkeys(("bad", "b"), Verdict.BAD),
    **dict.fromkeys(("", "skip", "skipped", "s"), Verdict.SKIPPED),
}


@dataclass(frozen=True)
class Entry:
    """A verdict in a file, with its `place` there. `spec` and `sha256` name the output."""

    place: str
    spec: str
    sha256: bytes
    seed: int
    verdict: Verdict
    note: str | None
    judged_by: str | None


def _write_tasks(rows: Iterable[Row], columns: Sequence[Column], file: BinaryIO) -> int:
    """Write outputs to be judged as tasks of Label Studio. Return their number."""
    names = [column.name for column in columns if column.name not in {"verdict", "note"}]
    tasks = [{"data": {name: row[name] for name in names}} for row in rows]
    file.write(orjson.dumps(tasks, option=orjson.OPT_INDENT_2))
    return len(tasks)


COLUMNS = [Column.of(name, Form.TEXT) for name in FIELDS]
WRITERS: Mapping[str, Writer] = {
    ".csv": CSV_FOR_EXCEL,
    ".json": Writer("label-studio", ".json", _write_tasks, title="tasks of Label Studio"),
}


def list_rows(items: Iterable[OutputToReview], seed: int) -> Iterator[dict[str, str | int]]:
    """Yield the fields of outputs, with no verdict yet."""
    for item in items:
        yield {
            "verdict": "",
            "note": "",
            "document": item.document,
            "input": item.input,
            "output": item.output,
            "seed": seed,
            "spec": item.spec,
            "text_sha256": item.sha256.hex(),
        }


def read_file(path: Path) -> list[Entry]:
    """Return the verdicts of a judged file, up to the last good or bad verdict.

    An output without a verdict counts as skipped if a later one has a verdict. Raises WorkerError with the place.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise WorkerError(f"{path}: {why}") from error
    entries = [*(_csv_entries(path, text) if path.suffix.lower() == ".csv" else _json_entries(path, text))]
    places: dict[bytes, str] = {}
    for entry in entries:
        if entry.sha256 in places:
            raise WorkerError(f"{entry.place}: it is the same output as {places[entry.sha256]}; delete one of them")
        places[entry.sha256] = entry.place
    last = max((n for n, entry in enumerate(entries, 1) if entry.verdict is not Verdict.SKIPPED), default=0)
    return entries[:last]


def _csv_entries(path: Path, text: str) -> Iterator[Entry]:
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    lines = io.StringIO(text, newline="")
    heading = text.partition("\n")[0]
    delimiter = max(",;\t", key=heading.count)  # spreadsheets of some countries write semicolons
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        if missing := [name for name in REQUIRED if name not in names]:
            raise WorkerError(f"{path}:1: missing columns: {', '.join(missing)}; export the sample again")
        line = reader.line_num + 1
        for row in reader:
            if row and len(row) != len(names):
                raise WorkerError(f"{path}:{line}: it has {len(row)} columns, but the first line has {len(names)}")
            if row:
                yield _read_entry(f"{path}:{line}", dict(zip(names, row, strict=True)))
            line = reader.line_num + 1
    except csv.Error as error:
        raise WorkerError(f"{path}:{reader.line_num}: {error}") from error


def _json_entries(path: Path, text: str) -> Iterator[Entry]:
    try:
        tasks = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise WorkerError(f"{path}:{error.lineno}: {error.msg}") from error
    if not isinstance(tasks, list):
        raise WorkerError(f"{path}: it is not a list of tasks; export from Label Studio as JSON or JSON-MIN")
    for number, task in enumerate(tasks, 1):
        place = f"{path}, task {number}"
        if not isinstance(task, dict):
            raise WorkerError(f"{place}: it is not a task of Label Studio")
        data = task.get("data")
        yield _read_entry(place, {**data, **_read_annotation(task)} if isinstance(data, dict) else task)


def _read_annotation(task: Mapping[str, Any]) -> dict[str, Any]:
    """Return the verdict, the note and the annotator of a task's last annotation that was not skipped."""
    annotations = [
        annotation
        for annotation in task.get("annotations") or []
        if isinstance(annotation, dict) and not annotation.get("was_cancelled")
    ]
    if not annotations:
        return {"verdict": ""}
    entry = {"verdict": "", "annotator": annotations[-1].get("completed_by")}
    for result in annotations[-1].get("result") or []:
        kind = result.get("type") if isinstance(result, dict) else None
        value = result.get("value", {}) if kind in {"choices", "textarea"} else {}
        if kind == "choices":
            entry["verdict"] = _unwrap(value.get("choices"))
        elif kind == "textarea":
            entry["note"] = _unwrap(value.get("text"))
    return entry


def _unwrap(value: Json) -> Json:
    """Return the only value of a list, or the value as it is."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _read_entry(place: str, row: Mapping[str, Any]) -> Entry:
    """Return the verdict of a row or a task. Raises WorkerError."""
    if missing := [name for name in REQUIRED[1:] if row.get(name) is None or row[name] == ""]:
        raise WorkerError(f"{place}: {', '.join(missing)} is missing; export the sample again")
    verdict = row.get("verdict") or ""
    if not isinstance(verdict, str) or verdict.strip().lower() not in WORDS:
        raise WorkerError(f"{place}: the verdict is {verdict!r}; write good or bad, or leave it empty")
    changed = f"{place}: seed, spec or text_sha256 was changed; export the sample again"
    if not all(isinstance(row[name], str | int) for name in REQUIRED[1:]):
        raise WorkerError(changed)
    try:
        sha256, seed = bytes.fromhex(str(row["text_sha256"])), int(row["seed"])
    except ValueError as error:
        raise WorkerError(changed) from error
    note, by = row.get("note"), row.get("judged_by") or row.get("annotator")
    if isinstance(by, dict):
        by = by.get("email") or by.get("id")
    return Entry(
        place,
        spec=str(row["spec"]),
        sha256=sha256,
        seed=seed,
        verdict=WORDS[verdict.strip().lower()],
        note=str(_unwrap(note)).strip() or None if note else None,
        judged_by=str(by) if by is not None else None,
    )
