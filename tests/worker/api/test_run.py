"""`docmill.run` on every form of documents: rows in order, failures as rows, errors as one type."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pandas
import polars
import pyarrow as pa
import pytest

import docmill
from docmill.storage.readers import Record, SourceOptions
from docmill.storage.readers.errors import ProgramFailed
from docmill.storage.readers.memory import MemorySource
from tests.tasks.backends.remote.api_server import MODEL, ApiServer
from tests.worker.harness import run_python

TEXTS = ["A first text.", "A second one.", "Ein dritter."]
ROWS = [{"id": f"d{n}", "text": text, "year": 2000 + n} for n, text in enumerate(TEXTS)]
FORMS: dict[str, Callable[[], Any]] = {
    "a list of dictionaries": lambda: ROWS,
    "an iterator": lambda: iter(ROWS),
    "an Arrow table": lambda: pa.Table.from_pylist(ROWS),
    "a reader of batches": lambda: pa.Table.from_pylist(ROWS).to_reader(1),
    "a batch": lambda: pa.RecordBatch.from_pylist(ROWS),
    "a pandas frame": lambda: pandas.DataFrame(ROWS, index=["x", "y", "z"]),
    "a polars frame": lambda: polars.DataFrame(ROWS),
}


def run(documents: Any, store: Path, **options: Any) -> Any:
    return docmill.run(
        documents, "embed", **{"model": "null", "store": store, "device": "cpu", "progress": False, **options}
    )


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_documents_is_read_in_its_order(form: str) -> None:
    records = MemorySource(FORMS[form](), SourceOptions(), has_corpus=True).records()
    rows = [(record.key, record.text, record.meta) for record in records if isinstance(record, Record)]
    assert rows == [(row["id"], row["text"], {"year": row["year"]}) for row in ROWS]


@pytest.mark.parametrize("series", [pandas.Series(TEXTS), polars.Series(TEXTS), pa.array(TEXTS), tuple(TEXTS)])
def test_texts_alone_are_read_as_well(series: Any) -> None:
    records = MemorySource(series, SourceOptions(), has_corpus=True).records()
    assert [record.text for record in records if isinstance(record, Record)] == TEXTS


def test_an_error_in_the_programs_batches_is_the_programs_own() -> None:
    def batches() -> Iterator[pa.RecordBatch]:
        yield pa.RecordBatch.from_pylist([{"text": "x"}] * 2_000)
        raise KeyError

    reader = pa.RecordBatchReader.from_batches(pa.schema({"text": pa.string()}), batches())
    with pytest.raises(ProgramFailed):
        list(MemorySource(reader, SourceOptions(), has_corpus=True).records())


def test_the_same_documents_again_are_the_same_corpus_and_compute_nothing(store: Path) -> None:
    run(["once", "more"], store)
    run(["once", "more"], store)
    with docmill.connect(store=store) as mill:
        second, first = mill.jobs(limit=2)
    assert (first.corpus, first.prior) == (second.corpus, 0)
    assert second.prior == second.texts == second.done == 2


def test_rows_are_those_of_the_call_in_its_order_where_a_corpus_has_other_documents(store: Path) -> None:
    run(pa.Table.from_pylist(ROWS[:2]), store, corpus="letters")
    table = run([ROWS[2], ROWS[0]], store, corpus="letters")
    assert table["id"].to_pylist() == ["d2", "d0"]
    assert table["status"].to_pylist() == ["done", "done"]
    assert table["meta"].cast(pa.string()).to_pylist() == ['{"year":2002}', '{"year":2000}']
    assert pa.types.is_fixed_size_list(table.schema.field("vector").type)


def test_a_document_without_a_result_is_a_row_with_the_reason(store: Path) -> None:
    table = run(["the same", "", None, "the same", 3], store, with_input=True)
    assert table["status"].to_pylist() == ["done", "skipped", "rejected", "done", "rejected"]
    assert table["id"].to_pylist() == ["0", "1", "2", "3", "4"]
    reasons = table["reason"].to_pylist()
    assert reasons[2:] == ['"text" is null, not a string', None, '"text" is a whole number, not a string']
    assert table["input"].to_pylist() == ["the same", "", None, "the same", None]
    vectors = table["vector"].to_pylist()
    assert vectors[0] == vectors[3] is not None
    assert vectors[1] is vectors[2] is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"windw_tokens": 9}, "There is no option windw_tokens. Did you mean window_tokens?"),
        ({"from_": "fr"}, "--from has no meaning for embed."),
        ({"text_field": "body"}, 'no record has a field "body"; it has "text", "id": name one with --text-field'),
        ({"encoding": "cp1252"}, "a program says itself how its texts are encoded: leave out --encoding"),
        ({"model": "no-such-model"}, "no-such-model"),
        ({"device": "tpu"}, "--device tpu"),
        ({"model": ""}, "--model is empty; fill it in or leave it out."),
        ({"text_field": " "}, "--text-field is empty; fill it in or leave it out."),
    ],
)
def test_a_wrong_option_raises_what_the_command_line_prints(
    call: dict[str, Any], message: str, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(docmill.Error) as raised:
        run([{"text": "a text"}], store, **call)
    assert message in str(raised.value)
    assert raised.value.__suppress_context__
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("documents", [{"text": "one"}, b"bytes", 3, polars.LazyFrame(ROWS)])
def test_documents_of_an_unknown_type_are_refused_with_the_known_ones(documents: Any, store: Path) -> None:
    with pytest.raises(docmill.Error, match=r"is not read; give a list of texts .* frame"):
        run(documents, store)


def test_an_error_of_an_iterator_comes_out_and_the_same_call_continues_the_reading_of_a_named_corpus(
    store: Path,
) -> None:
    def broken() -> Iterator[str]:
        yield from ("read before", "the error")
        raise ValueError("the program's own")

    for corpus in ("named", "named", None):
        with pytest.raises(ValueError, match=r"^the program's own$") as raised:
            run(broken(), store, corpus=corpus)
        assert raised.traceback[-1].name == "broken"
    with docmill.connect(store=store) as mill:
        unnamed, named = mill.jobs(limit=2)
        assert (unnamed.state, unnamed.reason) == ("stopped", "the documents of the program raised ValueError")
        assert (named.state, named.corpus) == ("ingesting", "named")
        table = run(iter(["read before", "the error", "and after"]), store, corpus="named")
        assert table["status"].to_pylist() == ["done"] * 3
        assert mill.job(named.id).status().state == "done"


def test_values_of_numpy_pandas_and_sets_have_one_form_in_json(store: Path) -> None:
    rows = [
        {"id": numpy.int64(7), "text": numpy.str_("seven"), "share": numpy.float32(0.5), "odd": numpy.bool_(True)},
        {"id": numpy.uint8(8), "text": "eight", "share": numpy.float64("nan"), "parts": numpy.arange(2)},
        {"id": 9, "text": "nine", "when": numpy.datetime64("2020-01-01T00:00:00.000000001")},
        {"id": 10, "text": "ten", "day": pandas.NaT, "tags": set("hgfedcba\ud800")},
    ]
    table = run(rows, store)
    assert table["id"].to_pylist() == ["7", "8", "9", "10"]
    assert table["status"].to_pylist() == ["done"] * 4
    first, second, third, fourth = (json.loads(meta) for meta in table["meta"].to_pylist())
    assert (first, second) == ({"share": 0.5, "odd": True}, {"share": None, "parts": [0, 1]})
    assert (third, table["flags"].to_pylist()[2]) == ({}, ["value_left_out"])
    assert fourth == {"day": None, "tags": ["\ufffd", *"abcdefgh"]}
    assert run(numpy.array(["one", "two"]), store)["status"].to_pylist() == ["done", "done"]


def test_a_served_model_is_asked_at_the_endpoint_of_the_call(store: Path, server: ApiServer) -> None:
    options: dict[str, Any] = {"model": f"openai:{MODEL}", "prompt": "{text}", "progress": False}
    options["endpoint"] = server.endpoint
    assert docmill.run(["a text"], "generate", store=store, **options)["text"].to_pylist() == ["A TEXT"]
    with docmill.connect(store=store) as mill:
        assert mill.run(["more"], "generate", **options)["text"].to_pylist() == ["MORE"]


def test_documents_that_run_docmill_while_they_are_read_are_refused(store: Path) -> None:
    def documents() -> Iterator[str]:
        yield from ("a text", "another one")
        yield from run(["inside"], store)["id"].to_pylist()

    with pytest.raises(docmill.Error, match="compute them first, as a list"):
        run(documents(), store)
    assert run(["afterwards"], store)["status"].to_pylist() == ["done"]


def test_a_text_that_is_given_as_a_source_is_refused_with_advice(store: Path) -> None:
    with pytest.raises(docmill.Error, match="no such file or folder; texts go into a list"):
        run("A text.", store)


def test_a_run_on_another_thread_says_nothing_on_stdout_and_progress_on_stderr(
    store: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tables: list[Any] = []
    thread = threading.Thread(target=lambda: tables.append(run(["on a thread"], store, progress=True)))
    thread.start()
    thread.join()
    assert tables[0]["status"].to_pylist() == ["done"]
    out, err = capfd.readouterr()
    assert out == ""
    assert "1 record: 1 new document" in err
    assert "Job " in err


def test_a_source_is_named_as_on_the_command_line(store: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.csv"
    corpus.write_text("id,text\nx,one\n,two\ny\n")
    table = run(corpus, store)
    assert table["id"].to_pylist()[:2] == ["x", "corpus.csv:3"]
    assert table["status"].to_pylist() == ["done", "done", "rejected"]


def test_the_import_loads_the_standard_library_alone() -> None:
    heavy = "{'docmill.worker', 'docmill.tasks', 'docmill.storage', 'pyarrow', 'numpy', 'click', 'sqlalchemy'}"
    code = f"import sys, docmill; dir(docmill); assert not {heavy} & sys.modules.keys(); docmill.Error; docmill.run"
    run_python(code, check=True)
