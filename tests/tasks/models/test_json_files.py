"""Small JSON files of models, whole and broken."""

from __future__ import annotations

from pathlib import Path

from docmill.tasks.models.json_files import content, parsed, table


def test_a_configuration_with_infinity_is_read() -> None:
    assert table(b'{"limit": Infinity, "model_type": "bert"}') == {"limit": float("inf"), "model_type": "bert"}


def test_text_that_is_no_json_or_no_object_is_an_empty_table(tmp_path: Path) -> None:
    assert [table(data) for data in (b"{", b"[1]", b"\xff", None)] == [{}, {}, {}, {}]
    assert [parsed(data) for data in (b"{", b"[1]", b"\xff", None)] == [None, [1], None, None]
    assert [content(tmp_path), content(tmp_path / "missing.json")] == [None, None]
