"""A table that is read by columns equals the table of the rows, for every type of output."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from docmill.storage.core.database import Database
from docmill.storage.core.specs import Outcome, Reason, Spec, Status
from docmill.storage.errors import NotFound
from docmill.storage.outputs.output_types import (
    LABELS,
    RANKING,
    RECORD,
    REDACTED,
    SPANS,
    TEXT,
    VECTOR,
    WEIGHTS,
    Output,
    OutputType,
)
from docmill.storage.results import columnar
from docmill.storage.results.columnar import read_table
from docmill.storage.results.results import columns, results
from docmill.storage.steps.conditions import Flagged
from docmill.storage.steps.steps import StepRequest
from docmill.storage.writers import arrow
from docmill.storage.writers.arrow import ResultColumns
from tests.storage.builders import COPY, by_text, make_chunk, numbered, read, read_chunk, request, run_job, work
from tests.storage.outputs.test_output_types import EXAMPLES

ODD = 'a "b"\\\n\tµ 𝔸 \x7f\u2028{}'
PROPERTIES = {"title": {"type": "string"}, "pages": {"type": "integer"}, "price": {"type": "number"}, "tags": {}}
SCHEMA = {"json_schema": json.dumps({"properties": PROPERTIES})}
Case = tuple[OutputType, Mapping[str, Any], Sequence[Output]]


def vector(*numbers: float) -> Output:
    return Output(vector=np.array(numbers, "<f4").tobytes())


CASES: dict[str, Case] = {
    "text": (TEXT, {}, [Output(text=ODD), Output(text=""), Output(text="a")]),
    "several texts": (TEXT, {"n": 2}, [TEXT.stored([ODD, ""]), TEXT.stored(["a", "b"], [0]), Output(text="one")]),
    "sentences": (
        TEXT,
        {RANKING: "centrality"},
        [TEXT.cited(ODD, [(0, 3, 0.5), (5, 9, 1 / 3)]), TEXT.cited(ODD, [])],
    ),
    "vector": (VECTOR, {}, [vector(1.5, -2.0), vector(0.0, 1e-40)]),
    "windows": (
        VECTOR,
        {"windows": "all"},
        [replace(vector(1, 2, 3, 4), data={"windows": [[0, 3], [3, 9]], "dim": 2})],
    ),
    "weights": (WEIGHTS, {}, [WEIGHTS.stored([(ODD, 3, 0.1), ("b", 7, 2.0)]), WEIGHTS.stored([])]),
    "labels": (LABELS, {}, [LABELS.stored([("bad", 1 / 3), (ODD, 2 / 3)]), LABELS.stored([])]),
    "spans": (SPANS, {}, [SPANS.stored(ODD, [("PER", 0, 5, 1.0), ("LOC", 5, 9, 0.25)]), SPANS.stored(ODD, [])]),
    "record": (
        RECORD,
        SCHEMA,
        [
            RECORD.stored({"title": ODD, "pages": 3, "price": 2**53 + 1, "tags": ["a"]}),
            RECORD.stored({"title": None, "pages": 1.5, "price": "dear", "other": {}}),
        ],
    ),
    "record without a schema": (RECORD, {"cite": True}, [RECORD.stored({"b": 1, "a": ODD}, {"/a": [0, 1]})]),
    "redacted": (
        REDACTED,
        {},
        [EXAMPLES[REDACTED].stored, Output(text=ODD, data={"spans": []})],
    ),
}


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columnar, "PAGE_ROWS", 3)
    monkeypatch.setattr(columnar, "FETCHED_ROWS", 2)


def run_case(database: Database, case: Case) -> int:
    """Run a job whose results are the case's outputs in turn, some with flags and confidences. Return its number."""
    output, params, stored = case
    spec = Spec(output.name, "null", "sha256:1", params=params)
    metas: list[dict[str, Any]] = [{}, {"b": [ODD, 1.0, None], "a": {"long key": 2**53, "é": True}}]
    flags = [(), ("invalid_utf8",)]
    documents = [(f"k{n} {ODD}", f"text {n}", metas[n % 2], flags[n // 2 % 2], n) for n in range(8)]
    chunk = make_chunk(*documents, ("k9", "fails", {}, (), 9), ("k10", "text 1", {}, (), 10))  # the second time
    job = read_chunk(database, request(steps=(StepRequest("step", spec),)), chunk)
    some: list[dict[str, Any]] = [{}, {"confidence": 0.25, "mean_logprob": -1 / 3, "flags": ("windowed",)}]
    outputs, sure = cycle(stored), cycle(some)

    def computed(content_id: int, text: str) -> Outcome:
        if text == "fails":
            return Outcome(content_id, Status.FAILED, reason="no", reason_class=Reason.DOCUMENT)
        return replace(Outcome.done(content_id, next(outputs), tokens_in=len(text)), **next(sure))

    work(database, lambda claim: [computed(*text) for text in claim.texts])
    return job.id


def require_equal(database: Database, job_id: int, step: str | None = None) -> pa.Table:
    """Return the table of a job's columns, which has to equal the table of its rows."""
    wanted = columns(database, job_id, step)
    by_columns = read_table(database, job_id, wanted, step).combine_chunks()
    by_rows = arrow.table(wanted, list(results(database, job_id, step=step))).combine_chunks()
    assert by_columns.schema == by_rows.schema
    for name in by_rows.column_names:
        assert by_columns[name].equals(by_rows[name]), name
    return by_columns


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_column_of_every_type_equals_that_of_the_rows(database: Database, case: Case) -> None:
    table = require_equal(database, run_case(database, case))
    assert table.num_rows == 9
    assert table["flags"].to_pylist()[3] == ["invalid_utf8", "windowed"]


def test_a_named_step_has_the_documents_that_it_read(database: Database) -> None:
    steps = (
        StepRequest("first", COPY),
        StepRequest("second", replace(COPY, model="other"), "first", Flagged(frozenset({"repetition"}))),
    )
    job = read(database, request(steps=steps), numbered(9))
    work(database, by_text(lambda text: {"text": f"{text}!", "flags": ("repetition",) if int(text[5]) % 3 else ()}))
    assert require_equal(database, job.id, "first").num_rows == 9
    assert require_equal(database, job.id, "second").num_rows == 6
    with pytest.raises(NotFound):
        read_table(database, job.id, (), "third")


def test_a_table_has_the_versions_that_its_job_saw(database: Database) -> None:
    job = run_job(database, request(), numbered(4))
    later = run_job(database, request("b.jsonl"), [("k1", "changed"), ("k9", "new")])
    assert require_equal(database, job.id)["id"].to_pylist() == ["k0", "k1", "k2", "k3"]
    assert require_equal(database, later.id).num_rows == 5


TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=9)
SCORES = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=60)
@given(labels=st.lists(st.lists(st.tuples(TEXTS, SCORES), max_size=3), min_size=1, max_size=5))
def test_any_labels_and_scores_equal_those_of_the_rows(labels: list[list[tuple[str, float]]]) -> None:
    stored = [LABELS.stored(output) for output in labels]
    n = len(stored)
    values: dict[str, list[Any]] = {
        "vector": [None] * n,
        "key": ["k"] * n,
        "text": [output.text for output in stored],
    }
    values["data"] = [json.dumps(output.data) for output in stored]
    page = ResultColumns("classify", LABELS, values)
    wanted = LABELS.columns({})
    assert page.table(wanted).equals(arrow.table(wanted, [LABELS.result(output) for output in stored]))
