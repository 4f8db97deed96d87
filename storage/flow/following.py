"""What a step has met, planned and found done, and how one step leads to the next.

What a step puts out becomes a content, and contents become shards of the steps that read it, in the transaction that
writes the outcomes: so no step waits for another to end, and none misses a text.

A step whose template has metadata in it reads a prompt for each document. It can be rendered once both are there, the
document and the text that it goes around, and whichever comes last plans it: a document when it is walked
(`plan_prompts`), a text when it is put out (`follow`). The two take turns (`storage.gate`), so that neither looks
for the other while it is on its way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

from sqlalchemy import Connection, bindparam, case, select, update

from storage import bulk, contents, gate, rows
from storage.database import Database
from storage.flow import prompts, steps, ways
from storage.flow.cutting import cut, pack
from storage.flow.steps import OpenStep
from storage.outcomes import Status, Tally
from storage.schema import OutcomeRow, Shard, Step, StepText

UNTOUCHED = {  # the columns of a shard that nobody has claimed
    "step": 0,
    "fence": 0,
    "attempt": 0,
    "suspect": 0,
    "lapses": 0,
    "not_before": 0.0,
    "n_done": 0,
    "n_failed": 0,
    "n_skipped": 0,
    "n_truncated": 0,
    "tokens_in": 0,
    "tokens_out": 0,
}


@dataclass(frozen=True)
class Planned:
    """Texts of steps: those that were put into shards, and those that had an outcome before, by its status."""

    planned: int = 0
    prior_done: int = 0
    prior_failed: int = 0
    prior_skipped: int = 0

    def __add__(self, other: Planned) -> Planned:
        return Planned(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Planned)))


def take_in(
    database: Database,
    connection: Connection,
    job_id: int,
    step: OpenStep,
    content_ids: Sequence[int],
    fresh: Mapping[int, int] | None = None,
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
    followers = steps.reading(connection, job_id, seq)
    if not followers or not content_ids:
        return Planned()
    gate.refer(database, connection)
    outputs, fresh = _outputs(database, connection, spec_id, content_ids)
    total = Planned()
    for follower in followers:
        if follower.template is None:
            total += _take_in_new(database, connection, job_id, follower, outputs, fresh)
    if any(follower.template is not None for follower in followers):
        gate.follow(database, connection, job_id)
        every = steps.of_job(connection, job_id)
        own = ways.documents(database, connection, job_id, steps.way_to(every, every[seq]), content_ids)
        total += _plan_prompts(database, connection, job_id, every, followers, own)
    return total


def plan_prompts(
    database: Database,
    connection: Connection,
    job_id: int,
    every: Sequence[OpenStep],
    own: Mapping[int, int],
) -> Planned:
    """Plan what the templates of a job's steps make of documents that it walks, as far as it has not met it.

    `own` has their contents. Of a step that reads another's text there may be none yet: `follow` plans it then.
    Call it when the documents are stored, and `gate.walk` before looking at anything.
    """
    return _plan_prompts(database, connection, job_id, every, every, own)


def has_prompts(every: Iterable[OpenStep]) -> bool:
    """Whether any of these steps has a prompt for each document."""
    return any(step.template is not None for step in every)


def _plan_prompts(
    database: Database,
    connection: Connection,
    job_id: int,
    every: Sequence[OpenStep],
    of: Iterable[OpenStep],
    own: Mapping[int, int],
) -> Planned:
    total = Planned()
    for step in of:
        if step.template is not None and own:
            gate.refer(database, connection)
            given = ways.given(database, connection, steps.way_to(every, step), own)
            content_ids, fresh = prompts.render(database, connection, step, given)
            total += _take_in_new(database, connection, job_id, step, content_ids, fresh)
    return total


def _take_in_new(
    database: Database,
    connection: Connection,
    job_id: int,
    step: OpenStep,
    content_ids: Sequence[int],
    fresh: Mapping[int, int],
) -> Planned:
    new = meet(database, connection, job_id, step.seq, content_ids)
    sizes = {content_id: fresh[content_id] for content_id in new if content_id in fresh}
    return take_in(database, connection, job_id, step, new, sizes)


def _outputs(
    database: Database, connection: Connection, spec_id: int, content_ids: Sequence[int]
) -> tuple[list[int], dict[int, int]]:
    """The outputs of contents under a spec as contents, each once, and the characters of those that are new."""
    text = case((OutcomeRow.output_id.is_(None), OutcomeRow.text)).label("text")  # of the others it is stored already
    done = select(OutcomeRow.content_id, text, OutcomeRow.output_id).where(
        OutcomeRow.spec_id == spec_id, OutcomeRow.status == str(Status.DONE)
    )
    found = database.probe(connection, done, OutcomeRow.content_id, content_ids)
    stored = {row.content_id: row.output_id for row in found if row.output_id is not None}
    unstored = {
        row.content_id: hashlib.sha256(row.text.encode()).digest() for row in found if row.content_id not in stored
    }
    texts = {unstored[row.content_id]: row.text for row in found if row.content_id in unstored}
    ids, fresh = contents.store(database, connection, texts) if texts else ({}, {})
    made = {content_id: ids[sha256] for content_id, sha256 in unstored.items()}
    if made:
        connection.execute(
            update(OutcomeRow)
            .where(OutcomeRow.spec_id == spec_id, OutcomeRow.content_id == bindparam("of"))
            .values(output_id=bindparam("put_out")),
            [{"of": content_id, "put_out": output_id} for content_id, output_id in sorted(made.items())],
        )
    return sorted({*stored.values(), *made.values()}), fresh


def meet(
    database: Database, connection: Connection, job_id: int, seq: int, content_ids: Sequence[int]
) -> Sequence[int]:
    """Those of these contents that the step meets for the first time; from now on it has met them."""
    if not content_ids:
        return []
    if database.is_sqlite:
        met = database.insert(StepText).on_conflict_do_nothing().returning(StepText.content_id)
        values = [{"job_id": job_id, "step": seq, "content_id": content_id} for content_id in content_ids]
        return sorted(connection.scalars(met, values))
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
        for shard in cut(sized, database.kind_of(step.lane).shard)
    ]
    bulk.load(database, connection, Shard, bulk.columns_of(new))
