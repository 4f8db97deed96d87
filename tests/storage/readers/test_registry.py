"""A reader is one module and one line of the registry; help and messages derive from the registry."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from pkgutil import resolve_name
from typing import NoReturn

import click
import pytest

from docmill.storage.extras import install
from docmill.storage.readers import ReaderFailed, Record, SourceOptions, documents, jsonl, open_source, registry
from docmill.storage.readers.registry import FILES, SCHEMES, Archive, Document, Records, described, kind_of, missing
from docmill.storage.readers.streams import gunzip, unzstd
from docmill.worker.cli import docmill
from tests.worker.harness import ROOT

BARS = '''
"""Lines of `id|text`."""

from collections.abc import Iterator
from typing import BinaryIO

from docmill.storage.readers.records import Rejection, Row, Rows, SourceOptions


def rows(stream: BinaryIO, name: str, options: SourceOptions) -> Rows:
    """Yield a row for each line."""
    for number, line in enumerate(stream, 1):
        where = f"{name}:{number}"
        key, bar, text = line.decode().rstrip("\\n").partition("|")
        if bar:
            yield Row({options.id_field: key, options.text_field: text}, number, where, (), clean=False)
        else:
            yield Rejection(where, "the line has no bar")
'''
LINE = 'registry.FILES[".bars"] = registry.Records("docmill.storage.readers.bars:rows")'


def _docmill(
    folder: Path, *arguments: str, code: int = 0, bars: str = BARS, level: str = "warning"
) -> subprocess.CompletedProcess[str]:
    """Call docmill with the module and the line of another reader, both in this folder."""
    (folder / "bars.py").write_text(bars.lstrip(), encoding="utf-8")
    program = f"""
import docmill.storage.readers
from docmill.storage.readers import registry
from docmill.worker.cli import main

docmill.storage.readers.__path__.append({str(folder)!r})
{LINE}
main()
"""
    environment = os.environ | {"COLUMNS": "80", "DOCMILL_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT)}
    environment["DOCMILL_LOG_LEVEL"] = level
    called = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(called, env=environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done


def test_a_reader_is_one_module_and_one_line(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "a.bars").write_text("1|A first text.\n2|Another text.\nno text\n", encoding="utf-8")
    done = _docmill(tmp_path, "run", "corpus/a.bars", "--task", "summarize", "--model", "null", "--out", "-", code=4)
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == ["1", "2"]
    assert "1 record rejected" in done.stderr
    in_folder = _docmill(tmp_path, "enqueue", "corpus", "--task", "summarize", "--model", "null")
    assert "2 records" in in_folder.stderr
    refused = _docmill(tmp_path, "enqueue", "a.foo", "--task", "summarize", "--model", "null", code=2)
    assert "no such file" in refused.stderr
    (tmp_path / "a.foo").touch()
    refused = _docmill(tmp_path, "enqueue", "a.foo", "--task", "summarize", "--model", "null", code=2)
    assert ".bars" in refused.stderr
    for command in ("run", "enqueue"):
        assert ".bars" in _docmill(tmp_path, command, "--help").stdout


@pytest.mark.parametrize("first_rows", [0, 200])
def test_a_bug_in_a_reader_is_named_with_the_file_and_what_to_do_and_without_the_documents_words(
    tmp_path: Path, first_rows: int
) -> None:
    (tmp_path / "a.bars").write_text("1|A text.\n" * first_rows + "1|geheim\n", encoding="utf-8")
    broken = BARS.replace("        if bar:", "        assert text != 'geheim', text\n        if bar:")
    command = ("enqueue", "a.bars", "--task", "summarize", "--model", "null")
    done = _docmill(tmp_path, *command, code=2, bars=broken)
    said = " ".join(done.stderr.split())
    assert "docmill: a.bars: the reader docmill.storage.readers.bars:rows failed (AssertionError in line " in said
    assert "This is a bug of docmill, not of the file. Please report it with this message;" in said
    assert "geheim" not in said
    assert "Traceback" not in said
    told = _docmill(tmp_path, *command, code=2, bars=broken, level="debug")
    assert f'File "{tmp_path}/bars.py", line' in told.stderr


def test_a_bug_in_the_reader_of_one_file_of_a_folder_ends_the_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> NoReturn:
        raise KeyError

    (tmp_path / "a.txt").write_text("a text", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"text": "b"}\n', encoding="utf-8")
    monkeypatch.setattr(jsonl, "_check_shape", broken)
    records = open_source(str(tmp_path), SourceOptions()).records()
    assert isinstance(next(records), Record)
    with pytest.raises(ReaderFailed, match=r"^b\.jsonl: the reader docmill\.\S+\.jsonl:rows failed") as failed:
        next(records)
    assert isinstance(failed.value.__cause__, KeyError)
    monkeypatch.setattr(documents, "decoded", broken)
    with pytest.raises(ReaderFailed, match=r"^a\.txt: the reader docmill\.\S+\.documents:document failed"):
        list(open_source(str(tmp_path), SourceOptions()).records())


def test_every_line_names_a_function_that_is_there() -> None:
    for kind in FILES.values():
        assert isinstance(kind, Document) or callable(resolve_name(kind.reader))
    for scheme in SCHEMES.values():
        assert callable(resolve_name(scheme.opener))
        assert scheme.place is None or callable(resolve_name(scheme.place))


@pytest.mark.parametrize(
    ("file_name", "kind"),
    [
        ("a.jsonl", (".jsonl", None)),
        ("a.b.CSV.GZ", (".csv", gunzip)),
        ("a.tar.zst", (".tar", unzstd)),
        ("a.tgz", (".tar", gunzip)),
        ("a.gz", ("", gunzip)),
        (".jsonl", ("", None)),
        ("README", ("", None)),
    ],
)
def test_a_file_is_read_by_the_suffix_before_its_compression(file_name: str, kind: tuple[str, object]) -> None:
    assert kind_of(file_name) == kind


def test_help_and_errors_name_every_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    said = described()
    for suffix, kind in FILES.items():
        assert f"{suffix}" in said
        if isinstance(kind, Document | Archive) and kind.extra is not None:
            assert said.index(f'"{kind.extra.name}"') < said.index(suffix)
    for scheme in ("datasets", "sqlite", "postgresql"):
        assert f"{scheme}://" in said
    monkeypatch.setattr("docmill.storage.extras.find_spec", lambda _: None)
    assert missing([".txt", ".PNG"]) == ""
    assert missing([".PDF", ".mbox"]).startswith(f"; {install('formats')} reads .html, .htm, .pdf")
    assert registry.document_suffixes() == (".txt", ".md")


@pytest.mark.parametrize("name", ["run", "enqueue"])
def test_the_help_of_commands_that_read_lists_the_sources(name: str) -> None:
    command = docmill.get_command(click.Context(docmill), name)
    assert command is not None
    shown = " ".join(command.get_help(click.Context(command)).split())
    assert f"SOURCE is {described()}." in shown


def test_what_is_no_text_names_no_compression() -> None:
    compressed = {suffix for suffix, kind in FILES.items() if isinstance(kind, Records) and kind.may_be_compressed}
    assert compressed >= {".jsonl", ".ndjson", ".csv", ".tsv"}
    assert compressed.isdisjoint({".parquet", ".arrow", ".feather"})
