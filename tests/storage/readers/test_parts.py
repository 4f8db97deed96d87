"""A folder of parts as a source: the documents that it was written of, under the ids that they had."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from docmill.storage.readers import (
    FieldUnknown,
    Record,
    SourceEmpty,
    SourceOptions,
    SourceUnreadable,
    SourceUnsupported,
    open_source,
)
from docmill.storage.results import parts
from docmill.storage.results.results import Placed
from docmill.storage.writers import Target
from docmill.storage.writers.parts_manifest import Manifest
from tests.storage.columns import table_of

OPTIONS = SourceOptions()
SAID = {"task": "translate", "tokens_in": 5, "tokens_out": 4, "flags": []}  # of each result


def exported(folder: Path, n: int, form: str | None = None, field: str = "text", part_documents: int = 3) -> Path:
    """A folder of parts with so many results."""
    rows: list[Placed] = [
        ((i, i), {"id": f"k{i}", field: f"Text {i}:\n«слово»", **SAID, "meta": {"n": i}}) for i in range(n)
    ]
    target = Target.of(folder, form)
    named = target.format + target.compression
    wanted = Manifest(1, "books", 0.5, None, named, part_documents, "0.1.0", {}, {"a": {"done": n}})
    columns = table_of("id", field, "tokens_in", "tokens_out", "flags", "meta")
    parts.write(target, wanted, lambda place: iter(rows), columns)
    return folder


def read(folder: Path, options: SourceOptions = OPTIONS) -> list[Any]:
    return list(open_source(str(folder), options).records())


@pytest.mark.slow
@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_parts_are_one_source_with_the_ids_and_texts_that_they_had(tmp_path: Path, form: str) -> None:
    folder = exported(tmp_path / "out", 10, form)
    (folder / "notes.txt").write_text("no part")
    found = read(folder)
    assert [(record.key, record.text) for record in found] == [(f"k{i}", f"Text {i}:\n«слово»") for i in range(10)]
    first_line = {"jsonl": "part-00003.jsonl:1", "csv": "part-00003.csv:2", "parquet": "part-00003.parquet:1"}
    assert found[-1].where == first_line[form]
    assert read(folder, SourceOptions(limit=4)) == found[:4]


def test_compressed_parts_are_read_too(tmp_path: Path) -> None:
    assert len(read(exported(tmp_path / "out.jsonl.zst", 4))) == 4


def test_a_pattern_reads_them_as_any_files_and_keeps_their_ids_apart(tmp_path: Path) -> None:
    folder = exported(tmp_path / "out", 4)
    assert [record.key for record in read(folder / "part-*.jsonl")] == [
        *(f"part-00000.jsonl#k{i}" for i in range(3)),
        "part-00001.jsonl#k3",
    ]


def test_an_export_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    folder = exported(tmp_path / "out", 10)
    part = folder / "part-00001.jsonl"
    raw = part.read_bytes()
    part.write_bytes(raw[:-1])
    with pytest.raises(SourceUnreadable, match=r"part-00001\.jsonl is not as it was written; the `docmill results`"):
        read(folder)
    part.unlink()
    with pytest.raises(SourceUnreadable, match=r"part-00001\.jsonl is not as it was written"):
        read(folder)
    part.write_bytes(raw)
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"complete": False}))
    with pytest.raises(SourceUnreadable, match="has not all of its parts"):
        read(folder)
    with pytest.raises(SourceEmpty, match="no results"):
        read(exported(tmp_path / "none", 0))


def test_a_field_of_another_name_is_asked_for_and_vectors_are_no_documents(tmp_path: Path) -> None:
    folder = exported(tmp_path / "out", 4, "csv", field="english")
    with pytest.raises(FieldUnknown, match='it has "id", "english"'):
        read(folder)
    assert read(folder, SourceOptions("english"))[3].key == "k3"
    (folder / "manifest.json").write_text((folder / "manifest.json").read_text().replace(".csv", ".npy"))
    for path in folder.glob("*.csv"):
        path.rename(path.with_suffix(".npy"))
    with pytest.raises(SourceUnsupported, match=r"part-00000\.npy is not a kind of file that is read"):
        read(folder)


@pytest.mark.parametrize("name", ["../secret.jsonl", "/etc/passwd", "secret.jsonl", "part-00000.jsonl/../x", 7, None])
def test_a_manifest_that_names_other_files_is_none(tmp_path: Path, name: object) -> None:
    folder = exported(tmp_path / "out", 2)
    (tmp_path / "secret.jsonl").write_text('{"text": "secret"}')
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["parts"][0]["files"][0]["name"] = name
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(SourceUnsupported, match=r"part-00000\.jsonl: it holds results that docmill wrote"):
        read(folder)


@pytest.mark.parametrize("form", ["csv", "csv.gz", "csv-excel"])
def test_parts_in_csv_give_back_texts_and_ids_that_look_like_formulas(form: str, tmp_path: Path) -> None:
    texts = {"=cmd": "- [ ] buy milk", "'=1": "'quoted'", "@a;b": "'- one\n;=two", "k": "plain"}
    rows: list[Placed] = [((i, i), {"id": id_, "-x": text}) for i, (id_, text) in enumerate(texts.items())]
    target = Target.of(tmp_path / "out", form) if form != "csv.gz" else Target.of(tmp_path / "out.csv.gz")
    wanted = Manifest(1, "books", 0.5, None, form, 2, "0.1.0", {}, {})
    parts.write(target, wanted, lambda place: iter(rows), table_of("id", "-x"))
    assert {record.key: record.text for record in read(target.path, SourceOptions("-x"))} == texts


def test_a_part_that_is_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    folder = exported(tmp_path / "out", 4)
    part = folder / "part-00000.jsonl"
    part.rename(tmp_path / "elsewhere.jsonl")
    part.symlink_to(tmp_path / "elsewhere.jsonl")
    rejected, record = read(folder)
    assert (rejected.where, rejected.reason) == ("part-00000.jsonl", "a link that leads out of the folder")
    assert isinstance(record, Record)


def test_the_manifest_of_another_program_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    for other in ('{"name": "an extension", "manifest_version": 3}', "[]", "no JSON"):
        (tmp_path / "manifest.json").write_text(other)
        assert [record.key for record in read(tmp_path)] == ["a.txt"]
