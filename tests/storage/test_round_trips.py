"""Any text that is read, stored, written in any format and read again is the same text under the same id."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from docmill.storage.core.normalize import normalize
from docmill.storage.readers import Record
from docmill.storage.results import parts
from docmill.storage.writers import Target
from docmill.storage.writers.formats import unescape_formula
from docmill.storage.writers.parts_manifest import Manifest
from tests.storage.columns import table_of
from tests.storage.readers.reading import read
from tests.storage.readers.test_parquet import in_this_process

COLUMNS = table_of("id", "text", "tokens_in", "tokens_out", "flags", "meta")
# With NUL, lone surrogates and everything else that JSON allows, and often with special characters of CSV.
ANY_TEXT = st.text(st.characters(codec=None), max_size=40) | st.text(
    st.sampled_from("\0\ud800'=+-@\t\r\n\"\\,;|\u2028\ufeff\x85 ab"), max_size=12
)
META = st.dictionaries(
    st.sampled_from(["lang", "Ünit", "="]), ANY_TEXT | st.integers(-(2**53), 2**53) | st.none(), max_size=2
)
DOCUMENTS = st.lists(st.tuples(ANY_TEXT, ANY_TEXT, META), min_size=1, max_size=5)


def read_source(folder: Path, documents: list[tuple[str, str, dict[str, Any]]]) -> list[Record]:
    """Return these documents as they are read from JSON lines and stored."""
    source = folder / "source.jsonl"
    source.write_text("".join(json.dumps({"id": key, "text": text, "m": m}) + "\n" for key, text, m in documents))
    records = [record for record in read(source) if isinstance(record, Record)]
    assert [record.text for record in records] == [normalize(text)[0] for _, text, _ in documents]
    return records


def rows(records: list[Record]) -> list[dict[str, Any]]:
    """Return results with the texts that were read, as if a task changed nothing."""
    return [
        {
            "id": record.key,
            "task": "translate",
            "text": record.text,
            "tokens_in": 1,
            "tokens_out": None,
            "flags": [*record.flags],
            "meta": record.meta,
        }
        for record in records
    ]


def export(folder: Path, records: list[Record], form: str, part_documents: int) -> tuple[Path, Path]:
    """Write the results as one file and as a folder of parts. Return both paths."""
    results = rows(records)
    Target.of(folder / f"single.{form}").write(results, COLUMNS)
    out = Target.of(folder / f"parts.{form}")
    placed = [((n, n), row) for n, row in enumerate(results)]
    wanted = Manifest(1, "books", 0.5, None, form, part_documents, "0.1.0", {}, {})
    parts.write(out, wanted, lambda place: iter(placed), COLUMNS)
    return folder / f"single.{form}", out.path


@settings(max_examples=100)
@given(
    documents=DOCUMENTS,
    part_documents=st.integers(1, 4),
    form=st.sampled_from(["jsonl", "jsonl.zst", "csv", "csv.gz", "parquet"]),
)
def test_an_export_is_read_back_as_the_same_documents_from_a_file_and_from_parts(
    tmp_path_factory: pytest.TempPathFactory,
    documents: list[tuple[str, str, dict[str, Any]]],
    part_documents: int,
    form: str,
) -> None:
    folder = tmp_path_factory.mktemp("round")
    records = read_source(folder, documents)
    for path in export(folder, records, form, part_documents):
        keeps_apostrophes = path.is_file() and form.startswith("csv")
        files = [path] if path.is_file() else sorted(path.glob("part-*"))
        items = [item for file in files for item in in_this_process(file)] if form == "parquet" else read(path)
        assert len(items) == len(records)
        for item, record in zip(items, records, strict=True):
            assert isinstance(item, Record), item
            assert item.flags == (), "nothing is left to repair"
            cells = (item.key, item.text)
            if keeps_apostrophes:
                cells = (unescape_formula(item.key), unescape_formula(item.text))
            assert cells == (record.key, record.text)
            meta = item.meta["meta"]
            assert (json.loads(meta) if form.startswith("csv") else meta) == record.meta
