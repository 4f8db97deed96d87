"""Every type of output is stored, read back, written in each format, and shown in a view."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet
from python_calamine import CalamineWorkbook
from sqlalchemy import select

from docmill.storage.core.database import Database
from docmill.storage.core.schema import SpecRow
from docmill.storage.core.specs import WRITING_SIZE, Outcome, Spec, Status, StoredKind, check_outcome
from docmill.storage.errors import SchemaOutOfDate
from docmill.storage.outputs.columns import Form
from docmill.storage.outputs.output_types import (
    LABELS,
    OUTPUT_TYPES,
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
from docmill.storage.pipelines import views
from docmill.storage.results.results import columns, failures, inputs, people_columns, results
from docmill.storage.steps.jobs import JobRequest
from docmill.storage.steps.steps import StepRequest
from docmill.storage.writers import WRITERS, Target
from docmill.storage.writers.formats import Writer
from tests.storage.builders import read, work

DOCUMENT = "Ada met Bob."
SCHEMA = {
    "properties": {
        "title": {"type": "string"},
        "price": {"type": ["number", "null"]},
        "pages": {"type": "integer"},
        "new": {"type": "boolean"},
        "tags": {"type": "array"},
        "status": {"type": "string"},
    }
}
BOOK = {"title": "=1+1", "price": 9.5, "pages": 3, "new": True, "tags": ["a", "b"], "status": "sold"}
LABELLED = [{"label": "good", "score": 0.75}, {"label": "bad", "score": 0.25}]
WEIGHED = [{"token": "##a", "token_id": 7, "weight": 1.5}, {"token": "b", "token_id": 3, "weight": 0.25}]
FOUND = [
    {"label": "PER", "text": "Ada", "start": 0, "end": 3, "score": 0.5},
    {"label": "PER", "text": "Bob", "start": 8, "end": 11, "score": 1.0},
]
REPLACED = [
    {"label": "PER", "text": "[PER]", "start": 0, "end": 5, "source_start": 0, "source_end": 3, "score": 0.5},
    {"label": "PER", "text": "[PER]", "start": 10, "end": 15, "source_start": 8, "source_end": 11, "score": 1.0},
]
CITED = [{"text": "Ada", "start": 0, "end": 3, "score": 0.5}, {"text": "Bob", "start": 8, "end": 11, "score": 1.0}]
NUMBERS = np.array([1.5, -2.0], dtype="<f4")
SURE = {"confidence": 0.5, "mean_logprob": -0.75, "least_logprob": -2.0}


@dataclass(frozen=True)
class Example:
    """An output of a type: as it is stored, as JSON, as cells of CSV after the column `task`, and in a view."""

    stored: Output
    json: dict[str, Any]
    cells: dict[str, str]
    view: dict[str, Any]
    params: Mapping[str, Any]


EXAMPLES: dict[OutputType, Example] = {
    TEXT: Example(Output(text="Größe"), {"text": "Größe"}, {"text": "Größe"}, {"step": "Größe"}, {}),
    VECTOR: Example(
        Output(vector=NUMBERS.tobytes()),
        {"vector": [1.5, -2.0]},
        {"vector": "[1.5,-2.0]"},
        {"step_vector": NUMBERS.tobytes()},
        {},
    ),
    LABELS: Example(
        LABELS.stored([("bad", 0.25), ("good", 0.75)]),
        {"labels": LABELLED},
        {"label": "good", "score": "0.75", "labels": json.dumps(LABELLED, separators=(",", ":"))},
        {"step": "good", "step_score": 0.75, "step_labels": LABELLED},
        {},
    ),
    WEIGHTS: Example(
        WEIGHTS.stored([("b", 3, 0.25), ("##a", 7, 1.5)]),
        {"weights": WEIGHED},
        {"weights": json.dumps(WEIGHED, separators=(",", ":"))},
        {"step_weights": WEIGHED},
        {},
    ),
    SPANS: Example(
        SPANS.stored(DOCUMENT, [("PER", 8, 11, 1.0), ("PER", 0, 3, 0.5)]),
        {"spans": FOUND},
        {"spans": json.dumps(FOUND, separators=(",", ":"))},
        {"step_spans": FOUND},
        {},
    ),
    RECORD: Example(
        RECORD.stored(BOOK),
        {"data": BOOK},
        {
            "data_new": "true",
            "data_pages": "3",
            "data_price": "9.5",
            "data_status": "sold",
            "data_tags": '["a","b"]',
            "data_title": "'=1+1",
        },
        {
            "step_new": True,
            "step_pages": 3,
            "step_price": 9.5,
            "step_data_status": "sold",
            "step_tags": ["a", "b"],
            "step_title": "=1+1",
        },
        {"json_schema": json.dumps(SCHEMA)},
    ),
    REDACTED: Example(
        Output(text="[PER] met [PER].", data={"spans": REPLACED}),
        {"text": "[PER] met [PER].", "spans": REPLACED},
        {"text": "[PER] met [PER].", "spans": json.dumps(REPLACED, separators=(",", ":"))},
        {"step": "[PER] met [PER].", "step_spans": REPLACED},
        {},
    ),
}
_COMMON = ("id", "task"), ("tokens_in", "tokens_out", "flags", "meta")
every_type = pytest.mark.parametrize("output", OUTPUT_TYPES, ids=repr)


def spec_of(output: OutputType, revision: int = 1) -> Spec:
    return Spec(output.name, "null", f"sha256:{revision}", params=EXAMPLES[output].params)


@pytest.fixture(autouse=True)
def _a_kind_of_each_type(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {one.name: StoredKind(one.name, one, WRITING_SIZE) for one in OUTPUT_TYPES}
    monkeypatch.setattr(database, "kinds", kinds)


def sure_of(output: OutputType) -> dict[str, Any]:
    return {name: SURE[name] for name in output.confidence}


def done_with(stored: Output, sure: Mapping[str, Any] = {}) -> Callable[[Any], list[Outcome]]:
    return lambda claim: [
        replace(Outcome.done(content_id, stored, tokens_in=2), **sure) for content_id, _ in claim.texts
    ]


def finished(database: Database, output: OutputType, stored: Output | None = None, revision: int = 1) -> int:
    """Return a job whose document has the example of a type, and one step, `step`."""
    steps = (StepRequest("step", spec_of(output, revision)),)
    job = read(database, JobRequest("books", "a.jsonl", steps), [("k", DOCUMENT)])
    work(database, done_with(stored or EXAMPLES[output].stored, sure_of(output)))
    return job.id


@pytest.mark.both_stores
@every_type
def test_an_output_is_stored_and_read_back(database: Database, output: OutputType) -> None:
    [found] = results(database, finished(database, output))
    if "vector" in found:
        found["vector"] = found["vector"].tolist()
    assert found == {
        "id": "k",
        "task": output.name,
        **EXAMPLES[output].json,
        "tokens_in": 2,
        "tokens_out": 0,
        "flags": [],
        "meta": {"n": len(DOCUMENT)},
        **sure_of(output),
    }
    assert output.problem(EXAMPLES[output].stored) is None


def test_an_output_of_another_type_is_not_stored(database: Database) -> None:
    job = finished(database, LABELS, EXAMPLES[SPANS].stored)
    [failure] = failures(database, job)
    assert failure["class"] == "model"
    for output in OUTPUT_TYPES:
        for other in (other for other in OUTPUT_TYPES if other is not output):
            refused = check_outcome(Outcome.done(1, EXAMPLES[other].stored), output)
            assert refused.status == Status.FAILED, other
            assert f"its output is not stored as {output.plural} are" in (refused.reason or "")


@pytest.mark.parametrize(
    ("output", "data", "text", "says"),
    [
        (LABELS, {"labels": LABELLED[::-1]}, "bad", "the best label comes first"),
        (LABELS, {"labels": LABELLED}, "bad", "the best label belongs in `text`"),
        (LABELS, {"labels": [{"label": "good", "score": "high"}]}, "good", "labels belong in `data`"),
        (WEIGHTS, {"weights": WEIGHED[::-1]}, None, "the highest weight comes first"),
        (WEIGHTS, {"weights": [{"token": "b", "weight": 1.0}]}, None, "weights belong in `data`"),
        (SPANS, {"spans": [FOUND[0] | {"end": -1}]}, None, "a span ends before it starts"),
        (TEXT, {"sentences": CITED}, "Ada", "the sentences belong in `text`"),
        (TEXT, {"sentences": FOUND}, "Ada\nBob", "sentences belong in `data`"),
        (RECORD, BOOK, None, "a record belongs in `data`"),
    ],
)
def test_what_is_wrong_with_an_output_is_said(output: OutputType, data: Any, text: str | None, says: str) -> None:
    problem = output.problem(Output(text=text, data=data))
    assert problem is not None
    assert says in problem


@every_type
def test_every_writer_that_takes_an_output_writes_it(database: Database, output: OutputType, tmp_path: Path) -> None:
    job = finished(database, output)
    for writer in WRITERS:
        if writer.takes is None or output in writer.takes:
            assert_written(database, job, output, writer, tmp_path / f"out-{writer.name}{writer.suffix}")


def assert_written(database: Database, job: int, output: OutputType, writer: Writer, path: Path) -> None:
    writer.check_takes([output])
    assert Target.of(path, writer.name).write(results(database, job), columns(database, job)) == 1
    example = EXAMPLES[output]
    if writer.name == "jsonl":
        assert example.json.items() <= json.loads(path.read_bytes()).items()
    elif writer.suffix == ".csv":
        [row] = csv.DictReader(path.read_text("utf-8-sig").splitlines())
        assert list(row) == [*_COMMON[0], *example.cells, *_COMMON[1], *output.confidence]
        assert example.cells.items() <= row.items()
        assert [float(row[name]) for name in output.confidence] == [*sure_of(output).values()]
    elif writer.name == "xlsx":
        head, row = CalamineWorkbook.from_path(path).get_sheet_by_index(0).to_python()
        assert head == [*_COMMON[0], *example.cells, *_COMMON[1], *output.confidence]
        cells = dict(zip(head, row, strict=True))
        if output in {TEXT, VECTOR}:
            assert cells[output.name] == ("Größe" if output is TEXT else "2 numbers")
        assert [cells[name] for name in output.confidence] == [*sure_of(output).values()]
    elif writer.name == "parquet":
        [row] = parquet.read_table(path).to_pylist()
        assert {name: row[name] for name in output.confidence} == sure_of(output)
        found = {name: row[name] for name in example.cells}
        if output is RECORD:
            assert found == {f"data_{name}": value for name, value in BOOK.items()} | {"data_tags": '["a","b"]'}
        elif output is LABELS:
            assert found == {"label": "good", "score": 0.75, "labels": LABELLED}
        else:
            assert found == example.json
    else:
        assert np.load(path).tolist() == [example.json["vector"]]


def test_a_table_of_several_steps_has_the_columns_of_each(database: Database, tmp_path: Path) -> None:
    steps = tuple(StepRequest(f"my_{one.name}", spec_of(one)) for one in OUTPUT_TYPES)
    job = read(database, JobRequest("books", "a.jsonl", steps), [("k", DOCUMENT)])
    by_name = {one.name: (EXAMPLES[one].stored, sure_of(one)) for one in OUTPUT_TYPES}

    def compute(claim: Any) -> list[Outcome]:
        [kind] = database.values(select(SpecRow.kind).where(SpecRow.id == claim.spec_id))
        return done_with(*by_name[kind])(claim)

    work(database, compute)
    Target.of(tmp_path / "out.csv").write(results(database, job.id), columns(database, job.id))
    [row] = csv.DictReader((tmp_path / "out.csv").read_text().splitlines())
    outputs = {
        name.replace("step", f"my_{one.name}", 1): cell
        for one in OUTPUT_TYPES
        for name, cell in zip(EXAMPLES[one].view, EXAMPLES[one].cells.values(), strict=True)
    }
    sure = {f"my_{one.name}_{name}": str(value) for one in OUTPUT_TYPES for name, value in sure_of(one).items()}
    assert list(row) == ["id", *outputs, "flags", "meta", *sure]
    assert (outputs | sure).items() <= row.items()
    [line] = results(database, job.id)
    assert list(line["steps"]["my_text"]) == ["task", "text", "tokens_in", "tokens_out", "flags", *SURE]


def test_a_result_without_a_confidence_says_nothing_of_it(database: Database, tmp_path: Path) -> None:
    job = read(database, JobRequest("books", "a.jsonl", (StepRequest("step", spec_of(TEXT)),)), [("k", DOCUMENT)])
    work(database, done_with(Output(text="a"), {"confidence": float("nan"), "mean_logprob": float("-inf")}))
    [found] = results(database, job.id)
    assert not SURE.keys() & found.keys()
    Target.of(tmp_path / "out.parquet").write([found], columns(database, job.id))
    [row] = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row[name] for name in SURE] == [None, None, None]


def test_a_column_of_a_step_or_a_property_keeps_its_name_beside_those_of_confidence(database: Database) -> None:
    sure = {"properties": {"confidence": {"type": "string"}}}
    record = Spec("record", "null", "sha256:1", params={"json_schema": json.dumps(sure)})
    steps = [StepRequest("a", spec_of(TEXT)), StepRequest("a_mean_logprob", spec_of(TEXT)), StepRequest("b", record)]
    job = read(database, JobRequest("books", "a.jsonl", tuple(steps)), [("k", DOCUMENT)])
    views.make(database, "nightly", "books", steps)
    [row] = view(database, "pipeline_nightly")
    names = [column.name for column in columns(database, job.id)]
    for found in (names, [*row]):
        assert len({*found}) == len(found)
        assert {"a_confidence", "a_mean_logprob", "a_mean_logprob_confidence", "b_confidence"} <= {*found}
        assert found.index("a_mean_logprob") < found.index("a_confidence")
        assert found.index("b_confidence") < found.index("a_confidence")


def view(database: Database, name: str) -> Iterator[dict[str, Any]]:
    with database.read() as transaction:
        for row in transaction.exec_driver_sql(f"SELECT * FROM {name}").mappings():
            yield {key: bytes(value) if isinstance(value, memoryview) else value for key, value in row.items()}


@pytest.mark.both_stores
@every_type
def test_the_view_of_a_pipeline_has_an_output(database: Database, output: OutputType) -> None:
    views.make(database, "nightly", "books", [StepRequest("step", spec_of(output))])
    finished(database, output)
    [row] = view(database, "pipeline_nightly")
    found = {name: row[name] for name in EXAMPLES[output].view}
    for name, value in found.items():
        if database.server is None and isinstance(EXAMPLES[output].view[name], list):
            found[name] = json.loads(value)
    assert found == EXAMPLES[output].view
    assert [*row][:4] == ["id", "meta", "flags", "document"]
    sure = {f"step_{name}": value for name, value in sure_of(output).items()}
    assert [*row][4:] == [*found, "step_status", "step_reason", *sure]
    assert sure.items() <= row.items()


def test_people_see_the_answers_to_questions_without_what_is_beside_them(database: Database) -> None:
    beside = {"who_score": 0.9, "who_spans": [{"text": "Ada"}], "why_score": None, "why_spans": []}
    stored = RECORD.stored({"who": "Ada", "why": None, **beside})
    properties = {name: {"type": "string"} for name in ("who", "why", *beside)}
    asks = {"properties": properties, "question": {"why": "Why?", "who": "Who?"}}
    steps = (StepRequest("ask", replace(spec_of(RECORD), params=asks)), StepRequest("find", spec_of(SPANS)))
    job = read(database, JobRequest("books", "a.jsonl", steps), [("k", DOCUMENT)])

    [ask] = database.values(select(SpecRow.id).where(SpecRow.kind == "record"))

    def compute(claim: Any) -> list[Outcome]:
        return done_with(stored if claim.spec_id == ask else Output(data={"spans": []}))(claim)

    work(database, compute)
    for step, said in (
        ("ask", {"who": "Ada", "why": None, "remarks": "why: no answer in the text"}),
        ("find", {"output": "", "remarks": "nothing found"}),
    ):
        [row] = inputs(database, job.id, step=step)
        assert people_row(database, job.id, row, step) == {"document": "k"} | said
    [row] = inputs(database, job.id)
    assert people_row(database, job.id, row)["remarks"] == "ask: why: no answer in the text; find: nothing found"
    [found] = results(database, job.id, step="ask")
    assert RECORD.shown(found, asks) == "who: Ada, why: no answer in the text"
    assert RECORD.shown(found, {**asks, "question": {"who": "Who?"}}) == "Ada"
    [tags, *_] = RECORD.people_columns({"properties": {"tags": {"type": "array", "items": {"type": "string"}}}}, "")
    assert tags.value({"data": {"tags": ["a", "b"]}}) == "a; b"


def people_row(database: Database, job: int, row: Any, step: str | None = None) -> dict[str, Any]:
    def remarks(_row: Any, of_outputs: Any) -> str:
        return "; ".join(of_outputs)

    table = people_columns(database, job, step, remarks=remarks)
    return {column.name: column.value(row) for column in table}


@pytest.mark.both_stores
def test_a_value_that_is_not_of_its_propertys_type_is_null_in_tables_and_views(database: Database) -> None:
    wrong = {"title": "a", "price": "free", "pages": True, "new": 1}
    views.make(database, "nightly", "books", [StepRequest("step", spec_of(RECORD))])
    [found] = results(database, finished(database, RECORD, RECORD.stored(wrong)))
    assert [column.value(found) for column in RECORD.columns({"json_schema": json.dumps(SCHEMA)})] == [
        *[None] * 5,
        "a",
    ]
    [row] = view(database, "pipeline_nightly")
    assert [row[f"step_{name}"] for name in ("title", "price", "pages", "new")] == ["a", None, None, None]


@pytest.mark.both_stores
def test_spans_have_a_view_with_a_row_for_each(database: Database) -> None:
    steps = [StepRequest("people", spec_of(SPANS)), StepRequest("meaning", spec_of(VECTOR))]
    views.make(database, "Night-ly", "books", steps)
    finished(database, SPANS)
    assert [*view(database, "items_night_ly__people")] == [{"id": "k", **span} for span in FOUND]
    views.make(database, "Night-ly", "books", steps[1:])
    with pytest.raises(SchemaOutOfDate):  # there is no such view
        next(view(database, "items_night_ly__people"))
    views.make(database, "Night-ly", "books", steps)
    views.drop(database, "Night-ly")
    with pytest.raises(SchemaOutOfDate):  # there is no such view
        next(view(database, "items_night_ly__people"))


def test_the_sentences_of_a_text_are_in_tables_and_views_beside_those_of_texts_without(
    database: Database, tmp_path: Path
) -> None:
    spec = Spec("text", "null", "sha256:1", params={RANKING: "a rule"})
    steps = (StepRequest("cited", spec), StepRequest("plain", spec_of(TEXT)))
    views.make(database, "nightly", "books", steps)
    job = read(database, JobRequest("books", "a.jsonl", steps), [("k", DOCUMENT)])
    outputs = [Output(text="Größe"), TEXT.cited(DOCUMENT, [(8, 11, 1.0), (0, 3, 0.5)])]

    def compute(claim: Any) -> list[Outcome]:
        return done_with(outputs.pop())(claim)

    work(database, compute)
    [found] = results(database, job.id)
    assert found["steps"]["cited"] | {"text": "Ada\nBob", "sentences": CITED} == found["steps"]["cited"]
    assert "sentences" not in found["steps"]["plain"]
    for suffix in ("csv", "parquet"):
        assert Target.of(tmp_path / f"out.{suffix}").write(results(database, job.id), columns(database, job.id)) == 1
    [row] = csv.DictReader((tmp_path / "out.csv").read_text().splitlines())
    sure = [f"plain_{name}" for name in TEXT.confidence]  # chosen sentences have none
    assert [*row] == ["id", "cited", "cited_sentences", "plain", "flags", "meta", *sure]
    assert json.loads(row["cited_sentences"]) == CITED
    [row] = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert (row["cited_sentences"], row["plain"]) == (CITED, "Größe")
    [row] = view(database, "pipeline_nightly")
    assert (row["cited"], row["plain"]) == ("Ada\nBob", "Größe")
    assert [*view(database, "items_nightly__cited")] == [{"id": "k", **one} for one in CITED]
    with pytest.raises(SchemaOutOfDate):  # there is no such view
        next(view(database, "items_nightly__plain"))


@every_type
def test_a_later_step_reads_texts_and_no_other_output(database: Database, output: OutputType) -> None:
    steps = (StepRequest("first", spec_of(output)), StepRequest("second", spec_of(output), "first"))
    if not output.feeds_steps:
        with pytest.raises(AssertionError, match=f"no step can read {output.plural}"):
            read(database, JobRequest("books", "a.jsonl", steps), [("k", DOCUMENT)])
        return
    job = read(database, JobRequest("books", "a.jsonl", steps), [("k", DOCUMENT)])
    work(database, done_with(EXAMPLES[output].stored))
    [found] = results(database, job.id)
    assert [*found["steps"]] == ["first", "second"]


@pytest.mark.parametrize(
    ("schema", "form"),
    [
        ({"type": ["string", "null"]}, Form.TEXT),
        ({"enum": ["a", "b", None]}, Form.TEXT),
        ({"const": 5}, Form.INTEGER),
        ({"enum": ["a", 5]}, Form.JSON),
        ({"anyOf": [{"type": "number"}, {"type": "null"}]}, Form.NUMBER),
        ({"anyOf": [{"type": "number"}, {"type": "string"}]}, Form.JSON),
        ({"$ref": "#/$defs/a~1b"}, Form.BOOLEAN),
        ({"$ref": "#/$defs/nothing"}, Form.JSON),
        ({"$ref": "#/$defs/itself"}, Form.JSON),
        ({"type": "array", "items": {"enum": ["a", "b"]}}, Form.TEXTS),
        ({"type": "array", "items": {"type": "object"}}, Form.JSON),
        ({"type": "object", "properties": {}}, Form.JSON),
        ({}, Form.JSON),
        (True, Form.JSON),
    ],
)
def test_a_propertys_column_has_the_type_of_its_values(schema: Any, form: Form) -> None:
    defs = {"a/b": {"type": "boolean"}, "itself": {"$ref": "#/$defs/itself"}}
    [column] = RECORD.columns({"json_schema": json.dumps({"properties": {"x": schema}, "$defs": defs})})
    assert column.form is form


def test_citations_are_a_column_of_their_own_beside_a_property_of_that_name(database: Database) -> None:
    stored = RECORD.stored({"citations": 5, "title": "a"}, {"/title": [3, 4], "/citations": None})
    schema = {"properties": {"citations": {"type": "integer"}, "title": {"type": "string"}}}
    columns = RECORD.columns({"json_schema": json.dumps(schema), "cite": True})
    assert RECORD.problem(stored) is None
    found = RECORD.result(stored)
    assert list(found) == ["data", "citations"]
    assert {column.name: column.value(found) for column in columns} == {
        "data_citations": 5,
        "data_title": "a",
        "citations": {"/title": [3, 4], "/citations": None},
    }
    assert [column.of_step("s").name for column in columns] == ["s_data_citations", "s_title", "s_citations"]


def test_a_record_is_shown_without_the_objects_in_its_lists() -> None:
    record = {"answer": None, "spans": [{"text": "a"}], "parts": [{"text": "a"}, {"text": "b"}], "empty": []}
    assert RECORD.shown({"data": record}, {}) == "answer: none, spans: 1 object, parts: 2 objects, empty: []"


def test_several_texts_are_one_in_text_and_all_in_data() -> None:
    several = TEXT.stored(["a", "b"])
    assert several == Output(text="a", data={"texts": ["a", "b"]})
    assert TEXT.problem(several) is None
    assert TEXT.result(several) == {"text": "a", "texts": ["a", "b"]}
    assert TEXT.shown(TEXT.result(several), {}) == "a (and 1 more)"
    assert [(one.name, one.suffix) for one in TEXT.columns({"n": 2})] == [("text", ""), ("texts", "_texts")]
    assert [one.value(TEXT.result(several)) for one in TEXT.columns({"n": 2})] == ["a", ["a", "b"]]
    assert TEXT.stored(["a"]) == Output(text="a")
    wrong = Output(text="b", data={"texts": ["a", "b"]})
    assert TEXT.problem(wrong) == "the first of several texts belongs in `text`"
