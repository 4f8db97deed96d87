"""Forecast a run without storing anything: documents, texts done already, tokens and time."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from sqlalchemy import and_, select

from storage.core.database import Database
from storage.core.schema import Content, OutcomeRow, SpecRow
from storage.ingest.chunks import Rejected
from storage.ingest.ingest import Counts
from storage.readers import Record
from storage.steps import fitted_risks, templates
from tasks import kinds
from worker.engines.throughput import measure
from worker.settings import Settings
from worker.submit.progress import Progress
from worker.submit.request import Prepared

SAMPLE_CHARS = 2_000  # of each text: the sample stays short where documents are long
PAGE = 1_000


@dataclass(frozen=True)
class Forecast:
    """The forecast of a run. Tokens read and seconds are extrapolated by characters from a measured sample.

    Tokens written are extrapolated by texts.

    `escalated_s` is the time to escalate all texts that are to do; None without an escalation.
    """

    documents: int
    rejected: int
    texts: int
    done_already: int
    chars_to_do: int
    tokens_to_do: int
    seconds: float
    load_s: float
    sampled: int
    tokens_per_s: float
    escalated_s: float | None = None
    tokens_out_to_do: int = 0


def forecast(
    settings: Settings,
    database: Database,
    prepared: Prepared,
    device: str,
    progress: Progress,
) -> Forecast:
    """Read the source, compare with the store, compute a small sample. Stores nothing.

    Raises NoRisk if an escalation has a bound of a risk that nobody has fitted.
    """
    fitted_risks.require(database, prepared.steps)
    source = prepared.source.records()
    wanted = kinds.kind(prepared.spec.kind).sample_texts
    documents = rejected = done = chars = n_missing = 0
    seen: set[bytes] = set()
    sample: list[str] = []
    template = templates.over_metadata(prepared.spec.params)
    chance = random.Random(0)  # noqa: S311 - a sample that can be repeated
    while page := list(islice(source, PAGE)):
        records = [record for record in page if isinstance(record, Record)]
        for record in page:
            if not isinstance(record, Record):
                progress.rejected(Rejected(record.where, record.reason, record.fatal))
        rejected += len(page) - len(records)
        documents += len(records)
        fresh: dict[bytes, str] = {}
        for record in records:
            text = record.text if template is None else template.render(record.text, record.meta)
            digest = hashlib.sha256(text.encode()).digest()
            if digest[:8] not in seen:  # of a billion texts two agree in these with a chance of 3 %
                seen.add(digest[:8])
                fresh[digest] = text
        missing = list(_missing(database, prepared, fresh))
        done += len(fresh) - len(missing)
        for text in missing:
            chars += len(text)
            n_missing += 1
            if len(sample) < wanted:
                sample.append(text[:SAMPLE_CHARS])
            elif (place := chance.randrange(n_missing)) < wanted:
                sample[place] = text[:SAMPLE_CHARS]
        progress.advanced(Counts(records=documents, rejected=rejected))
    measured = measure(settings, device, prepared.spec, sample) if sample else None
    factor = chars / measured.chars if measured and measured.chars else 0.0
    tokens_in = measured.tokens_in if measured else 0
    return Forecast(
        documents=documents,
        rejected=rejected,
        texts=len(seen),
        done_already=done,
        chars_to_do=chars,
        tokens_to_do=round(tokens_in * factor),
        seconds=(measured.seconds * factor + measured.load_s) if measured else 0.0,
        load_s=measured.load_s if measured else 0.0,
        sampled=len(sample),
        tokens_per_s=tokens_in / measured.seconds if measured else 0.0,
        tokens_out_to_do=round(measured.tokens_out / len(sample) * n_missing) if measured else 0,
        escalated_s=_escalated_s(settings, device, prepared, sample, factor),
    )


def _escalated_s(
    settings: Settings, device: str, prepared: Prepared, sample: list[str], factor: float
) -> float | None:
    escalation = prepared.steps[0].escalation
    if escalation is None or not sample:
        return None
    return measure(settings, device, escalation.spec, sample).seconds * factor


def _missing(database: Database, prepared: Prepared, fresh: dict[bytes, str]) -> Iterator[str]:
    with database.read() as transaction:
        known = set(
            transaction.scalars(
                select(Content.sha256)
                .join(OutcomeRow, OutcomeRow.content_id == Content.id)
                .join(SpecRow, and_(SpecRow.id == OutcomeRow.spec_id, SpecRow.sha256 == prepared.spec.sha256))
                .where(Content.sha256.in_(list(fresh)))
            )
        )
    return (text for digest, text in fresh.items() if digest not in known)
