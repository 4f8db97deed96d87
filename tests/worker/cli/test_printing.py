"""Names, fields and texts from outside reach a terminal as text: neither obeyed by it nor read as markup."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from docmill.storage.core.database import Database
from docmill.worker import consoles
from docmill.worker.cli.printing import Harmless, escaped, print_json
from docmill.worker.formatting import printable
from docmill.worker.terminal import warn
from tests.storage.builders import failed, finish, numbered, read
from tests.storage.fleet import pipeline
from tests.worker.conftest import Call

HOSTILE = "\x1b[31mred\x9b2J\x7f \u202e\u2066\u200f\u2028\u200b\U000e0041"
MARKS = {*HOSTILE} - {*"[31mred2J "}


@pytest.mark.parametrize("name", ["[/b]", "[vllm-cpu]", "[red]x", ":smile:"])
def test_no_string_is_markup(capsys: pytest.CaptureFixture[str], name: str) -> None:
    table = Table("corpus")
    table.add_row(name)
    consoles.paper.print(table)
    consoles.paper.print(name)
    assert capsys.readouterr().out.count(name) == 2


def test_a_console_prints_no_character_that_a_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(HOSTILE)
    table.add_row(HOSTILE)
    table.add_row(Text(HOSTILE))
    consoles.paper.print(table, Text(HOSTILE), HOSTILE)
    out = capsys.readouterr().out
    assert not {*out} & MARKS
    assert "red" in out


def test_json_lines_keep_their_value_and_have_no_control_character() -> None:
    line = json.dumps({"text": HOSTILE}, ensure_ascii=False)
    assert json.loads(escaped(line)) == {"text": HOSTILE}
    assert escaped(line).isascii()


def test_json_is_utf_8_whatever_the_encoding_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stdout = io.TextIOWrapper(io.BytesIO(), "latin-1")
    monkeypatch.setattr(sys, "stdout", stdout)
    print_json("日本")
    assert json.loads(stdout.buffer.getvalue().decode()) == "日本"


def test_failures_of_several_steps_name_the_step(call: Call, store: Database) -> None:
    call("jobs")
    read(store, pipeline(), numbered(1))
    finish(store, failed)
    heading, *rows = [line.split("\t") for line in call("failures", 1).out.splitlines()]
    assert heading == ["document", "step", "status", "class", "reason"]
    assert [row[:3] for row in rows][:2] == [["k0", "english", "failed"], ["k0", "line", "blocked"]]


def test_the_joiners_of_words_and_emoji_stay() -> None:
    assert printable("می\u200cخواهم 👩\u200d💻") == "می\u200cخواهم 👩\u200d💻"


@pytest.mark.parametrize(("is_terminal", "raw"), [(True, False), (False, True)])
def test_csv_is_changed_only_for_a_terminal(is_terminal: bool, raw: bool) -> None:
    stream = io.BytesIO()
    Harmless(stream, "csv", is_terminal).write(f'"{HOSTILE}"\r\n'.encode())
    assert (HOSTILE in stream.getvalue().decode()) is raw
    assert stream.getvalue().endswith(b'"\r\n')


def test_a_hostile_corpus_name_is_shown_as_text(call: Call, write_corpus: Callable[..., Path]) -> None:
    name = f"[/b][cpu]{HOSTILE}"
    call("enqueue", "summarize", write_corpus([{"id": "1", "text": "one"}]), "--corpus", name)
    for command in (("jobs",), ("status", "1"), ("corpus", "list"), ("corpus", "show", name)):
        out = call(*command).out
        assert "[/b][cpu]" in out
        assert not [line for line in out.splitlines() if line.endswith(" ")]
        assert not {*out} & MARKS


def test_a_hostile_field_name_in_an_error_is_shown_as_text(call: Call, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(json.dumps({"id": "1", HOSTILE: "one"}, ensure_ascii=False) + "\n", encoding="utf-8")
    stderr = call("enqueue", "summarize", corpus, code=2).err
    assert "red" in stderr
    assert not {*stderr} & MARKS


def test_the_table_of_failures_holds_no_formula_and_the_lines_for_machines_hold_the_ids_themselves(
    call: Call, write_corpus: Callable[..., Path], store: Database
) -> None:
    ids = ["=1+1", "tab\there", "\u202e=1", "plain"]
    call("enqueue", "translate", write_corpus({"id": key, "text": key} for key in ids), "--model", "null")
    finish(store, failed)
    table = [line.split("\t") for line in call("failures", 1).out.splitlines()]
    assert [row[0] for row in table] == ["document", "'=1+1", "tab\ufffdhere", "'\ufffd=1", "plain"]
    assert {len(row) for row in table} == {4}
    assert [json.loads(line)["id"] for line in call("failures", 1, "--json").out.splitlines()] == ids


def test_neither_a_sentence_nor_a_bar_fails_on_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    with io.TextIOWrapper(io.FileIO("/dev/full", "w"), write_through=True) as full:
        monkeypatch.setattr(sys, "stderr", full)
        warn("a warning")
        with consoles.bar("embed", total=2) as bar:
            bar.update(1, total=2, note="a note")
            bar.say("a line")
