"""A review of a job's step: the sample, and the stored and new judgements."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from docmill.storage.core.database import Database
from docmill.storage.reviews import judgements
from docmill.storage.reviews.items import Item, items
from docmill.storage.reviews.judgements import Judged, Verdict
from docmill.storage.reviews.population import Population, ReviewedStep, population, reviewed_step
from docmill.worker.errors import ReviewRefused
from docmill.worker.reviewing.estimate import Summary, summary
from docmill.worker.reviewing.files import Entry
from docmill.worker.reviewing.strata import Stratum, sample, strata_of

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
    strata: tuple[Stratum, ...]
    judged: dict[int, Judged]

    @classmethod
    def of(cls, database: Database, job: int, step: str | None = None, seed: int | None = None) -> Review:
        """Return the review of a job's step, the last one if none is named.

        Without a seed, it continues the draw of most earlier judgements. Raises NoSuchJob, NoSuchStep, NotReviewable.
        """
        reviewed = reviewed_step(database, job, step)
        stored = {spec_id: judgements.of_spec(database, spec_id) for spec_id in reviewed.specs}
        if seed is None:
            seeds = Counter(one.seed for of_spec in stored.values() for one in of_spec.values())
            seed = max(seeds, key=lambda one: (seeds[one], -one), default=0)
        found = population(database, reviewed, seed)
        judged = {
            content: one
            for spec_id, of_spec in stored.items()
            for content, one in of_spec.items()
            if found.spec_of(content) == spec_id
        }
        return cls(database, reviewed, seed, found, tuple(strata_of(found)), judged)

    def waiting(self, size: int) -> list[int]:
        """Return the contents of a sample without a good or bad verdict; skipped ones come last."""
        contents = self.population.contents[sample(self.strata, size)].tolist()
        unmet = [content for content in contents if content not in self.judged]
        return unmet + [
            content
            for content in contents
            if content in self.judged and self.judged[content].verdict is Verdict.SKIPPED
        ]

    def items(self, contents: Sequence[int]) -> Iterator[Item]:
        """Yield outputs beside their inputs. Outputs that are removed meanwhile are left out."""
        for first in range(0, len(contents), AHEAD):
            several = contents[first : first + AHEAD]
            documents = self.population.documents[self.population.rows_of(several)].tolist()
            yield from items(self.database, self.reviewed, dict(zip(several, documents, strict=True)))

    def judge(self, *judged: Judged) -> int:
        """Store judgements of outputs. Return the number stored: outputs that were removed meanwhile are left out."""
        by_spec: dict[int, list[Judged]] = defaultdict(list)
        for one in judged:
            spec_id = self.population.spec_of(one.content_id)
            by_spec[self.reviewed.step.spec_id if spec_id is None else spec_id].append(one)
        return sum(self._store(spec_id, of_spec) for spec_id, of_spec in by_spec.items())

    def take(self, entries: Sequence[Entry], judged_by: str) -> int:
        """Store the judgements of a file, if all can be stored. Return their number. Raises ReviewRefused."""
        ids = {sha256: spec_id for spec_id, sha256 in self.reviewed.specs.items()}
        for entry in entries:
            if entry.spec not in ids:
                raise ReviewRefused(
                    f"{entry.place}: this is no output of step {self.reviewed.step.name} of job "
                    f"{self.reviewed.job}; import the file for the job that it was exported from"
                )
        taken: dict[int, list[Judged]] = defaultdict(list)
        for spec, spec_id in ids.items():
            of_spec = [entry for entry in entries if entry.spec == spec]
            known = judgements.of_spec(self.database, spec_id)
            found = judgements.contents_of(self.database, spec_id, {entry.sha256 for entry in of_spec})
            for entry in of_spec:
                if entry.sha256 not in found:
                    raise ReviewRefused(f"{entry.place}: the store has no output of this text, or it was removed")
                one = Judged(found[entry.sha256], entry.verdict, entry.judged_by or judged_by, entry.seed, entry.note)
                if one.verdict is not Verdict.SKIPPED or one.content_id not in known:
                    taken[spec_id].append(one)
        return sum(self._store(spec_id, of_spec) for spec_id, of_spec in taken.items())

    def _store(self, spec_id: int, judged: Sequence[Judged]) -> int:
        stored = judgements.store(self.database, spec_id, judged)
        ours = [one for one in judged if self.population.spec_of(one.content_id) == spec_id]
        self.judged.update({one.content_id: one for one in ours})
        return stored

    def summary(self) -> Summary:
        """Return the shares of good outputs."""
        return summary(self.population, self.strata, self.judged)
