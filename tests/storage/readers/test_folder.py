"""Folders of documents."""

from __future__ import annotations

import gzip
import json
import os
import re
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docmill.storage.extras import install
from docmill.storage.outputs.columns import Column, Form
from docmill.storage.readers import (
    FieldUnknown,
    Record,
    Rejection,
    Source,
    SourceError,
    SourceOptions,
    SourceUnsupported,
    open_source,
)
from docmill.storage.readers.many_files import FolderSource, Pattern
from docmill.storage.readers.registry import document_suffixes
from docmill.storage.readers.sources import reader_of
from docmill.storage.results import parts
from docmill.storage.results.results import Placed
from docmill.storage.writers import Target
from docmill.storage.writers.parts_manifest import Manifest
from docmill.worker.jobs.follow import describe_left_out
from tests.faults.servers import open_folder
from tests.storage.columns import table_of
from tests.storage.readers.reading import OPTIONS, list_keys, list_rejections, list_texts, read, refused, zipped

MAIL = "From a@example.org Thu Jan  1 00:00:00 2026\nSubject: Songs\n\nWhales sing.\n"
NOBODY = 65_534
NAMES = st.text("ab.", min_size=1, max_size=3).filter(lambda name: name.strip("."))
RESULT = {"task": "translate", "tokens_in": 5, "tokens_out": 4, "flags": []}  # the fields that each result has


def write(root: Path, files: dict[str, str | bytes]) -> None:
    """Write files into a folder."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def keys(source: Source | str) -> list[str]:
    """Return the keys of a source's records."""
    source = open_source(source, OPTIONS) if isinstance(source, str) else source
    return list_keys(source.records())


def rejections(source: Source) -> dict[str, str]:
    """Return the reasons of a source's rejections by place."""
    return {item.where: item.reason for item in list_rejections(source.records())}


def test_each_file_is_a_document_under_its_relative_path_in_the_order_of_the_paths(tmp_path: Path) -> None:
    write(tmp_path, {"b.txt": "B", "a/z.md": "Z", "a/b/c.txt": "C", "a.txt": "A", "a-b.txt": "AB"})
    source = open_source(str(tmp_path), OPTIONS)
    assert source.name == str(tmp_path)
    assert source.size_bytes() is None
    items = list(source.records())
    assert [item.where for item in items] == sorted(["b.txt", "a/z.md", "a/b/c.txt", "a.txt", "a-b.txt"])
    assert items[2] == Record("a/b/c.txt", "C", {}, (), "a/b/c.txt")
    assert source.bytes_read == 6
    assert list(source.records()) == items


def test_hidden_files_are_passed_over_and_other_kinds_are_counted(tmp_path: Path) -> None:
    write(tmp_path, {".hidden.txt": "", ".git/x.txt": "", "a.txt": "", "b.png": "", "c.png": "", "README": ""})
    write(tmp_path, {"__MACOSX/a.txt": "of a zip that macOS packed"})
    write(tmp_path, {"~$letter.docx": "of an open file of Office", "~$notes.txt": ""})
    source = FolderSource(tmp_path, OPTIONS, reader_of)
    assert keys(source) == keys(str(tmp_path / "*.[td]*")) == ["a.txt"]
    assert source.ignored == {".png": 2, "without a suffix": 1}


def test_a_folder_without_a_document_is_refused_with_its_kinds_of_files(tmp_path: Path) -> None:
    assert re.search(r"no \.txt, \.md, .* files in", refused(SourceUnsupported, tmp_path))
    write(tmp_path, {"x.png": "", "sub/y.png": ""})
    assert "it has 2 .png" in refused(SourceUnsupported, tmp_path)


def test_a_file_over_the_limit_is_rejected(tmp_path: Path) -> None:
    write(tmp_path, {"a.txt": "x" * 101, "b.txt": "x" * 100})
    source = open_source(str(tmp_path), SourceOptions(max_record_bytes=100))
    assert keys(source) == ["b.txt"]
    assert rejections(source) == {"a.txt": "longer than 100 bytes, the limit for one document"}


def test_links_that_lead_out_of_the_folder_are_refused_and_links_within_it_are_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    write(secret, {"s.txt": "secret"})
    root = tmp_path / "root"
    write(root, {"real.txt": "real", "sub/inner.txt": "inner"})
    (root / "in.txt").symlink_to("real.txt")
    (root / "out.txt").symlink_to("../secret/s.txt")
    (root / "absolute.md").symlink_to(secret / "s.txt")
    (root / "chain.txt").symlink_to("out.txt")
    (root / "nowhere.txt").symlink_to("missing.txt")
    (root / "self.txt").symlink_to("self.txt")
    (root / "folder-out").symlink_to(secret)
    (root / "folder-in").symlink_to("sub")
    source = open_source(str(root), OPTIONS)
    assert keys(source) == ["in.txt", "real.txt", "sub/inner.txt"]
    assert rejections(source) == {
        "absolute.md": "a link that leads out of the folder",
        "chain.txt": "a link that leads out of the folder",
        "folder-in": "a link to a folder; links to folders are not followed",
        "folder-out": "a link that leads out of the folder",
        "nowhere.txt": "a link that leads nowhere",
        "out.txt": "a link that leads out of the folder",
        "self.txt": "a link that leads nowhere",
    }


def test_pipes_sockets_and_devices_are_refused_without_being_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    write(root, {"a.txt": "a"})
    os.mkfifo(root / "pipe.txt")
    (root / "null.txt").symlink_to("/dev/null")
    (root / "link-to-pipe.txt").symlink_to("pipe.txt")
    monkeypatch.chdir(root)  # the path of a socket may not be longer than some 100 bytes
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.txt")
    source = open_source(str(root), OPTIONS)
    assert keys(source) == ["a.txt"]
    assert rejections(source) == {
        "link-to-pipe.txt": "a pipe, not a file",
        "null.txt": "a link that leads out of the folder",
        "pipe.txt": "a pipe, not a file",
        "socket.txt": "a socket, not a file",
    }


def test_unreadable_files_are_rejected_and_the_rest_is_read() -> None:
    user = os.geteuid()
    with open_folder() as folder:
        folder.chmod(0o755)
        write(folder, {"a.txt": "", "b.txt": "", "c/d.txt": ""})
        (folder / "a.txt").chmod(0)
        (folder / "c").chmod(0)
        source = open_source(str(folder), OPTIONS)
        assert "b.txt" in keys(source)
        os.seteuid(user or NOBODY)  # root can read everything
        try:
            assert keys(source) == ["b.txt"]
            assert set(rejections(source)) == {"a.txt", "c/"}
        finally:
            os.seteuid(user)
            (folder / "c").chmod(0o700)


def test_a_file_that_goes_away_while_the_folder_is_read_is_a_rejection(tmp_path: Path) -> None:
    write(tmp_path, {"a.txt": "", "b.txt": "", "c.txt": ""})
    records = open_source(str(tmp_path), OPTIONS).records()
    assert next(records).where == "a.txt"
    (tmp_path / "b.txt").unlink()
    gone, last = records
    assert isinstance(gone, Rejection)
    assert "no such file" in gone.reason
    assert last == Record("c.txt", "", {}, (), "c.txt")


@pytest.mark.parametrize("pattern", ["", "**"])
def test_records_archives_and_mailboxes_below_a_folder_are_read_under_their_files_paths(
    tmp_path: Path, pattern: str
) -> None:
    write(
        tmp_path,
        {
            "data/a.txt": "A",
            "data/b/c.jsonl": '{"id": "x", "text": "one"}\n{"text": "two", "lang": "en"}\n',
            "data/b/d.csv.gz": gzip.compress(b"id,text\n7,seven\n"),
            "data/b/e.zip": zipped({"in/f.txt": "F", "../out.txt": "", "g.png": ""}),
            "data/h.mbox": MAIL,
            "data/i.txt.gz": gzip.compress(b"I"),
            "data/j.png": "",
            "other/k.txt": "K",
        },
    )
    root = str(tmp_path / "data" / pattern)
    source = open_source(root, OPTIONS)
    assert (source.name, source.size_bytes()) == (root, None)
    items = list(source.records())
    assert [item for item in items if isinstance(item, Record) and not item.key.startswith("h.mbox")] == [
        Record("a.txt", "A", {}, (), "a.txt"),
        Record("b/c.jsonl#x", "one", {}, (), "b/c.jsonl:1"),
        Record("b/c.jsonl:2", "two", {"lang": "en"}, (), "b/c.jsonl:2"),
        Record("b/d.csv.gz#7", "seven", {}, (), "b/d.csv.gz:2"),
        Record("b/e.zip/in/f.txt", "F", {}, (), "b/e.zip/in/f.txt"),
        Record("i.txt.gz", "I", {}, (), "i.txt.gz"),
    ]
    assert "h.mbox/1.eml" in keys(source)
    assert [item.where for item in items if isinstance(item, Rejection)] == ["b/e.zip/../out.txt"]
    assert source.ignored == {".png": 2}
    assert source.bytes_read > 0
    assert list(source.records()) == items
    assert len(keys(open_source(root, SourceOptions(limit=3)))) == 3


def test_files_of_records_without_the_text_field_are_left_out_with_the_reason(tmp_path: Path) -> None:
    write(tmp_path, {"a.txt": "A", "b.csv": "name,size\nx,1\n", "c.csv": "text\nC\n", "d.csv": "other\nx\n"})
    write(tmp_path, {"e.zip": zipped({"x.png": ""})})
    source = open_source(str(tmp_path), OPTIONS)
    assert keys(source) == ["a.txt", "c.csv:2"]
    assert rejections(source) == {}
    assert source.ignored == {".csv": 2, ".zip": 1}
    suffixes = ", ".join(document_suffixes())
    assert source.reasons == {
        ".csv": 'b.csv: no record has a field "text"; it has "name", "size": name one with --text-field',
        ".zip": f"no {suffixes}, .jsonl, .csv or other members in e.zip that are read",
    }


def test_results_beside_the_documents_of_a_folder_are_not_its_documents(tmp_path: Path) -> None:
    write(tmp_path, {"a.txt": "A"})
    result = {"id": "a.txt", "text": "S", **RESULT, "meta": {}}
    for name in ("r.jsonl", "r.csv", "r.parquet"):
        Target.of(tmp_path / name).write([result], [Column.of(key, Form.JSON) for key in result])
    source = open_source(str(tmp_path), OPTIONS)
    assert keys(source) == ["a.txt"]
    assert source.ignored == {".jsonl": 1, ".csv": 1, ".parquet": 1}
    reason = "r.jsonl: it holds results that docmill wrote; to read them name the file"
    assert source.reasons[".jsonl"] == reason
    (tmp_path / "a.txt").unlink()
    assert "it holds results that docmill wrote" in refused(SourceUnsupported, tmp_path)


def test_metadata_for_a_prompt_comes_from_the_records_of_a_folder(tmp_path: Path) -> None:
    options = SourceOptions(meta_fields=("lang",))
    write(tmp_path, {"b.jsonl": '{"text": "one", "lang": "en"}\n', "c.jsonl": '{"text": "two"}\n'})
    source = open_source(str(tmp_path), options)
    assert keys(source) == ["b.jsonl:1"]
    assert 'a field "lang"' in rejections(source)["c.jsonl"]
    write(tmp_path, {"a.txt": "no metadata"})
    assert "has texts alone and no metadata" in refused(FieldUnknown, str(tmp_path), options)


def test_files_without_a_library_are_left_out_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"a.txt": "A", "b.parquet": "PAR1", "c.pdf": "", "d.mbox": MAIL, "e.PNG": "", "f.png": ""})
    monkeypatch.setattr("docmill.storage.extras.find_spec", lambda name: None)
    source = open_source(str(tmp_path), OPTIONS)
    assert keys(source) == ["a.txt"]
    assert source.ignored == {".PNG": 1, ".png": 1, ".parquet": 1, ".pdf": 1, ".mbox": 1}
    assert re.search(r"install .*\[formats\]", refused(SourceUnsupported, tmp_path / "c.pdf"))
    needs = f"b.parquet: Parquet needs another library: {install('parquet')}"
    assert source.reasons[".parquet"] == needs
    message = describe_left_out(source)
    assert message is not None
    assert message.startswith("5 files were left out: 2 .png, 1 .mbox, 1 .parquet, 1 .pdf. ")
    assert needs in message
    assert f"{install('formats')} reads .html" in message


def test_damage_in_one_file_of_a_folder_affects_no_other(tmp_path: Path) -> None:
    write(tmp_path, {"a.jsonl.gz": b"no gzip", "b.zip": b"no zip", "c.txt": "C"})
    source = open_source(str(tmp_path), OPTIONS)
    assert keys(source) == ["c.txt"]
    items = list_rejections(source.records())
    assert [(item.where, item.fatal, item.below) for item in items] == [
        ("a.jsonl.gz@7", True, "a.jsonl.gz"),
        ("b.zip", True, "b.zip"),
    ]


def test_a_file_in_windows_1252_among_others_is_decoded_and_flagged(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("caf\u00e9")
    (tmp_path / "b.txt").write_text("Das Caf\u00e9 \u2013 ein Ort", "cp1252")
    (tmp_path / "c.txt").write_bytes("caf\u00e9 ".encode() + b"caf\xe9")  # UTF-8 with a wrong byte
    (tmp_path / "d.txt").write_text("\u0441\u043b\u043e\u0432\u043e", "cp1251")
    (tmp_path / "e.csv").write_bytes("id,text\n1,\u00e9t\u00e9\n2,\u00fc\n".encode("cp1252"))
    read_items = {item.key: (item.text, item.flags) for item in read(tmp_path) if isinstance(item, Record)}
    assert read_items["a.txt"] == ("caf\u00e9", ())
    assert read_items["b.txt"] == ("Das Caf\u00e9 \u2013 ein Ort", ("assumed_cp1252@7",))
    assert read_items["c.txt"] == ("caf\u00e9 caf\ufffd", ("invalid_utf8@9",))
    assert read_items["d.txt"] == ("\ufffd" * 5, ("invalid_utf8@0",))
    assert read_items["e.csv#1"] == ("\u00e9t\u00e9", ("assumed_cp1252@10",))
    assert read_items["e.csv#2"][1] == ("assumed_cp1252@16",)


def matched(pattern: Path) -> list[str]:
    """Return the files that a pattern means."""
    return [entry[0] for entry in Pattern(str(pattern)).walk() if not isinstance(entry, Rejection)]


def test_a_pattern_may_follow_a_folder_with_brackets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"letters [1916]/a.txt": "a", "letters [1916]/[b]/c.txt": "c", "letters 1/d.txt": "d"})
    assert keys(f"{tmp_path}/letters [1916]/*.txt") == ["a.txt"]
    assert keys(f"{tmp_path}/letters [16]/*.txt") == ["letters 1/d.txt"]
    monkeypatch.chdir(tmp_path / "letters [1916]")
    assert keys("*.txt") == ["a.txt"]
    assert keys("[b]/*") == ["c.txt"]


def test_one_process_reads_all_documents_of_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        (tmp_path / f"{name}.html").write_text(f"<p>Page {name}</p>")
    started: list[int] = []
    start = subprocess.Popen.__init__

    def count(process: subprocess.Popen[bytes], *arguments: Any, **options: Any) -> None:
        start(process, *arguments, **options)
        started.append(process.pid)

    monkeypatch.setattr(subprocess.Popen, "__init__", count)
    for source in (tmp_path, tmp_path / "*.html"):
        opened = open_source(str(source), OPTIONS)
        assert list_texts(opened.records()) == ["Page a", "Page b", "Page c"]
        assert opened.bytes_read == 3 * len("<p>Page a</p>")
    assert len(started) == 2


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.txt", ["a-b.txt", "a.txt"]),
        ("?.txt", ["a.txt"]),
        ("[ab].txt", ["a.txt"]),
        ("*/*.txt", ["a/x.txt"]),
        ("**/*.txt", ["a-b.txt", "a.txt", "a/b/y.txt", "a/x.txt"]),
        ("**/**/x.txt", ["a/x.txt"]),
        ("a/**", ["b/y.txt", "x.txt"]),
        ("**/b/*", ["a/b/y.txt"]),
        (".hidden/*", ["z.txt"]),
        (".*/*", [".hidden/z.txt"]),
        ("../*/a/*.txt", None),
    ],
)
def test_a_pattern_matches_files_in_order(pattern: str, expected: list[str] | None, tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(root, dict.fromkeys(["a.txt", "a-b.txt", "a/x.txt", "a/b/y.txt", ".hidden/z.txt", ".dot.txt"], ""))
    paths = matched(root / pattern)
    assert paths == (["root/a/x.txt"] if expected is None else expected)
    for path in paths:
        assert Pattern(str(root / pattern)).matches(Pattern(str(root / pattern)).root / path)


@given(
    paths=st.sets(st.lists(NAMES, min_size=1, max_size=3).map("/".join), max_size=8),
    parts=st.lists(NAMES | st.sampled_from(["*", "**", "a*", "?"]), min_size=1, max_size=3),
)
def test_a_walk_gives_the_matches(
    paths: set[str], parts: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("root")
    files = [path for path in sorted(paths) if not any(longer.startswith(f"{path}/") for longer in paths)]
    write(root, dict.fromkeys(files, ""))
    pattern = Pattern(str(root.joinpath("*", *parts)))
    expected = [path for path in files if pattern.matches(root / path)]
    assert matched(root.joinpath("*", *parts)) == expected


def test_a_file_whose_name_looks_like_a_pattern_is_read(tmp_path: Path) -> None:
    write(tmp_path, {"a[1].jsonl": '{"text": "x"}\n', "a1.jsonl": '{"text": "y"}\n'})
    assert keys(str(tmp_path / "a[1].jsonl")) == ["a[1].jsonl:1"]
    assert keys(str(tmp_path / "a[[]1].jsonl")) == ["a[1].jsonl:1"]


def test_the_name_of_any_folder_or_pattern_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"da ta/a.txt": "x"})
    (tmp_path / "link").symlink_to("da ta")
    monkeypatch.chdir(tmp_path)
    for pattern in ("da ta/*.txt", "./da ta/../da ta/*.txt", "link/*.txt", f"file://{tmp_path}/da%20ta/*.txt"):
        assert open_source(pattern, OPTIONS).name == f"{tmp_path}/da ta/*.txt"
    assert open_source("da ta/../da ta", OPTIONS).name == f"{tmp_path}/da ta"


def test_a_link_is_read_by_its_own_name_in_a_folder_and_below_a_pattern(tmp_path: Path) -> None:
    write(tmp_path, {"blobs/3f2a": '{"id": "1", "text": "x"}\n', "blobs/9c.md": "said"})
    (tmp_path / "a.jsonl").symlink_to("blobs/3f2a")
    (tmp_path / "b.txt").symlink_to("blobs/9c.md")
    for source in (tmp_path, tmp_path / "*.*", tmp_path / "**"):
        items = [item for item in read(source) if isinstance(item, Record) and "blobs" not in item.where]
        assert [(item.text, item.where) for item in items] == [("x", "a.jsonl:1"), ("said", "b.txt")]


def test_a_pattern_without_a_readable_match_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"a.png": ""})
    assert re.search(r"no file matches .*\*\.jsonl", refused(SourceUnsupported, tmp_path / "*.jsonl"))
    assert "no file matches" in refused(SourceUnsupported, tmp_path / "nowhere" / "*.jsonl")
    assert "a.png is not a kind of file" in refused(SourceUnsupported, tmp_path / "*")


def test_a_wrong_field_is_an_error_and_in_a_later_file_a_rejection(tmp_path: Path) -> None:
    write(tmp_path, {"a.jsonl": '{"text": "x"}\n', "b.csv": "body\nx\n", "c.jsonl": '{"text": "y"}\n'})
    pattern = str(tmp_path / "*")
    assert 'no record has a field "body"' in refused(FieldUnknown, pattern, SourceOptions("body"))
    assert keys(pattern) == ["a.jsonl:1", "c.jsonl:1"]
    assert 'no record has a field "text"' in rejections(open_source(pattern, OPTIONS))["b.csv"]


def export(folder: Path, n: int, form: str | None = None, field: str = "text", part_documents: int = 3) -> Path:
    """Export n results in parts, and return the folder."""
    rows: list[Placed] = [
        ((i, i), {"id": f"k{i}", field: f"Text {i}:\n«слово»", **RESULT, "meta": {"n": i}}) for i in range(n)
    ]
    target = Target.of(folder, form)
    form = target.writer.name + target.compression
    wanted = Manifest(1, "books", 0.5, None, form, part_documents, "0.1.0", {}, {"a": {"done": n}})
    columns = table_of("id", field, "tokens_in", "tokens_out", "flags", "meta")
    parts.write(target, wanted, lambda place: iter(rows), columns)
    return folder


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_parts_are_one_source_with_their_ids_and_texts(tmp_path: Path, form: str) -> None:
    folder = export(tmp_path / "out", 10, form)
    (folder / "notes.txt").write_text("no part")
    items = read(folder)
    assert [(item.key, item.text) for item in items if isinstance(item, Record)] == [
        (f"k{i}", f"Text {i}:\n«слово»") for i in range(10)
    ]
    first_line = {"jsonl": "part-00003.jsonl:1", "csv": "part-00003.csv:2"}
    assert items[-1].where == first_line[form]
    assert read(folder, SourceOptions(limit=4)) == items[:4]


def test_an_incomplete_export_is_refused(tmp_path: Path) -> None:
    folder = export(tmp_path / "out", 10)
    part = folder / "part-00001.jsonl"
    raw = part.read_bytes()
    part.write_bytes(raw[:-1])
    message = "part-00001.jsonl is not as it was written; the `docmill results`"
    assert message in refused(SourceError, folder)
    part.unlink()
    assert message in refused(SourceError, folder)
    part.write_bytes(raw)
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"complete": False}))
    assert "has not all of its parts" in refused(SourceError, folder)
    assert "no results" in refused(SourceUnsupported, export(tmp_path / "none", 0))


@pytest.mark.parametrize("name", ["../secret.jsonl", "secret.jsonl", None])
def test_a_manifest_that_names_other_files_is_ignored(tmp_path: Path, name: object) -> None:
    folder = export(tmp_path / "out", 2)
    (tmp_path / "secret.jsonl").write_text('{"text": "secret"}')
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["parts"][0]["files"][0]["name"] = name
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "part-00000.jsonl: it holds results that docmill wrote" in refused(SourceUnsupported, folder)


def test_a_part_that_is_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    folder = export(tmp_path / "out", 4)
    part = folder / "part-00000.jsonl"
    part.rename(tmp_path / "elsewhere.jsonl")
    part.symlink_to(tmp_path / "elsewhere.jsonl")
    rejected, record = read(folder)
    assert rejected == Rejection("part-00000.jsonl", "a link that leads out of the folder")
    assert isinstance(record, Record)


def test_the_manifest_of_another_program_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    for manifest in ('{"name": "an extension", "manifest_version": 3}', "[]", "no JSON"):
        (tmp_path / "manifest.json").write_text(manifest)
        assert keys(str(tmp_path)) == ["a.txt"]
