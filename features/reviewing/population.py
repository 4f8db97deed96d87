"""The outputs of a job's step that a sample is drawn from: numbers about each output, without texts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count

import numpy as np
import numpy.typing as npt
import orjson
from sqlalchemy import select

from docmill.storage.core.database import Database
from docmill.storage.core.lookups import pages, read_keys
from docmill.storage.core.schema import Content, Document, OutcomeRow, SpecRow
from docmill.storage.core.specs import Status
from docmill.storage.errors import StorageError
from docmill.storage.outputs.output_types import Stored
from docmill.storage.steps import choosing, lineage
from docmill.storage.steps.choosing import as_text
from docmill.storage.steps.conditions import is_doubtful
from docmill.storage.steps.jobs import require
from docmill.storage.steps.steps import OpenStep, find_named_way, read_steps

PAGE = 20_000
UNREADABLE = frozenset({"vector", "weights"})  # types of outputs that a person cannot judge


@dataclass(frozen=True)
class ReviewedStep:
    """The step of a job that is reviewed. `way` leads to it.

    `specs` has the SHA-256 of the step's spec, and of its escalation's spec if there is one, by the spec's id.
    """

    job: int
    way: tuple[OpenStep, ...]
    specs: Mapping[int, str]

    @property
    def step(self) -> OpenStep:
        return self.way[-1]

    @property
    def ids(self) -> dict[str, int]:
        """Return the ids of the specs by their SHA-256."""
        return {sha256: spec_id for spec_id, sha256 in self.specs.items()}


@dataclass(frozen=True)
class Population:
    """The done outputs of a step, one for each unique text. All arrays have a row for each output, by content.

    `documents` has the id of the first document with the text, `ranks` the output's random number in the draw, and
    `confidence` NaN where it is not known. `flags` are places in `flag_sets`. `specs` has the id of the spec that
    computed the output.
    """

    contents: npt.NDArray[np.int64]
    documents: npt.NDArray[np.int64]
    ranks: npt.NDArray[np.uint64]
    confidence: npt.NDArray[np.float64]
    flags: npt.NDArray[np.int32]
    flag_sets: tuple[tuple[str, ...], ...]
    specs: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.contents)

    @cached_property
    def doubtful(self) -> npt.NDArray[np.bool_]:
        """A mask of the outputs with a doubtful flag."""
        return np.array([is_doubtful(flags) for flags in self.flag_sets], bool)[self.flags]

    def rows_of(self, contents: Sequence[int]) -> npt.NDArray[np.intp]:
        """Return the rows of these contents, in their order. Contents that are not in the population are left out."""
        ids = np.array(contents, np.int64)
        return np.searchsorted(self.contents, ids[np.isin(ids, self.contents)])

    def spec_of(self, content: int) -> int | None:
        """Return the id of the spec that computed a content's output; None for a content that is not here."""
        row = int(np.searchsorted(self.contents, content))
        is_here = row < len(self) and self.contents[row] == content
        return int(self.specs[row]) if is_here else None


def read_step(database: Database, job_id: int, name: str | None = None) -> ReviewedStep:
    """Return a job's step by its name, or the last one. Raises NotFound and StorageError."""
    require(database, job_id)
    with database.read() as transaction:
        steps = read_steps(transaction, job_id)
        way = find_named_way(steps, steps[-1].name if name is None else name)
        specs = transaction.execute(select(SpecRow.id, SpecRow.sha256).where(SpecRow.id.in_(way[-1].spec_ids))).all()
    output = database.kind_of(way[-1].lane).output
    if output.name in UNREADABLE:
        raise StorageError(f"the step {way[-1].name} makes {output.plural}, which a person cannot judge by reading")
    return ReviewedStep(job_id, tuple(way), {row.id: row.sha256.hex() for row in specs})


def read_population(database: Database, reviewed: ReviewedStep, seed: int) -> Population:
    """Return the outputs of a step, by one pass over the job's documents in pages."""
    job = require(database, reviewed.job)
    query, outcome = lineage.select_done(job, reviewed.way)
    query = (
        query.join(Content, Content.id == outcome.content_id)
        .add_columns(outcome.content_id, outcome.spec_id, outcome.confidence, as_text(outcome.flags).label("flags"))
        .add_columns(Document.id, Content.sha256)
    )
    codes: dict[str, int] = {}
    numbers = count()
    parts = []
    for page in pages(database, query, Document.id, PAGE):
        for row in page:
            if row.flags not in codes:
                codes[row.flags] = next(numbers)
        parts.append(
            (
                np.array([row.content_id for row in page], np.int64),
                np.array([row.id for row in page], np.int64),
                np.array([rank(row.sha256, seed) for row in page], np.uint64),
                np.array([row.confidence for row in page], np.float64),
                np.array([codes[row.flags] for row in page], np.int32),
                np.array([row.spec_id for row in page], np.int64),
            )
        )
    contents, *others = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    _, first = np.unique(contents, return_index=True)
    documents, ranks, confidence, flags, specs = (array[first] for array in others)
    flag_sets = tuple(tuple(orjson.loads(written)) for written in codes)
    return Population(contents[first], documents, ranks, confidence, flags, flag_sets, specs)


def rank(sha256: bytes, seed: int) -> int:
    """Return the random number of a text in the draw with a seed, in 64 bits.

    It depends on nothing else, so a draw is the same on every store, and a text keeps its number when a corpus grows:
    permanent random numbers (Ohlsson, "Coordination of samples using permanent random numbers", 1995).
    """
    digest = hashlib.blake2b(sha256, digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest, "little")


@dataclass(frozen=True)
class OutputToReview:
    """An output with the text that it was computed from, and the id of a document with that text.

    `spec` is the SHA-256 of the spec that computed it.
    """

    content_id: int
    sha256: bytes
    document: str
    input: str
    output: str
    spec: str


def read_outputs(database: Database, reviewed: ReviewedStep, documents: Mapping[int, int]) -> list[OutputToReview]:
    """Return the outputs of contents, in the given order. `documents` has a document's id for each content."""
    columns = (OutcomeRow.status, OutcomeRow.spec_id, OutcomeRow.text, OutcomeRow.vector, OutcomeRow.data)
    texts = select(Content.id, Content.sha256, Content.text)
    with database.read() as transaction:
        outputs = choosing.read_results(transaction, reviewed.step, [*documents], columns)
        inputs = {row.id: row for row in transaction.probe(texts, Content.id, [*documents])}
        keys = read_keys(transaction, {*documents.values()})
    to_review = []
    for content_id, document_id in documents.items():
        row, content = outputs.get(content_id), inputs.get(content_id)
        if row is not None and row.status == Status.DONE and content is not None and document_id in keys:
            shown, spec = _write_output(database, reviewed, row), reviewed.specs[row.spec_id]
            to_review.append(OutputToReview(content_id, content.sha256, keys[document_id], content.text, shown, spec))
    return to_review


def _write_output(database: Database, reviewed: ReviewedStep, row: Stored) -> str:
    if isinstance(row.text, str):
        return row.text
    output = database.kind_of(reviewed.step.lane).output
    return output.shown(output.result(row), reviewed.step.params)
