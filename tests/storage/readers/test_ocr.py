"""Scanned pages: a page in a picture is recognised if it is asked for, in the languages that the machine has."""

from __future__ import annotations

import io
from pathlib import Path

import kreuzberg
import pytest
from fpdf import FPDF

from docmill.storage.readers import Record, SourceOptions, SourceUnsupported, ocr, open_source
from tests.conftest import missing

SAID = "The printer on the second floor has no paper."


def scanned(folder: Path, *, cover: str = "") -> bytes:
    """Return a PDF file of a picture of a page, after a page of text if there is one."""
    typed = FPDF()
    typed.add_page()
    typed.set_font("Helvetica", size=16)
    typed.multi_cell(0, 8, SAID)
    typed.output(str(folder / ".typed.pdf"))
    picture = kreuzberg.render_pdf_page(str(folder / ".typed.pdf"), 0, dpi=150)
    made = FPDF()
    if cover:
        made.add_page()
        made.set_font("Helvetica", size=12)
        made.multi_cell(0, 6, cover)
    made.add_page()
    made.image(io.BytesIO(picture), 0, 0, 210)
    return bytes(made.output())


@pytest.mark.slow
def test_pages_without_text_are_recognised(tmp_path: Path) -> None:
    if "eng" not in ocr.installed(ocr.FOLDERS):
        missing("Tesseract's data for English are not installed")
    cover = "This page is of text, and its words are not recognised but read, since they are there."
    (tmp_path / "a.pdf").write_bytes(scanned(tmp_path))
    (tmp_path / "b.pdf").write_bytes(scanned(tmp_path, cover=cover))
    (tmp_path / "c.txt").write_text("plain")
    alone, after, text = open_source(str(tmp_path), SourceOptions(ocr="eng")).records()
    assert alone == Record("a.pdf", SAID, {}, ("recognised",), "a.pdf")
    assert isinstance(after, Record)
    assert " ".join(after.text.split()) == f"{cover} {SAID}"
    assert after.flags == ("recognised",)
    assert text == Record("c.txt", "plain", {}, (), "c.txt")


def test_languages_are_those_that_the_machine_has_data_for(tmp_path: Path) -> None:
    for name in ("deu", "eng", "osd"):
        (tmp_path / f"{name}.traineddata").touch()
    folder = str(tmp_path)
    assert ocr.known(" deu, eng ", folder) == "deu+eng"
    for wrong in ("fra", "deu+xx", "osd", "../deu", "", "deu+"):
        with pytest.raises(SourceUnsupported, match=r"no data of Tesseract for .* there is deu, eng\. Languages are"):
            ocr.known(wrong, folder)
    with pytest.raises(SourceUnsupported, match=r"there is none in .*/none, which TESSDATA_PREFIX names"):
        ocr.known("eng", f"{folder}/none")


def test_a_file_that_has_no_pages_is_not_recognised(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.doc", "a.txt"):
        (tmp_path / name).write_text('{"text": "x"}\n')
        with pytest.raises(SourceUnsupported, match="has no scanned pages: leave out --ocr"):
            open_source(str(tmp_path / name), SourceOptions(ocr="eng"))
