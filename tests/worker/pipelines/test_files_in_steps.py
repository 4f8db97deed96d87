"""A schema in a file of its own becomes part of the pipeline's text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks import kinds
from worker.pipelines.file import PipelineInvalid, parse, read

SCHEMA = {"type": "object", "properties": {"title": {"type": "string", "description": 'the "title" \\ \x7f'}}}
TITLE = '{ type = "string", description = "the \\"title\\" \\\\ \\u007f" }'
HEAD = "name = 'x'\ncorpus.source = 'a.jsonl'\n[[step]]\nname = 'facts'\ntask = 'extract'\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas" / "facts.json").write_text("\ufeff" + json.dumps(SCHEMA, indent=2), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    "line",
    [
        "schema = 'schemas/facts.json' # here",
        'schema="./schemas/facts.json"',
        "schema = { type = 'object', properties = { title = " + TITLE + " } }",
        f"schema = '''{json.dumps(SCHEMA)}'''",
    ],
)
def test_a_schema_is_the_same_from_a_file_a_table_and_json(folder: Path, line: str) -> None:
    file = folder / "x.toml"
    file.write_text(f"{HEAD}{line}\nmodel = 'null'\n")
    found = read(file)
    assert found.steps[0].options == kinds.options("extract", json_schema=SCHEMA)
    (folder / "schemas" / "facts.json").unlink()
    assert parse(found.text, file) == found  # as a worker on another machine reads it
    assert found.text.count("\n") == file.read_text().count("\n")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("schema = 'none.json'", "x.toml:6: schema: cannot read .*/none.json: No such file"),
        ("schema = 'latin.json'", "x.toml:6: schema: .*/latin.json is not UTF-8 text"),
        ("schema = '''schemas/facts.json'''", "x.toml:6: schema: write the file's name in quotes, on the line of"),
        ("schema = '{'", "x.toml:6: schema is not JSON: "),
        ("schema = 5", "x.toml:6: schema must be a JSON Schema such as "),
        (
            "schema = { type = 'object', properties = { a = {} } }",
            "x.toml:6: schema cannot be kept at #/properties/a",
        ),
    ],
)
def test_a_schema_that_cannot_be_read_is_refused_with_its_line(folder: Path, line: str, said: str) -> None:
    (folder / "latin.json").write_bytes(b'{"a": "\xe9"}')
    (folder / "x.toml").write_text(f"{HEAD}{line}\n")
    with pytest.raises(PipelineInvalid, match=said):
        read(folder / "x.toml")
