"""A bug in a reader ends the reading and is named."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest

from docmill.storage.readers import ReaderFailed, Record, SourceOptions, documents, jsonl, open_source


def test_a_bug_in_the_reader_of_a_file_ends_the_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> NoReturn:
        raise KeyError("geheim")

    (tmp_path / "a.txt").write_text("a text", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"text": "b"}\n', encoding="utf-8")
    monkeypatch.setattr(jsonl, "_check_shape", broken)
    records = open_source(str(tmp_path), SourceOptions()).records()
    assert isinstance(next(records), Record)
    with pytest.raises(ReaderFailed, match=r"^b\.jsonl: the reader docmill\.\S+\.jsonl:rows failed") as failed:
        next(records)
    assert isinstance(failed.value.__cause__, KeyError)
    assert "This is a bug of docmill, not of the file. Please report it with this message;" in str(failed.value)
    assert "geheim" not in str(failed.value)
    assert "jsonl.py" in failed.value.trace
    monkeypatch.setattr(documents, "decode_file", broken)
    with pytest.raises(ReaderFailed, match=r"^a\.txt: the reader docmill\.\S+\.documents:document failed"):
        list(open_source(str(tmp_path), SourceOptions()).records())
