"""Laws of any sequence of readings, interrupted or not, of sources that share keys and texts."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from docmill.storage.core.database import Database
from docmill.storage.core.specs import Spec
from docmill.storage.steps.jobs import OpenJob
from tests.storage.builders import Text, documents, finish, outcomes, planned, read, request

KEYS = st.sampled_from(["a", "b", "c", "d"])
TEXTS = st.sampled_from(["one", "two", "three", "four", "five"])


@dataclass(frozen=True)
class SourceReading:
    """A reading of a source in chunks, which may be cut off after some of them, and whose job may be worked off."""

    source: str
    revision: str
    texts: list[Text]
    chunk: int
    cut_off: int | None
    worked_off: bool


READINGS = st.builds(
    SourceReading,
    source=st.sampled_from(["left", "right"]),
    revision=st.sampled_from(["r1", "r2"]),
    texts=st.lists(st.tuples(KEYS, TEXTS), max_size=6),
    chunk=st.integers(1, 3),
    cut_off=st.none() | st.integers(0, 2),
    worked_off=st.booleans(),
)


@pytest.mark.slow
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(readings=st.lists(READINGS, min_size=1, max_size=6))
def test_a_corpus_is_what_a_dictionary_would_be_and_every_text_is_planned_once(
    database: Database, readings: list[SourceReading]
) -> None:
    corpus = uuid.uuid4().hex  # an example has a corpus and specs of its own, not a database of its own
    possible: dict[str, set[str]] = {}
    ends: dict[int, dict[str, str]] = {}
    for reading in readings:
        spec = Spec("copy", corpus, reading.revision)
        job = read(
            database,
            request(reading.source, corpus=corpus, spec=spec),
            reading.texts,
            chunk=reading.chunk,
            stop_after=reading.cut_off,
        )
        current = documents(database, corpus_id=job.corpus_id)
        if reading.cut_off is None:
            possible |= {key: {text} for key, text in reading.texts}
            assert_all_is_planned_once(database, job)
            assert documents(database, job) == current
            ends[job.id] = current
        else:  # changes may have been held back until the end of the reading, which never came
            for key, text in reading.texts[: reading.cut_off * reading.chunk]:
                possible[key] = possible.get(key, set()) | {text}
            ends.pop(job.id, None)
        assert current.keys() == possible.keys()
        assert all(current[key] in possible[key] for key in current)
        possible = {key: {text} for key, text in current.items()}
        if reading.worked_off:
            finish(database)
    for job_id, current in ends.items():
        assert documents(database, job_id) == current


def assert_all_is_planned_once(database: Database, job: OpenJob) -> None:
    in_shards = planned(database, job)
    settled = {text for (spec_id, text) in outcomes(database) if spec_id == str(job.steps[0].spec_id)}
    assert set(in_shards.values()) <= {1}
    assert set(documents(database, job).values()) <= in_shards.keys() | settled
