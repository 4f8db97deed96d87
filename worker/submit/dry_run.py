"""Forecast a run without storing anything: documents, texts done already, tokens and time."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import orjson
from sqlalchemy import and_, select

from docmill.storage import templates
from docmill.storage.core.database import Database
from docmill.storage.core.schema import Content, OutcomeRow, SpecRow
from docmill.storage.ingest.chunks import read_chunks
from docmill.storage.ingest.ingest import Counts
from docmill.storage.results.results import Reservoir
from docmill.storage.steps import fitted_risks
from docmill.tasks import kinds
from docmill.worker.engines import Count, measure, open_token_counter
from docmill.worker.settings import Settings
from docmill.worker.submit.enqueue import IngestProgress
from docmill.worker.submit.request import Prepared

SAMPLE_CHARS = 2_000  # of each text: the sample stays short where documents are long


@dataclass(frozen=True)
class Forecast:
    """The forecast of a run. Seconds are extrapolated by characters from a measured sample, tokens written by texts.

    Tokens read are extrapolated by characters, or counted by the tokenizer that the spec names for a served model.

    `escalated_s` is the time to escalate all texts that are to do; None without an escalation.
    """

    documents: int
    rejected: int
    superseded: int
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
    progress: IngestProgress,
) -> Forecast:
    """Read the source, compare with the store, compute a small sample. Stores nothing.

    Raises StorageError if an escalation has a bound of a risk that nobody has fitted, WorkerError and
    ServerUnreachable.
    """
    fitted_risks.require_risks(database, prepared.steps)
    with open_token_counter(settings, device, prepared.spec) as count:
        survey = _surveyed(database, prepared, progress, count)
    sample = survey.sample.kept
    measured = measure(settings, device, prepared.spec, sample) if sample else None
    again = prepared.steps[0].escalation
    factor = survey.chars / measured.chars if measured and measured.chars else 0.0
    tokens_in = measured.tokens_in if measured else 0
    return Forecast(
        documents=survey.documents,
        rejected=survey.rejected,
        superseded=survey.records - survey.documents,
        texts=survey.texts,
        done_already=survey.texts - survey.missing,
        chars_to_do=survey.chars,
        tokens_to_do=round(tokens_in * factor) if count is None else survey.tokens,
        seconds=(measured.seconds * factor + measured.load_s) if measured else 0.0,
        load_s=measured.load_s if measured else 0.0,
        sampled=len(sample),
        tokens_per_s=tokens_in / measured.seconds if measured else 0.0,
        tokens_out_to_do=round(measured.tokens_out / len(sample) * survey.missing) if measured else 0,
        escalated_s=measure(settings, device, again.spec, sample).seconds * factor if again and sample else None,
    )


@dataclass
class _Survey:
    """The counts of a source. ``chars``, ``tokens`` and ``sample`` are of the texts that have no result."""

    sample: Reservoir[str]
    records: int = 0
    documents: int = 0
    rejected: int = 0
    texts: int = 0
    missing: int = 0
    chars: int = 0
    tokens: int = 0


def _surveyed(database: Database, prepared: Prepared, progress: IngestProgress, count: Count | None) -> _Survey:
    """Return the counts of a source, with its tokens if ``count`` is given, and a sample of its texts."""
    survey = _Survey(Reservoir(kinds.kind(prepared.spec.kind).sample_texts))
    # Beginnings of hashes: of a billion texts two agree in these eight bytes with a chance of 3 %.
    seen, keys = set[bytes](), set[bytes]()
    template = templates.over_metadata(prepared.spec.params)
    for chunk, rejected in read_chunks(prepared.source):
        for rejection in rejected:
            progress.rejected(rejection)
        survey.rejected += len(rejected)
        survey.records += chunk.n_records
        keys.update(hashlib.sha256(key.encode()).digest()[:8] for key in chunk.keys)
        fresh: dict[bytes, str] = {}
        for text, meta in zip(chunk.texts, chunk.metas, strict=True):
            computed = text if template is None else template.render(text, orjson.loads(meta))
            digest = hashlib.sha256(computed.encode()).digest()
            if digest[:8] not in seen:
                seen.add(digest[:8])
                fresh[digest] = computed
        missing = _missing(database, prepared, fresh)
        survey.tokens += 0 if count is None else count([text for text in missing if text.strip()])
        for text in missing:
            survey.chars += len(text)
            survey.missing += 1
            survey.sample.offer(text[:SAMPLE_CHARS])
        progress.advanced(Counts(records=survey.records, rejected=survey.rejected))
    survey.documents, survey.texts = len(keys), len(seen)
    return survey


def _missing(database: Database, prepared: Prepared, fresh: dict[bytes, str]) -> list[str]:
    """Return the texts that have no result, of those with these hashes."""
    known = set(
        database.values(
            select(Content.sha256)
            .join(OutcomeRow, OutcomeRow.content_id == Content.id)
            .join(SpecRow, and_(SpecRow.id == OutcomeRow.spec_id, SpecRow.sha256 == prepared.spec.sha256))
            .where(Content.sha256.in_(list(fresh)))
        )
    )
    return [text for digest, text in fresh.items() if digest not in known]
