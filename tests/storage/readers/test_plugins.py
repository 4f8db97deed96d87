"""Readers of other packages: a real distribution on the path, and what is wrong with some."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from docmill.storage.readers import (
    FieldUnknown,
    Record,
    Rejection,
    SourceOptions,
    SourceUnreadable,
    SourceUnsupported,
    open_source,
)

OPTIONS = SourceOptions()
READER = """
from docmill.storage.readers import Record, Rejection, Row

def rows(stream, name, options):
    for number, line in enumerate(stream, 1):
        title, _, text = line.decode().rstrip().partition("|")
        where = f"{name}:{number}"
        yield Row({"text": text, "title": title}, number, where, (), False) if text else Rejection(where, "no bar")

class Wiki:
    bytes_read = 0
    def __init__(self, url, options):
        self.name = url
    def size_bytes(self):
        return None
    def records(self):
        yield Record("page", "said", {}, (), "page")

def breaks(stream, name, options):
    yield Row({"text": "fine"}, 1, name, (), True)
    raise KeyError("secret")

def wrong(stream, name, options):
    yield {"text": "no row"}

def refuses(url, options):
    raise RuntimeError(url)

def nothing(url, options):
    return None

constant = 5
"""
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a distribution on the path: its name, and what it registers."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def made(name: str, readers: dict[str, str], code: str = READER) -> None:
        (site / f"{name}.py").write_text(code)
        about = site / f"{name}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = [f"{key} = {value}\n" for key, value in readers.items()]
        (about / "entry_points.txt").write_text("[docmill.readers]\n" + "".join(lines))

    yield made
    for name in ("tiny", "other"):
        sys.modules.pop(name, None)


def test_a_package_can_read_a_suffix_with_all_that_others_have(install: Install, tmp_path: Path) -> None:
    install("tiny", {".bar": "tiny:rows"})
    raw = b"a|first\nnothing\nb|nul\0\n"
    (tmp_path / "c.BAR").write_bytes(raw)
    assert list(open_source(str(tmp_path / "c.BAR"), OPTIONS).records()) == [
        Record("c.BAR:1", "first", {"title": "a"}, (), "c.BAR:1"),
        Rejection("c.BAR:2", "no bar"),
        Record("c.BAR:3", "nul\ufffd", {"title": "b"}, ("nul_replaced",), "c.BAR:3"),
    ]
    (tmp_path / "d.bar.gz").write_bytes(gzip.compress(raw))
    assert len(list(open_source(str(tmp_path / "*.*"), SourceOptions(limit=3)).records())) == 4
    with pytest.raises(FieldUnknown, match='it has "text", "title"'):
        open_source(str(tmp_path / "d.bar.gz"), SourceOptions("body"))


def test_a_package_can_read_a_scheme(install: Install) -> None:
    install("tiny", {"wiki": "tiny:Wiki"})
    source = open_source("WIKI://en/page", OPTIONS)
    assert source.name == "WIKI://en/page"
    assert list(source.records()) == [Record("page", "said", {}, (), "page")]


def test_our_own_kinds_come_first(install: Install, tmp_path: Path) -> None:
    install("tiny", {".jsonl": "tiny:rows", "sqlite": "tiny:Wiki"})
    (tmp_path / "c.jsonl").write_text('{"text": "x"}\n')
    assert len(list(open_source(str(tmp_path / "c.jsonl"), OPTIONS).records())) == 1
    with pytest.raises(SourceUnsupported, match="no query"):
        open_source("sqlite:///x", OPTIONS)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("gone:rows", r"of tiny 1\.0 cannot be loaded \(ModuleNotFoundError: No module named 'gone'\)"),
        ("tiny:gone", r"the reader tiny:gone of tiny 1\.0 cannot be loaded \(AttributeError"),
        ("tiny:constant", r"the reader tiny:constant of tiny 1\.0 is no function"),
    ],
)
def test_a_reader_that_does_not_load_is_named_with_its_package(
    value: str, reason: str, install: Install, tmp_path: Path
) -> None:
    install("tiny", {".bar": value, "wiki": value})
    (tmp_path / "c.bar").write_bytes(b"")
    for source in (str(tmp_path / "c.bar"), "wiki://x"):
        with pytest.raises(SourceUnsupported, match=reason):
            open_source(source, OPTIONS)
    (tmp_path / "c.jsonl").write_text('{"text": "x"}\n')  # which it does not concern
    open_source(str(tmp_path / "c.jsonl"), OPTIONS)


def test_a_module_that_fails_on_import_is_one_sentence(install: Install, tmp_path: Path) -> None:
    install("tiny", {".bar": "tiny:rows"}, code="raise RuntimeError('one\\ntwo')")
    (tmp_path / "c.bar").write_bytes(b"")
    with pytest.raises(SourceUnsupported, match=r"cannot be loaded \(RuntimeError: one\)$"):
        open_source(str(tmp_path / "c.bar"), OPTIONS)


def test_a_reader_that_fails_is_named_and_its_words_are_not_said(install: Install, tmp_path: Path) -> None:
    install("tiny", {".a": "tiny:breaks", ".b": "tiny:wrong", "a": "tiny:refuses", "b": "tiny:nothing"})
    for name in ("c.a", "c.b"):
        (tmp_path / name).write_bytes(b"")
    records = open_source(str(tmp_path / "c.a"), OPTIONS).records()
    assert isinstance(next(records), Record)
    with pytest.raises(SourceUnreadable, match=r"c\.a: the reader tiny:breaks of tiny 1\.0 failed \(KeyError\)$"):
        next(records)
    *_, last = open_source(str(tmp_path / "*.a"), OPTIONS).records()
    assert last == Rejection("c.a", "c.a: the reader tiny:breaks of tiny 1.0 failed (KeyError)", fatal=True)
    with pytest.raises(SourceUnreadable, match=r"tiny:wrong of tiny 1\.0 failed \(TypeError\)"):
        open_source(str(tmp_path / "c.b"), OPTIONS)
    with pytest.raises(
        SourceUnreadable, match=r"a://: the reader tiny:refuses of tiny 1\.0 failed \(RuntimeError\)$"
    ):
        open_source("a://me:geheim@x", OPTIONS)
    with pytest.raises(SourceUnreadable, match="gives no source"):
        open_source("b://x", OPTIONS)


def test_two_readers_of_one_suffix_are_refused_with_both_names(install: Install, tmp_path: Path) -> None:
    install("tiny", {".bar": "tiny:rows"})
    install("other", {".bar": "other:rows"})
    (tmp_path / "c.bar").write_bytes(b"")
    with pytest.raises(SourceUnsupported, match=r"of other 1\.0 and tiny 1\.0; uninstall"):
        open_source(str(tmp_path / "c.bar"), OPTIONS)
