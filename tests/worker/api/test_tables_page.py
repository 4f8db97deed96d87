"""The page about tables: its programs run, and pandas, polars and DuckDB find the types that it names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pandas
import polars
import pyarrow as pa
import pytest
from pyarrow import parquet

from docs.outputs import fences, programs
from tests.worker.harness import EXAMPLES, ROOT, Docmill

PAGE = ROOT / "docs" / "tables.md"
LABEL = {"label": polars.String, "score": polars.Float64}
SPAN = {"label": polars.String, "text": polars.String, "start": polars.Int64, "end": polars.Int64}


def prepare(docmill: Docmill) -> None:
    """Run the page's pipeline with models that compute nothing."""
    [pipeline] = [fence for fence in fences(PAGE) if fence.title == "kinds.toml"]
    text = re.sub(r"^task = .*$", r'\g<0>\nmodel = "null"', pipeline.text, flags=re.MULTILINE)
    (docmill.folder / "examples").symlink_to(EXAMPLES)
    (docmill.folder / "kinds.toml").write_text(text)
    docmill("pipeline", "add", "kinds.toml")
    docmill("pipeline", "run", "kinds.toml")
    docmill("results", 1, "--out", "results.parquet")


@pytest.fixture
def fresh_duckdb() -> Iterator[None]:
    """DuckDB's default connection, as in a process of its own."""
    yield
    for name in ("store", "fleet"):
        duckdb.execute(f"DETACH DATABASE IF EXISTS {name}")


@pytest.mark.usefixtures("fresh_duckdb")
def test_the_programs_of_the_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    docmill = Docmill(tmp_path, {})
    prepare(docmill)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOCMILL_HOME", docmill.environment["DOCMILL_HOME"])
    names: dict[str, Any] = {}
    vectors: Any = None
    for number, program in enumerate(programs(PAGE)):
        exec(compile(program.replace("384", "8"), "tables.md", "exec"), names)
        if number == 0:
            vectors = names["vectors"]
    assert vectors.shape == (4, dim := 8)
    schema = polars.read_parquet_schema("results.parquet")
    assert schema["meaning_vector"] == polars.Array(polars.Float32, dim)
    assert schema["kind_labels"] == polars.List(polars.Struct(LABEL))
    assert schema["found_spans"] == polars.List(polars.Struct(SPAN | {"score": polars.Float64}))
    assert schema["flags"] == polars.List(polars.String)
    type_of = dict(duckdb.sql("SELECT column_name, column_type FROM (DESCRIBE FROM 'results.parquet')").fetchall())
    assert type_of["meaning_vector"] == "FLOAT[]"
    assert type_of["kind_labels"] == 'STRUCT("label" VARCHAR, score DOUBLE)[]'
    assert type_of["meta"] == "JSON"
    of_pandas = names["pandas"].read_parquet("results.parquet", dtype_backend="pyarrow")
    assert of_pandas.dtypes["meaning_vector"] == pandas.ArrowDtype(pa.list_(pa.float32(), dim))
    assert parquet.read_schema("results.parquet").field("meaning_vector").type == pa.list_(pa.float32(), dim)
    assert names["frame"].schema["labels"] == polars.List(polars.Struct(LABEL))
    assert names["vectors"].to_numpy().tolist() == vectors.tolist()
    assert '"' not in capsys.readouterr().out, "a label of a view has quotes"
