"""Patterns: which files they mean, in which order, and how documents of many files are kept apart."""

from __future__ import annotations

import gzip
import os
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docmill.storage.core.installation import install
from docmill.storage.readers import (
    FieldUnknown,
    Record,
    Rejection,
    SourceEmpty,
    SourceMissing,
    SourceOptions,
    SourceUnsupported,
    open_source,
)
from docmill.storage.readers.many_files import FilesSource
from docmill.storage.readers.patterns import Pattern

OPTIONS = SourceOptions()


def write(root: Path, files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def keys(source: str, options: SourceOptions = OPTIONS) -> list[str]:
    return [item.key for item in open_source(source, options).records() if isinstance(item, Record)]


def rejections(source: str) -> dict[str, str]:
    return {item.where: item.reason for item in open_source(source, OPTIONS).records() if isinstance(item, Rejection)}


def matched(pattern: Path) -> list[str]:
    return [found[0] for found in Pattern(str(pattern)).walk() if not isinstance(found, Rejection)]


def test_a_folder_whose_name_has_brackets_may_stand_before_a_pattern(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"letters [1916]/a.txt": "a", "letters [1916]/[b]/c.txt": "c", "letters 1/d.txt": "d"})
    assert keys(f"{tmp_path}/letters [1916]/*.txt") == ["a.txt"]
    assert keys(f"{tmp_path}/letters [16]/*.txt") == ["letters 1/d.txt"]
    monkeypatch.chdir(tmp_path / "letters [1916]")
    assert keys("*.txt") == ["a.txt"]
    assert keys("[b]/*") == ["c.txt"]


def test_a_wildcard_that_two_dots_take_back_makes_no_pattern(tmp_path: Path) -> None:
    write(tmp_path, {"a.txt": "a"})
    with pytest.raises(SourceMissing):
        open_source(f"{tmp_path}/*/../a.txt", OPTIONS)


def test_documents_of_many_files_have_keys_that_keep_the_files_apart(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "data/b.jsonl": '{"id": 1, "text": "b1"}\n{"text": "b2"}\n',
            "data/a.csv": "id,text\n1,a1\n,a2\n",
            "data/sub/c.jsonl.gz": gzip.compress(b'{"id": 1, "text": "c1"}\n'),
            "data/note.txt": "n",
            "data/x.png": "",
            "other/d.jsonl": '{"id": 1, "text": "d1"}\n',
        },
    )
    with zipfile.ZipFile(tmp_path / "data/z.zip", "w") as made:
        made.writestr("in/m.txt", "m")
        made.writestr("../out.txt", "m")
    pattern = str(tmp_path / "data/**")
    source = open_source(pattern, OPTIONS)
    assert source.name == pattern
    found = list(source.records())
    assert [item.key for item in found if isinstance(item, Record)] == [
        *("a.csv#1", "a.csv:2", "b.jsonl#1", "b.jsonl:2", "note.txt", "sub/c.jsonl.gz#1", "z.zip/in/m.txt"),
    ]
    assert [item.where for item in found if isinstance(item, Rejection)] == ["z.zip/../out.txt"]
    assert isinstance(source, FilesSource)
    assert source.ignored == {".png": 1}
    assert source.bytes_read > 0
    assert source.size_bytes() is None
    assert list(source.records()) == found
    assert keys(pattern, SourceOptions(limit=3)) == ["a.csv#1", "a.csv:2", "b.jsonl#1"]


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
def test_a_pattern_means_files_in_the_order_of_their_paths(
    pattern: str, expected: list[str] | None, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    write(root, dict.fromkeys(["a.txt", "a-b.txt", "a/x.txt", "a/b/y.txt", ".hidden/z.txt", ".dot.txt"], ""))
    found = matched(root / pattern)
    assert found == (["root/a/x.txt"] if expected is None else expected)
    for path in found:
        assert Pattern(str(root / pattern)).matches(Pattern(str(root / pattern)).root / path)


NAMES = st.text("ab.", min_size=1, max_size=3).filter(lambda name: name.strip("."))


@given(
    paths=st.sets(st.lists(NAMES, min_size=1, max_size=3).map("/".join), max_size=8),
    parts=st.lists(NAMES | st.sampled_from(["*", "**", "a*", "?"]), min_size=1, max_size=3),
)
def test_what_is_walked_is_what_matches(
    paths: set[str], parts: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("root")
    files = [path for path in sorted(paths) if not any(other.startswith(f"{path}/") for other in paths)]
    write(root, dict.fromkeys(files, ""))
    pattern = Pattern(str(root.joinpath("*", *parts)))
    expected = [path for path in files if pattern.matches(root / path)]
    assert matched(root.joinpath("*", *parts)) == expected


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    write(tmp_path, {"a[1].jsonl": '{"text": "x"}\n', "a1.jsonl": '{"text": "y"}\n'})
    assert keys(str(tmp_path / "a[1].jsonl")) == ["a[1].jsonl:1"]
    assert keys(str(tmp_path / "a[[]1].jsonl")) == ["a[1].jsonl:1"]


def test_the_name_is_the_absolute_pattern_however_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"data/a.txt": "x"})
    (tmp_path / "link").symlink_to("data")
    monkeypatch.chdir(tmp_path)
    for asked in ("data/*.txt", "./data/../data/*.txt", "link/*.txt", f"{tmp_path}/data/*.txt"):
        assert open_source(asked, OPTIONS).name == f"{tmp_path}/data/*.txt"


def test_no_match_and_no_readable_match_are_refused(tmp_path: Path) -> None:
    write(tmp_path, {"a.png": ""})
    with pytest.raises(SourceEmpty, match=r"no file matches .*\*\.jsonl"):
        open_source(str(tmp_path / "*.jsonl"), OPTIONS)
    with pytest.raises(SourceEmpty, match="no file matches"):
        open_source(str(tmp_path / "nowhere" / "*.jsonl"), OPTIONS)
    with pytest.raises(SourceUnsupported, match=r"a\.png is not a kind of file"):
        open_source(str(tmp_path / "*"), OPTIONS)


def test_a_wrong_field_is_an_error_and_in_a_later_file_a_rejection(tmp_path: Path) -> None:
    write(tmp_path, {"a.jsonl": '{"text": "x"}\n', "b.csv": "body\nx\n", "c.jsonl": '{"text": "y"}\n'})
    pattern = str(tmp_path / "*")
    with pytest.raises(FieldUnknown, match='no record has a field "body"'):
        open_source(pattern, SourceOptions("body"))
    assert keys(pattern) == ["a.jsonl:1", "c.jsonl:1"]
    assert 'no record has a field "text"' in rejections(pattern)["b.csv"]


def test_damage_in_one_file_leaves_the_others_readable(tmp_path: Path) -> None:
    write(tmp_path, {"a.jsonl.gz": b"no gzip", "b.zip": b"no zip", "c.jsonl": '{"text": "x"}\n'})
    pattern = str(tmp_path / "*")
    assert keys(pattern) == ["c.jsonl:1"]
    assert set(rejections(pattern)) == {"a.jsonl.gz@7", "b.zip"}


def test_a_file_whose_library_is_missing_is_rejected_and_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"a.jsonl": '{"text": "x"}\n', "b.parquet": "PAR1", "c.png": ""})
    monkeypatch.setattr("docmill.storage.readers.registry.find_spec", lambda name: None)
    pattern = str(tmp_path / "*")
    assert install("parquet") in rejections(pattern)["b.parquet"]
    assert keys(pattern) == ["a.jsonl:1"]


def test_links_that_lead_out_and_pipes_are_refused_and_links_to_folders_not_followed(tmp_path: Path) -> None:
    write(tmp_path, {"secret/s.txt": "s", "root/a.txt": "a", "root/sub/b.txt": "b"})
    root = tmp_path / "root"
    (root / "in.txt").symlink_to("a.txt")
    (root / "out.txt").symlink_to("../secret/s.txt")
    (root / "loop").symlink_to(".")
    os.mkfifo(root / "pipe.txt")
    pattern = str(root / "**" / "*.txt")
    assert keys(pattern) == ["a.txt", "in.txt", "sub/b.txt"]
    refused = rejections(pattern)
    assert refused.pop("pipe.txt").endswith("pipe.txt is a pipe, not a file; pass it on standard input, as -")
    assert refused == {
        "loop": "a link to a folder is not followed",
        "out.txt": "a link that leads out of the folder",
    }
