"""Plan contents at a job's steps, and propagate the outputs of a step to the steps that read it.

The output of a step becomes a content, and is planned at the steps that read it, in the transaction that writes the
outcome. So no step waits for the end of another, and no step misses a text.

A step may have an escalation. Then a content whose outcome is doubted goes to the escalation first, and so may a
content on which the step failed. Once the escalation has an outcome, the better of the two goes to the readers.

A step whose template has metadata reads a prompt for each document. The prompt needs the document and the text that
it contains, and the later of the two plans it: a document when the job reaches it (`Traversal.plan_prompts`), a text
when it becomes a step's output (`Traversal.follow`). They lock each other out (`Transaction.stop_following`,
`Transaction.stop_walking`), so that neither takes itself for the earlier one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from sqlalchemy import and_, case, update

from docmill.storage.core import lookups
from docmill.storage.core.schema import OutcomeRow, Step, StepText
from docmill.storage.core.specs import Known, Status, tally
from docmill.storage.core.transaction import Columns, Transaction
from docmill.storage.steps import choosing, lineage, steps
from docmill.storage.steps.choosing import OutcomePair, compared_by, select_read
from docmill.storage.steps.conditions import Flagged, is_doubtful
from docmill.storage.steps.sharding import plan
from docmill.storage.steps.steps import OpenStep

ContentId: TypeAlias = int
DocumentId: TypeAlias = int
# A step, the contents that it computes, and the lengths in characters of those that this transaction stored.
_Arrival: TypeAlias = tuple[OpenStep, Sequence[ContentId], Mapping[ContentId, int]]


def has_prompts(steps: Iterable[OpenStep]) -> bool:
    """Return True if any of these steps has a prompt for each document."""
    return any(step.template is not None for step in steps)


@dataclass(frozen=True)
class Traversal:
    """A depth-first traversal of a job's steps within one transaction. A repeated traversal changes nothing.

    Methods that plan texts return the number of texts that they put into shards.
    """

    transaction: Transaction
    job_id: int
    steps: Sequence[OpenStep]

    def take_in(self, step: OpenStep, content_ids: Sequence[ContentId], new_chars: Mapping[ContentId, int]) -> int:
        """Plan contents that the step has not met, count those that have an outcome, and follow their outputs.

        `new_chars` has the lengths in characters of contents that this transaction stored, which have no outcome yet.
        Lengths of other contents are ignored.
        """
        self.transaction.keep_contents()
        planned, prior = self._plan_lacking(step, content_ids, new_chars)
        return planned + self.follow(step.seq, prior)

    def follow(self, seq: int, settled: Mapping[ContentId, Known], *, redo: bool = False) -> int:
        """Pass contents that a step has settled, with their status, to its escalation or to the steps that read it.

        `seq` is the number of a step or of an escalation. A content without an output is passed to no reader. `redo`
        says that contents which had failed were tried again.
        """
        if not settled or not any(step.input_step is not None or step.escalation for step in self.steps):
            return 0
        step = steps.find_computed(self.steps, seq)
        ready = [content_id for content_id, outcome in settled.items() if outcome.status == Status.DONE]
        total = 0
        if step.escalation is not None:
            pairs = choosing.read_pairs(self.transaction, step, [*settled])
            doubted = sorted(content_id for content_id, pair in pairs.items() if pair.is_doubted)
            if seq == step.seq and doubted:
                total += self._arrive([(step.escalation, doubted, {})])
            if step.escalation.doubt.failed:
                self._count_rescued(
                    step.escalation.seq, _count_newly_rescued(pairs, of_first=seq == step.seq, redo=redo)
                )
            ready = [content_id for content_id, pair in pairs.items() if pair.is_settled]
        return total + self._arrive(self._readers(step, ready))

    def count_doubtful(self, seq: int, content_ids: Collection[ContentId], *, redo: bool) -> int | None:
        """Return the number of contents of a shard whose result is doubtful, at a step with an escalation.

        A content that waits for the escalation has no result yet. Return None for a step without an escalation, and 0
        for contents that the escalation tries again: they were counted when it failed, and a retry adds none.
        """
        step = steps.find_computed(self.steps, seq)
        if step.escalation is None:
            return None
        if redo and seq != step.seq:
            return 0
        pairs = choosing.read_pairs(self.transaction, step, content_ids).values()
        results = [pair.result for pair in pairs if pair.is_settled]
        return len([result for result in results if result.status == Status.DONE and is_doubtful(result.flags)])

    def _count_rescued(self, seq: int, n: int) -> None:
        if n:
            this = and_(Step.job_id == self.job_id, Step.seq == seq)
            self.transaction.execute(update(Step).where(this).values(n_rescued=Step.n_rescued + n))

    def price_of(self, seq: int) -> Sequence[float] | None:
        """Return the price of a step or an escalation, if a budget counts it."""
        return next(step.price for step in steps.with_escalations(self.steps) if step.seq == seq)

    def plan_prompts(self, documents: Mapping[DocumentId, ContentId]) -> int:
        """Plan the prompts of documents that the job walks, at the steps that have templates.

        A step may read an output that is not there yet; `follow` plans its prompt later. Call it after the documents
        are stored, and after `stop_following`. Steps behind a filter of documents wait for `plan_filtered`.
        """
        reading = [step for step in self.steps if steps.find_way(self.steps, step)[0].leaves_out is None]
        return self._arrive(self._prompts(reading, documents))

    def plan_filtered(self, documents: Mapping[DocumentId, ContentId]) -> int:
        """Plan documents at the steps that leave some out, and at the prompts behind them.

        Call it when the filters are up to date, and after `stop_following`.
        """
        total = 0
        for step in self.steps:
            if step.leaves_out is not None and step.template is None:
                read = select_read(self.transaction, step.leaves_out, documents)
                total += self._arrive([(step, sorted({*read.values()}), {})])
        behind = [step for step in self.steps if steps.find_way(self.steps, step)[0].leaves_out is not None]
        return total + self._arrive(self._prompts(behind, documents))

    def _arrive(self, arrivals: Iterable[_Arrival]) -> int:
        """Take in the contents that their steps meet for the first time."""
        return sum(self.take_in(step, self._meet(step.seq, ids), new_chars) for step, ids, new_chars in arrivals)

    def _readers(self, before: OpenStep, done: Sequence[ContentId]) -> Iterator[_Arrival]:
        """Yield the steps that read the output of a step, with their inputs; `done` are contents of that step."""
        readers = [step for step in self.steps if step.input_step == before.seq]
        if not readers or not done:
            return
        self.transaction.keep_contents()
        outputs: dict[Flagged | None, tuple[list[ContentId], Mapping[ContentId, int]]] = {}
        for reader in readers:  # a prompt is rendered from stored outputs only
            if reader.flagged not in outputs:
                outputs[reader.flagged] = _store_outputs(self.transaction, before, done, reader.flagged)
            if reader.template is None:
                yield reader, *outputs[reader.flagged]
        if has_prompts(readers):
            self.transaction.stop_walking(self.job_id)
            way = steps.find_way(self.steps, before)
            documents = lineage.find_documents(self.transaction, self.job_id, way, done)
            yield from self._prompts(readers, documents)

    def _prompts(self, readers: Iterable[OpenStep], documents: Mapping[DocumentId, ContentId]) -> Iterator[_Arrival]:
        """Yield the readers that have templates, with the prompts of the documents that reach them."""
        for step in readers:
            if step.template is not None and documents:
                self.transaction.keep_contents()
                inputs = lineage.read_inputs(self.transaction, steps.find_way(self.steps, step), documents)
                yield step, *lineage.render_prompts(self.transaction, step, inputs)

    def _plan_lacking(
        self, step: OpenStep, content_ids: Sequence[ContentId], new_chars: Mapping[ContentId, int]
    ) -> tuple[int, dict[ContentId, Known]]:
        """Plan the contents that lack an outcome. Return their number, and the status of the others."""
        sizes = dict(new_chars)
        known = [content_id for content_id in content_ids if content_id not in sizes]
        prior = lookups.known_outcomes(self.transaction, step.spec_id, known)
        sizes |= lookups.n_chars(self.transaction, [content_id for content_id in known if content_id not in prior])
        lacking = [(content_id, sizes[content_id]) for content_id in content_ids if content_id not in prior]
        plan(self.transaction, self.job_id, step, lacking)
        if prior:
            n_by_column = {f"n_prior_{name}": n for name, n in tally(prior.values()).items() if name != "doubtful"}
            values = {column: getattr(Step, column) + n for column, n in n_by_column.items()}
            this = and_(Step.job_id == self.job_id, Step.seq == step.seq)
            self.transaction.execute(update(Step).where(this).values(**values))
        return len(lacking), prior

    def _meet(self, seq: int, content_ids: Sequence[ContentId]) -> Sequence[ContentId]:
        """Note that a step meets contents. Return the contents that it had not met before."""
        if not content_ids:
            return []
        n = len(content_ids)
        columns: Columns = {"job_id": [self.job_id] * n, "step": [seq] * n, "content_id": content_ids}
        met = self.transaction.insert_missing(StepText, columns, StepText.content_id)
        return sorted(row.content_id for row in met)


def _count_newly_rescued(pairs: Mapping[ContentId, OutcomePair], *, of_first: bool, redo: bool) -> int:
    """Return the change in the number of contents that the escalation has done and the step has not.

    One of the two has just settled `pairs`: the step if `of_first`. If the step, in a retry, has done a content that
    the escalation had done, that content is rescued no longer and counts as -1.
    """
    if not of_first:
        return sum(pair.first.status == Status.FAILED and pair.second_wins for pair in pairs.values())
    if not redo:
        return 0
    return -sum(
        pair.first.status == Status.DONE and pair.second is not None and pair.second.status == Status.DONE
        for pair in pairs.values()
    )


def _store_outputs(
    transaction: Transaction, step: OpenStep, content_ids: Sequence[ContentId], flagged: Flagged | None
) -> tuple[list[ContentId], Mapping[ContentId, int]]:
    """Return the outputs of contents at a step: those whose results meet a condition, or all.

    Outputs that are not contents yet are stored as contents. Return also the lengths in characters of new contents.
    """
    text = case((OutcomeRow.output_id.is_(None), OutcomeRow.text)).label("text")  # other outputs are contents already
    compared = () if flagged is None else compared_by(flagged)
    columns = (OutcomeRow.spec_id, OutcomeRow.status, text, OutcomeRow.output_id, *compared)
    results = choosing.read_results(transaction, step, content_ids, columns).values()
    rows = [row for row in results if row.status == Status.DONE and (flagged is None or flagged.holds(row))]
    stored = {row.content_id: row.output_id for row in rows if row.output_id is not None}
    unstored = {
        row.content_id: hashlib.sha256(row.text.encode()).digest() for row in rows if row.content_id not in stored
    }
    texts = {unstored[row.content_id]: row.text for row in rows if row.content_id in unstored}
    ids, fresh = lookups.store_contents(transaction, texts) if texts else ({}, {})
    made = {content_id: ids[sha256] for content_id, sha256 in unstored.items()}
    if made:
        spec_of = {row.content_id: row.spec_id for row in rows}
        transaction.link_outputs([(spec_of[content_id], content_id, made[content_id]) for content_id in sorted(made)])
    return sorted({*stored.values(), *made.values()}), fresh
