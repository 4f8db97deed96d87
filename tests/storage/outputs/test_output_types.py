"""Every type of output is stored, read back, written in each format and shown in a view."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
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
from docmill.storage.core.specs import Outcome, Spec, Status, check_outcome
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
from docmill.storage.steps.steps import StepRequest
from docmill.storage.writers import WRITERS, Target
from docmill.storage.writers.formats import Writer
from tests.storage.builders import read, read_view, request, run_job

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


def spec_of(output: OutputType) -> Spec:
    return Spec(output.name, "null", "sha256:1", params=EXAMPLES[output].params)


def sure_of(output: OutputType) -> dict[str, Any]:
    """Return the numbers of confidence that outputs of a type have."""
    return {name: SURE[name] for name in output.confidence}


def done_with(stored: Output, sure: Mapping[str, Any] = {}) -> Callable[[Any], list[Outcome]]:
    """Return a function that gives every text this output."""
    return lambda claim: [
        replace(Outcome.done(content_id, stored, tokens_in=2), **sure) for content_id, _ in claim.texts
    ]


def run_step(database: Database, output: OutputType, stored: Output | None = None) -> int:
    """Run a job of one step, `step`, whose result is this output or the example of the type. Return its number."""
    compute = done_with(stored or EXAMPLES[output].stored, sure_of(output))
    return run_steps(database, [StepRequest("step", spec_of(output))], compute)


def run_steps(database: Database, steps: Sequence[StepRequest], compute: Callable[[Any], list[Outcome]]) -> int:
    """Run a job of these steps over one document. Return its number."""
    return run_job(database, request(steps=steps), [("k", DOCUMENT)], compute).id


@pytest.mark.both_stores
@every_type
def test_an_output_is_stored_and_read_back(database: Database, output: OutputType) -> None:
    [row] = results(database, run_step(database, output))
    if "vector" in row:
        row["vector"] = row["vector"].tolist()
    assert row == {
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
    job = run_step(database, LABELS, EXAMPLES[SPANS].stored)
    [failure] = failures(database, job)
    assert failure["class"] == "model"
    for output in OUTPUT_TYPES:
        for another in (another for another in OUTPUT_TYPES if another is not output):
            refused = check_outcome(Outcome.done(1, EXAMPLES[another].stored), output)
            assert refused.status == Status.FAILED, another
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
def test_an_invalid_output_is_described(output: OutputType, data: Any, text: str | None, says: str) -> None:
    problem = output.problem(Output(text=text, data=data))
    assert problem is not None
    assert says in problem


@every_type
def test_every_writer_writes_the_outputs_it_takes(database: Database, output: OutputType, tmp_path: Path) -> None:
    job = run_step(database, output)
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
        read_back = {name: row[name] for name in example.cells}
        if output is RECORD:
            assert read_back == {f"data_{name}": value for name, value in BOOK.items()} | {"data_tags": '["a","b"]'}
        elif output is LABELS:
            assert read_back == {"label": "good", "score": 0.75, "labels": LABELLED}
        else:
            assert read_back == example.json
    else:
        assert np.load(path).tolist() == [example.json["vector"]]


def test_a_table_of_several_steps_has_the_columns_of_each(database: Database, tmp_path: Path) -> None:
    steps = tuple(StepRequest(f"my_{output.name}", spec_of(output)) for output in OUTPUT_TYPES)
    by_name = {output.name: (EXAMPLES[output].stored, sure_of(output)) for output in OUTPUT_TYPES}

    def compute(claim: Any) -> list[Outcome]:
        [kind] = database.values(select(SpecRow.kind).where(SpecRow.id == claim.spec_id))
        return done_with(*by_name[kind])(claim)

    job = run_steps(database, steps, compute)
    Target.of(tmp_path / "out.csv").write(results(database, job), columns(database, job))
    [row] = csv.DictReader((tmp_path / "out.csv").read_text().splitlines())
    outputs = {
        name.replace("step", f"my_{output.name}", 1): cell
        for output in OUTPUT_TYPES
        for name, cell in zip(EXAMPLES[output].view, EXAMPLES[output].cells.values(), strict=True)
    }
    sure = {
        f"my_{output.name}_{name}": str(value) for output in OUTPUT_TYPES for name, value in sure_of(output).items()
    }
    assert list(row) == ["id", *outputs, "flags", "meta", *sure]
    assert (outputs | sure).items() <= row.items()
    [line] = results(database, job)
    assert list(line["steps"]["my_text"]) == ["task", "text", "tokens_in", "tokens_out", "flags", *SURE]


def test_a_result_without_a_confidence_has_no_field_for_it(database: Database, tmp_path: Path) -> None:
    compute = done_with(Output(text="a"), {"confidence": float("nan"), "mean_logprob": float("-inf")})
    job = run_steps(database, [StepRequest("step", spec_of(TEXT))], compute)
    [result] = results(database, job)
    assert not SURE.keys() & result.keys()
    Target.of(tmp_path / "out.parquet").write([result], columns(database, job))
    [row] = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row[name] for name in SURE] == [None, None, None]


def test_a_column_of_a_step_or_a_property_keeps_its_name_beside_those_of_confidence(database: Database) -> None:
    sure = {"properties": {"confidence": {"type": "string"}}}
    record = Spec("record", "null", "sha256:1", params={"json_schema": json.dumps(sure)})
    steps = [StepRequest("a", spec_of(TEXT)), StepRequest("a_mean_logprob", spec_of(TEXT)), StepRequest("b", record)]
    job = read(database, request(steps=steps), [("k", DOCUMENT)])
    views.make(database, "nightly", "books", steps)
    [row] = read_view(database, "pipeline_nightly")
    names = [column.name for column in columns(database, job.id)]
    for some_names in (names, [*row]):
        assert len({*some_names}) == len(some_names)
        assert {"a_confidence", "a_mean_logprob", "a_mean_logprob_confidence", "b_confidence"} <= {*some_names}
        assert some_names.index("a_mean_logprob") < some_names.index("a_confidence")
        assert some_names.index("b_confidence") < some_names.index("a_confidence")


@pytest.mark.both_stores
@every_type
def test_the_view_of_a_pipeline_has_an_output(database: Database, output: OutputType) -> None:
    views.make(database, "nightly", "books", [StepRequest("step", spec_of(output))])
    run_step(database, output)
    [row] = read_view(database, "pipeline_nightly")
    cells = {name: row[name] for name in EXAMPLES[output].view}
    for name, value in cells.items():
        if database.server is None and isinstance(EXAMPLES[output].view[name], list):
            cells[name] = json.loads(value)
    assert cells == EXAMPLES[output].view
    assert [*row][:4] == ["id", "meta", "flags", "document"]
    sure = {f"step_{name}": value for name, value in sure_of(output).items()}
    assert [*row][4:] == [*cells, "step_status", "step_reason", *sure]
    assert sure.items() <= row.items()


def test_people_see_the_answers_to_questions_without_scores_and_spans(database: Database) -> None:
    beside = {"who_score": 0.9, "who_spans": [{"text": "Ada"}], "why_score": None, "why_spans": []}
    stored = RECORD.stored({"who": "Ada", "why": None, **beside})
    properties = {name: {"type": "string"} for name in ("who", "why", *beside)}
    asks = {"properties": properties, "question": {"why": "Why?", "who": "Who?"}}
    steps = (StepRequest("ask", replace(spec_of(RECORD), params=asks)), StepRequest("find", spec_of(SPANS)))

    def compute(claim: Any) -> list[Outcome]:
        [ask] = database.values(select(SpecRow.id).where(SpecRow.kind == "record"))
        return done_with(stored if claim.spec_id == ask else Output(data={"spans": []}))(claim)

    job = run_steps(database, steps, compute)
    for step, cells in (
        ("ask", {"who": "Ada", "why": None, "remarks": "why: no answer in the text"}),
        ("find", {"output": "", "remarks": "nothing found"}),
    ):
        [row] = inputs(database, job, step=step)
        assert people_row(database, job, row, step) == {"document": "k"} | cells
    [row] = inputs(database, job)
    assert people_row(database, job, row)["remarks"] == "ask: why: no answer in the text; find: nothing found"
    [result] = results(database, job, step="ask")
    assert RECORD.shown(result, asks) == "who: Ada, why: no answer in the text"
    assert RECORD.shown(result, {**asks, "question": {"who": "Who?"}}) == "Ada"
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
    [result] = results(database, run_step(database, RECORD, RECORD.stored(wrong)))
    cells = [column.value(result) for column in RECORD.columns({"json_schema": json.dumps(SCHEMA)})]
    assert cells == [*[None] * 5, "a"]
    [row] = read_view(database, "pipeline_nightly")
    assert [row[f"step_{name}"] for name in ("title", "price", "pages", "new")] == ["a", None, None, None]


@pytest.mark.both_stores
def test_a_view_has_a_row_for_each_span(database: Database) -> None:
    steps = [StepRequest("people", spec_of(SPANS)), StepRequest("meaning", spec_of(VECTOR))]
    views.make(database, "Night-ly", "books", steps)
    run_step(database, SPANS)
    assert read_view(database, "items_night_ly__people") == [{"id": "k", **span} for span in FOUND]
    views.make(database, "Night-ly", "books", steps[1:])
    with pytest.raises(SchemaOutOfDate):  # the view does not exist
        read_view(database, "items_night_ly__people")
    views.make(database, "Night-ly", "books", steps)
    views.drop(database, "Night-ly")
    with pytest.raises(SchemaOutOfDate):  # the view does not exist
        read_view(database, "items_night_ly__people")


def test_tables_and_views_have_the_sentences_of_a_text(database: Database, tmp_path: Path) -> None:
    spec = Spec("text", "null", "sha256:1", params={RANKING: "a rule"})
    steps = (StepRequest("cited", spec), StepRequest("plain", spec_of(TEXT)))
    views.make(database, "nightly", "books", steps)
    outputs = [Output(text="Größe"), TEXT.cited(DOCUMENT, [(8, 11, 1.0), (0, 3, 0.5)])]

    def compute(claim: Any) -> list[Outcome]:
        return done_with(outputs.pop())(claim)

    job = run_steps(database, steps, compute)
    [result] = results(database, job)
    assert result["steps"]["cited"] | {"text": "Ada\nBob", "sentences": CITED} == result["steps"]["cited"]
    assert "sentences" not in result["steps"]["plain"]
    for suffix in ("csv", "parquet"):
        assert Target.of(tmp_path / f"out.{suffix}").write(results(database, job), columns(database, job)) == 1
    [row] = csv.DictReader((tmp_path / "out.csv").read_text().splitlines())
    sure = [f"plain_{name}" for name in TEXT.confidence]  # chosen sentences have no confidence
    assert [*row] == ["id", "cited", "cited_sentences", "plain", "flags", "meta", *sure]
    assert json.loads(row["cited_sentences"]) == CITED
    [row] = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert (row["cited_sentences"], row["plain"]) == (CITED, "Größe")
    [row] = read_view(database, "pipeline_nightly")
    assert (row["cited"], row["plain"]) == ("Ada\nBob", "Größe")
    assert read_view(database, "items_nightly__cited") == [{"id": "k", **sentence} for sentence in CITED]
    with pytest.raises(SchemaOutOfDate):  # the view does not exist
        read_view(database, "items_nightly__plain")


@every_type
def test_a_later_step_can_read_only_texts(database: Database, output: OutputType) -> None:
    steps = (StepRequest("first", spec_of(output)), StepRequest("second", spec_of(output), "first"))
    if not output.feeds_steps:
        with pytest.raises(AssertionError, match=f"no step can read {output.plural}"):
            read(database, request(steps=steps), [("k", DOCUMENT)])
        return
    [result] = results(database, run_steps(database, steps, done_with(EXAMPLES[output].stored)))
    assert [*result["steps"]] == ["first", "second"]


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


def test_citations_have_their_own_column_beside_a_property_of_that_name(database: Database) -> None:
    stored = RECORD.stored({"citations": 5, "title": "a"}, {"/title": [3, 4], "/citations": None})
    schema = {"properties": {"citations": {"type": "integer"}, "title": {"type": "string"}}}
    columns = RECORD.columns({"json_schema": json.dumps(schema), "cite": True})
    assert RECORD.problem(stored) is None
    shown_result = RECORD.result(stored)
    assert list(shown_result) == ["data", "citations"]
    assert {column.name: column.value(shown_result) for column in columns} == {
        "data_citations": 5,
        "data_title": "a",
        "citations": {"/title": [3, 4], "/citations": None},
    }
    assert [column.of_step("s").name for column in columns] == ["s_data_citations", "s_title", "s_citations"]


def test_a_record_is_shown_without_the_objects_in_its_lists() -> None:
    record = {"answer": None, "spans": [{"text": "a"}], "parts": [{"text": "a"}, {"text": "b"}], "empty": []}
    assert RECORD.shown({"data": record}, {}) == "answer: none, spans: 1 object, parts: 2 objects, empty: []"


def test_of_several_texts_the_first_is_in_text_and_all_are_in_data() -> None:
    several = TEXT.stored(["a", "b"])
    assert several == Output(text="a", data={"texts": ["a", "b"]})
    assert TEXT.problem(several) is None
    assert TEXT.result(several) == {"text": "a", "texts": ["a", "b"]}
    assert TEXT.shown(TEXT.result(several), {}) == "a (and 1 more)"
    assert [(column.name, column.suffix) for column in TEXT.columns({"n": 2})] == [("text", ""), ("texts", "_texts")]
    assert [column.value(TEXT.result(several)) for column in TEXT.columns({"n": 2})] == ["a", ["a", "b"]]
    assert TEXT.stored(["a"]) == Output(text="a")
    wrong = Output(text="b", data={"texts": ["a", "b"]})
    assert TEXT.problem(wrong) == "the first of several texts belongs in `text`"
