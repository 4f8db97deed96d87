"""Subtitles as documents: the spoken words, without what surrounds them."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from docmill.storage.readers import Record, Rejection, SourceOptions, open_source
from docmill.storage.readers.subtitles import text

VTT = """WEBVTT - A title

NOTE a comment
on two lines

STYLE
::cue { color: red }

intro
00:00:01.000 --> 00:00:04.000 position:10%
<v Roger Bingham>We are in <i>New
York</i> &amp; Ob{er}au

00:00:05.000 --> 00:00:06.000
- Where?
- Over <00:00:05.500><c.loud>there</c>
"""
SRT = """1
00:00:01,000 --> 00:00:02,000
{\\an8}<font color="red">Größe</font>: a < b
and b > c

2
00:00:03,000 --> 00:00:04,000

3
00:00:05,000 --> 00:00:06,000
42
"""
LIVE = """WEBVTT

00:00:00.160 --> 00:00:02.070
hello<00:00:00.480><c> world</c>

00:00:02.070 --> 00:00:02.080
hello world

00:00:02.080 --> 00:00:04.000
hello world
how<00:00:03.000><c> are</c><c> you</c>

00:00:09.000 --> 00:00:10.000
how are you
"""


def test_a_line_has_the_words_of_a_cue_without_its_number_times_and_markup() -> None:
    assert text(VTT, "vtt") == "We are in New York & Ob{er}au\n- Where?\n- Over there"
    assert text(SRT, "srt") == "Größe: a < b and b > c\n42"


def test_a_line_that_stays_on_the_screen_is_kept_once_and_one_that_comes_again_is_not() -> None:
    assert text(LIVE, "vtt") == "hello world\nhow are you\nhow are you"


@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_a_file_without_cues_has_no_text(form: str) -> None:
    for source in ("", "no subtitles", "WEBVTT\n\n", "1\n00:00:99 --> xx\nfoo\n"):
        assert text(source, form) == ""


def test_subtitles_are_documents_in_any_encoding_compressed_or_not(tmp_path: Path) -> None:
    (tmp_path / "a.srt").write_bytes(SRT.replace("\n", "\r\n").encode("cp1252"))
    (tmp_path / "b.vtt.gz").write_bytes(gzip.compress(VTT.encode("utf-8-sig")))
    (tmp_path / "c.SRT").write_text("These are no subtitles.")
    found = list(open_source(str(tmp_path), SourceOptions(encoding="cp1252")).records())
    assert found == [
        Record("a.srt", "Größe: a < b and b > c\n42", {}, (), "a.srt"),
        Record("b.vtt.gz", "We are in New York & Ob{er}au\n- Where?\n- Over there", {}, (), "b.vtt.gz"),
        Rejection("c.SRT", "no subtitles were found in it"),
    ]
    [wrong] = open_source(str(tmp_path / "a.srt"), SourceOptions()).records()
    assert isinstance(wrong, Record)
    assert wrong.flags == ("assumed_cp1252@60",)
