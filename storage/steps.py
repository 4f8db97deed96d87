"""The steps of a job: what each has met, planned and found done, and how one leads to the next.

What a step puts out becomes a content, and contents become shards of the steps that read it, in the transaction that
writes the outcomes: so no step waits for another to end, and none misses a text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import Connection, bindparam, case, select, update

from storage import bulk, contents, gate, rows, templates
from storage.cutting import DEFAULT_SHARD_SIZE, SHARD_SIZES, cut, pack
from storage.database import Database
from storage.errors import NoSuchStep
from storage.outcomes import Status, Tally
from storage.schema import OutcomeRow, Shard, SpecRow, Step, StepText
from storage.specs import Spec
from storage.templates import Template

UNTOUCHED = {  # the columns of a shard that nobody has claimed
    "step": 0,
    "fence": 0,
    "attempt": 0,
    "suspect": 0,
    "not_before": 0.0,
    "n_done": 0,
    "n_failed": 0,
    "n_skipped": 0,
    "n_truncated": 0,
    "tokens_in": 0,
    "tokens_out": 0,
}


@dataclass(frozen=True)
class StepRequest:
    """A spec under a name; `input` is the name of an earlier step, whose output it reads, or None: the documents."""

    name: str
    spec: Spec
    input: str | None = None


@dataclass(frozen=True)
class OpenStep:
    """A step of a job. `input_step` is the number of the step whose output it reads; None reads the documents.

    With a `template` what it computes of a document is what that renders of the text and its metadata.
    """

    seq: int
    name: str
    spec_id: int
    lane: str
    input_step: int | None
    template: Template | None = None


@dataclass(frozen=True)
class Planned:
    """Texts of steps: those that were put into shards, and those that had an outcome before, by its status."""

    planned: int = 0
    prior_done: int = 0
    prior_failed: int = 0
    prior_skipped: int = 0

    def __add__(self, other: Planned) -> Planned:
        return Planned(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Planned)))


_STEPS = select(Step.seq, Step.name, Step.spec_id, SpecRow.kind, Step.input_step, SpecRow.params).join(
    SpecRow, SpecRow.id == Step.spec_id
)


def _open(row: Any) -> OpenStep:
    template = templates.over_metadata(row.params or {})
    return OpenStep(row.seq, row.name, row.spec_id, row.kind, row.input_step, template)


def of_job(connection: Connection, job_id: int) -> tuple[OpenStep, ...]:
    """A job's steps in their order."""
    found = connection.execute(_STEPS.where(Step.job_id == job_id).order_by(Step.seq))
    return tuple(map(_open, found))


def requested(connection: Connection, job_id: int) -> tuple[StepRequest, ...]:
    """A job's steps as they were asked for."""
    query = select(Step.name, Step.input_step, *rows.SPEC).join(SpecRow, SpecRow.id == Step.spec_id)
    found = connection.execute(query.where(Step.job_id == job_id).order_by(Step.seq)).all()
    return tuple(
        StepRequest(row.name, rows.spec_of(row), None if row.input_step is None else found[row.input_step].name)
        for row in found
    )


def way_to(steps: Sequence[OpenStep], step: OpenStep) -> list[OpenStep]:
    """The steps that lead from the documents to a step, which is the last of them."""
    way = [step]
    while way[0].input_step is not None:
        way.insert(0, steps[way[0].input_step])
    return way


def way_to_named(steps: Sequence[OpenStep], name: str | None) -> list[OpenStep]:
    """The way to a job's step by its name, or without one to the only step. Raises NoSuchStep."""
    step = next((step for step in steps if name in {step.name, None}), None)
    if step is None:
        raise NoSuchStep(f"there is no step {name}; the job has {', '.join(step.name for step in steps)}")
    return way_to(steps, step)


def read_at_the_end(
    database: Database, connection: Connection, way: Sequence[OpenStep], roots: Mapping[int, int]
) -> dict[int, int]:
    """By document the content that the last step of a way reads; without those for which there is none yet.

    `roots` are what the first step reads of each.
    """
    read = dict(roots)
    columns = OutcomeRow.__table__.c
    for step in way[:-1]:
        query = select(columns.content_id, columns.output_id).where(
            columns.spec_id == step.spec_id, columns.output_id.is_not(None)
        )
        found = database.probe(connection, query, columns.content_id, {*read.values()})
        outputs = {row.content_id: row.output_id for row in found}
        read = {document_id: outputs[reached] for document_id, reached in read.items() if reached in outputs}
    return read


def add(
    database: Database, connection: Connection, job_id: int, requests: Sequence[StepRequest]
) -> tuple[OpenStep, ...]:
    """Give a new job its steps. Each reads the documents or an earlier one."""
    numbers = {request.name: seq for seq, request in enumerate(requests)}
    assert len(numbers) == len(requests), "steps have names of their own"
    for seq, request in enumerate(requests):
        input_step = None if request.input is None else numbers[request.input]
        assert input_step is None or input_step < seq, "a step reads an earlier one"
        assert input_step is None or not templates.over_metadata(request.spec.params), "metadata is a document's"
        values = {
            "job_id": job_id,
            "seq": seq,
            "name": request.name,
            "spec_id": rows.spec_id(database, connection, request.spec),
            "input_step": input_step,
        }
        connection.execute(Step.__table__.insert().values(**values))  # type: ignore[attr-defined]
    return of_job(connection, job_id)


def take_in(
    database: Database,
    connection: Connection,
    job_id: int,
    step: OpenStep,
    content_ids: Sequence[int],
    fresh: dict[int, int] | None = None,
) -> Planned:
    """Plan those of these contents that lack an outcome, count the others and follow what they lead to.

    They are ones that the step has not met. `fresh` gives the characters of those that nobody can have computed.
    """
    gate.refer(database, connection)
    sizes = dict(fresh or {})
    known = [content_id for content_id in content_ids if content_id not in sizes]
    prior = rows.known_outcomes(database, connection, step.spec_id, known)
    sizes |= rows.n_chars(connection, [content_id for content_id in known if content_id not in prior])
    lacking = [(content_id, sizes[content_id]) for content_id in content_ids if content_id not in prior]
    plan(database, connection, job_id, step, lacking)
    found = Tally.of(prior.values())
    planned = Planned(len(lacking), found.done, found.failed, found.skipped)
    if not prior:
        return planned
    connection.execute(
        update(Step)
        .where(Step.job_id == job_id, Step.seq == step.seq)
        .values(
            n_prior_done=Step.n_prior_done + found.done,
            n_prior_failed=Step.n_prior_failed + found.failed,
            n_prior_skipped=Step.n_prior_skipped + found.skipped,
            n_prior_truncated=Step.n_prior_truncated + found.truncated,
        )
    )
    done = [content_id for content_id, outcome in prior.items() if outcome.status == Status.DONE]
    return planned + follow(database, connection, job_id, step.seq, step.spec_id, done)


def follow(
    database: Database, connection: Connection, job_id: int, seq: int, spec_id: int, content_ids: Sequence[int]
) -> Planned:
    """Lead the outputs of these contents of a step to the steps that read it. Doing it twice changes nothing.

    Contents that have no output, since they failed say, lead nowhere.
    """
    reading = _STEPS.where(Step.job_id == job_id, Step.input_step == seq).order_by(Step.seq)
    followers = [*map(_open, connection.execute(reading))]
    if not followers or not content_ids:
        return Planned()
    gate.refer(database, connection)
    outputs, fresh = _outputs(database, connection, spec_id, content_ids)
    total = Planned()
    for follower in followers:
        new = meet(database, connection, job_id, follower.seq, outputs)
        sizes = {content_id: fresh[content_id] for content_id in new if content_id in fresh}
        total += take_in(database, connection, job_id, follower, new, sizes)
    return total


def _outputs(
    database: Database, connection: Connection, spec_id: int, content_ids: Sequence[int]
) -> tuple[list[int], dict[int, int]]:
    """The outputs of contents under a spec as contents, each once, and the characters of those that are new."""
    columns = OutcomeRow.__table__.c
    text = case((columns.output_id.is_(None), columns.text)).label("text")  # of the others it is stored already
    done = select(columns.content_id, text, columns.output_id).where(
        columns.spec_id == spec_id, columns.status == str(Status.DONE)
    )
    found = database.probe(connection, done, columns.content_id, content_ids)
    stored = {row.content_id: row.output_id for row in found if row.output_id is not None}
    unstored = {
        row.content_id: hashlib.sha256(row.text.encode()).digest() for row in found if row.content_id not in stored
    }
    texts = {unstored[row.content_id]: row.text for row in found if row.content_id in unstored}
    ids, fresh = contents.store(database, connection, texts) if texts else ({}, {})
    made = {content_id: ids[sha256] for content_id, sha256 in unstored.items()}
    if made:
        connection.execute(
            update(OutcomeRow.__table__)  # type: ignore[arg-type]
            .where(columns.spec_id == spec_id, columns.content_id == bindparam("of"))
            .values(output_id=bindparam("put_out")),
            [{"of": content_id, "put_out": output_id} for content_id, output_id in sorted(made.items())],
        )
    return sorted({*stored.values(), *made.values()}), fresh


def meet(
    database: Database, connection: Connection, job_id: int, seq: int, content_ids: Sequence[int]
) -> Sequence[int]:
    """Those of these contents that the step meets for the first time; from now on it has met them."""
    if database.is_sqlite:
        met = database.insert(StepText).on_conflict_do_nothing().returning(StepText.content_id)
        values = [{"job_id": job_id, "step": seq, "content_id": content_id} for content_id in content_ids]
        return sorted(connection.scalars(met, values)) if values else []
    n = len(content_ids)
    columns: bulk.Columns = {"job_id": [job_id] * n, "step": [seq] * n, "content_id": content_ids}
    new = bulk.insert(connection, StepText, columns, "ON CONFLICT DO NOTHING RETURNING content_id")
    return sorted(new.scalars())


def plan(
    database: Database,
    connection: Connection,
    job_id: int,
    step: OpenStep,
    sized: Sequence[tuple[int, int]],
    *,
    redo: bool = False,
) -> None:
    """Cut (content id, characters) into planned shards of a step."""
    new = [
        {
            **UNTOUCHED,
            "job_id": job_id,
            "step": step.seq,
            "spec_id": step.spec_id,
            "lane": step.lane,
            "contents": pack([content_id for content_id, _ in shard]),
            "n_contents": len(shard),
            "n_chars": sum(chars for _, chars in shard),
            "state": "planned",
            "redo": redo,
        }
        for shard in cut(sized, SHARD_SIZES.get(step.lane, DEFAULT_SHARD_SIZE))
    ]
    bulk.load(database, connection, Shard, bulk.columns_of(new))
