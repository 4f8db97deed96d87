"""Documents in formats that are not text: whole, damaged and hostile ones."""

from __future__ import annotations

import gzip
import io
import os
import signal
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import closing
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import docx
import kreuzberg
import pytest
from fpdf import FPDF

from docmill.storage.readers import (
    Record,
    Rejection,
    SourceOptions,
    SourceUnsupported,
    documents,
    open_source,
)
from docmill.storage.readers.documents import DocumentReader
from docmill.storage.readers.errors import BrokenStream
from docmill.storage.readers.extract_process import read_subtitles
from docmill.storage.readers.registry import HTML
from tests.faults.servers import missing, tmpfs
from tests.storage.readers.reading import OPTIONS, read, zipped

DATA = Path(__file__).parent / "data"
SAID = "Whales sing in the northern seas, and others of their kind hear it over hundreds of miles."
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
FRENCH = "Ça va très bien, merci à tous."
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
SAID_IN_SCAN = "The printer on the second floor has no paper."
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


def html(body: str = f"<p>{SAID}</p>") -> bytes:
    page = f"<nav><a href='/'>Home</a></nav><article><h1>Songs</h1>{body}</article><footer>All rights</footer>"
    return f"<html><head><title>T</title><script>evil()</script></head><body>{page}</body></html>".encode()


def pdf(password: str = "") -> bytes:
    document = FPDF()
    if password:
        document.set_encryption(owner_password="owner", user_password=password)
    document.add_page()
    document.set_font("Helvetica", size=12)
    document.multi_cell(0, 6, SAID)
    document.add_page()
    document.multi_cell(0, 6, "The second page.")
    return bytes(document.output())


def word() -> bytes:
    document = docx.Document()
    document.add_heading("Songs", 1)
    document.add_paragraph(SAID)
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def mail() -> bytes:
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = "Songs", "a@example.org", "b@example.org"
    message.set_content(SAID)
    message.add_alternative(f"<p>{SAID}</p>", subtype="html")
    return bytes(message)


def book() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("mimetype", "application/epub+zip", zipfile.ZIP_STORED)
        archive.writestr(
            "META-INF/container.xml",
            '<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
            '<rootfile full-path="c.opf" media-type="application/oebps-package+xml"/></rootfiles></container>',
        )
        archive.writestr(
            "c.opf",
            '<package xmlns="http://www.idpf.org/2007/opf" version="3.0"><metadata/><manifest>'
            '<item id="a" href="a.xhtml" media-type="application/xhtml+xml"/></manifest>'
            '<spine><itemref idref="a"/></spine></package>',
        )
        archive.writestr(
            "a.xhtml", f'<html xmlns="http://www.w3.org/1999/xhtml"><body><h1>Songs</h1><p>{SAID}</p></body></html>'
        )
    return file.getvalue()


def bomb() -> bytes:
    """Return a Word file of less than a MB whose text has 600 MB."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(word())) as good, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as larger:
        for name in good.namelist():
            if name != "word/document.xml":
                larger.writestr(name, good.read(name))
        with larger.open("word/document.xml", "w") as member:
            head, tail = good.read("word/document.xml").split(SAID.encode())
            member.write(head)
            for _ in range(600):
                member.write(b"sing " * 200_000)
            member.write(tail)
    return file.getvalue()


REAL = {"a.html": html(), "b.PDF": pdf(), "c.docx": word(), "d.eml": mail(), "e.epub": book()}


@pytest.fixture
def reader() -> Iterator[DocumentReader]:
    """A reader that accepts documents of up to 10 MB."""
    with closing(DocumentReader(SourceOptions(max_record_bytes=10_000_000))) as reader:
        yield reader


def test_a_folder_gives_the_text_of_documents_of_many_kinds(tmp_path: Path) -> None:
    for name, raw in REAL.items():
        (tmp_path / name).write_bytes(raw)
    (tmp_path / "f.txt").write_text("plain")
    texts = {item.key: item.text for item in read(tmp_path) if isinstance(item, Record)}
    assert list(texts) == [*REAL, "f.txt"]
    for name in REAL:
        assert SAID in " ".join(texts[name].split()), name
    assert texts["a.html"] == f"Songs\n\n{SAID}"
    assert "The second page." in texts["b.PDF"]
    assert texts["c.docx"] == f"Songs\n\n{SAID}"
    assert texts["f.txt"] == "plain"


class FewBytes(io.FileIO):
    """A file whose reads return few bytes, as on a file system in user space."""

    def read(self, n: int | None = -1) -> bytes:
        return super().read(3)

    def readinto(self, buffer: Any) -> int | None:
        return super().readinto(memoryview(buffer)[:3])


def test_a_document_is_read_to_its_end_however_few_bytes_a_read_returns(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(FRENCH)
    with closing(DocumentReader(OPTIONS)) as reader:
        item = reader.read("a.txt", lambda: FewBytes(tmp_path / "a.txt"))
    assert item == Record("a.txt", FRENCH, {}, (), "a.txt")


def test_one_document_is_a_source_too(tmp_path: Path) -> None:
    path = tmp_path / "report.pdf"
    path.write_bytes(REAL["b.PDF"])
    source = open_source(str(path), OPTIONS)
    [record] = source.records()
    assert isinstance(record, Record)
    assert (record.key, source.name, source.size_bytes()) == ("report.pdf", str(path), len(REAL["b.PDF"]))
    assert source.bytes_read == len(REAL["b.PDF"])
    (tmp_path / "a.txt").write_text("just text")
    [plain] = read(tmp_path / "a.txt")
    assert plain == Record("a.txt", "just text", {}, (), "a.txt")


def test_files_of_old_office_programs_are_read(tmp_path: Path) -> None:
    for name in ("letter.doc", "slides.ppt"):
        (tmp_path / name).write_bytes(gzip.decompress((DATA / f"{name}.gz").read_bytes()))
    (tmp_path / "z.doc").write_bytes((tmp_path / "letter.doc").read_bytes()[:3_000])
    letter, slides, cut = read(tmp_path)
    assert letter.text.startswith("The printer on the second floor has no paper.\n\nGröße und Übermaß")
    assert slides.text == "Plan for the spring\n\nGröße der Halle: 300 m²\n\nSecond slide"
    assert cut.reason == "it is damaged or cut short (ParsingError): fetch or save it again"


def test_a_page_is_read_in_its_declared_encoding(tmp_path: Path) -> None:
    pages = [
        ("", "utf-8"),
        ("", "utf-8-sig"),
        ("", "utf-16"),
        ("<meta charset=utf-8>", "utf-8"),
        ('<meta http-equiv="Content-Type" content="text/html; charset=windows-1252">', "cp1252"),
        ("<meta charset=iso-8859-1>", "utf-8-sig"),  # the byte order mark counts
        ("<meta charset=iso-8859-1>", "utf-16"),
        ("<META CHARSET=ISO-8859-15>", "iso-8859-15"),
        *((f"<meta charset={label}>", "utf-8") for label in ("nonsense", "undefined", "idna", "utf-16", "utf-32")),
        # A page that declares Latin-1 may have characters of Windows-1252.
        *((f"<meta charset='{label}'>", "cp1252") for label in ("iso-8859-1", "latin1", "ascii", "us-ascii")),
    ]
    for number, (head, encoding) in enumerate(pages):
        text = "“Ça” – 5 €" if encoding == "cp1252" else FRENCH
        page = f"<html><head>{head}</head><body><p>{text}</p></body></html>"
        (tmp_path / f"{number:02}.html").write_bytes(page.encode(encoding))
    for (head, encoding), record in zip(pages, read(tmp_path), strict=True):
        text = "“Ça” – 5 €" if encoding == "cp1252" else FRENCH
        assert (record.text, record.flags) == (text, ()), head


def test_bytes_outside_of_a_pages_encoding_are_replaced_and_flagged(tmp_path: Path) -> None:
    page = f"<p>{FRENCH}</p>".encode("cp1252")
    (tmp_path / "a.html").write_bytes(page)
    (tmp_path / "b.html").write_bytes(b"<meta charset=shift_jis><p>\x81</p>" + "<p>日本</p>".encode("shift_jis"))
    half = "<p>a".encode("utf-16") + b"\0\xd8" + "b</p>".encode("utf-16-le")
    (tmp_path / "c.html").write_bytes(half)
    first, second, third = read(tmp_path)
    assert third == Record("c.html", "a\ufffdb", {}, ("invalid_utf16@10",), "c.html")
    assert first.flags == ("assumed_cp1252@3",)
    assert first.text == FRENCH
    assert second.flags == ("invalid_shift_jis@27",)
    assert "日本" in second.text


def test_a_mail_whose_attachments_are_not_read_is_flagged(tmp_path: Path) -> None:
    message = EmailMessage()
    message["Subject"], message["From"] = "Songs", "a@example.org"
    message.set_content(f"{SAID}\nBy Content-Disposition: attachment they mean such things.")
    (tmp_path / "a.eml").write_bytes(bytes(message))
    message.add_attachment(pdf(), maintype="application", subtype="pdf", filename="song.pdf")
    (tmp_path / "b.eml").write_bytes(bytes(message))
    (tmp_path / "c.mbox").write_bytes(b"From a\n" + bytes(message))
    alone, attached, _ = read(tmp_path)
    [boxed] = read(tmp_path / "c.mbox")
    assert alone.flags == ()
    for mail in (attached, boxed):
        assert mail.flags == ("attachments_left_out",)
        assert SAID in " ".join(mail.text.split())


def test_a_document_without_text_is_rejected_and_an_empty_file_is_blank(tmp_path: Path) -> None:
    scan = FPDF()
    scan.add_page()
    scan.rect(10, 10, 100, 100)
    (tmp_path / "a.pdf").write_bytes(bytes(scan.output()))
    (tmp_path / "b.html").write_bytes(b"")
    scanned, empty = read(tmp_path)
    assert scanned == Rejection(
        "a.pdf", "no text was found in it; if its pages are scanned, --ocr LANGUAGE recognizes them, as in --ocr eng"
    )
    assert empty == Record("b.html", "", {}, (), "b.html")


@pytest.mark.slow
def test_a_bomb_is_refused_in_bounded_memory(reader: DocumentReader) -> None:
    with pytest.raises(BrokenStream):
        reader.extract(bomb(), DOCX)
    assert SAID in reader.extract(REAL["c.docx"], DOCX)[0]


def test_a_document_that_ends_its_reader_fails_alone(reader: DocumentReader, monkeypatch: pytest.MonkeyPatch) -> None:
    reader.extract(REAL["a.html"], HTML)
    confined = reader._process
    process, receive = confined._process, confined.receive
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)  # so that it is alive when it is asked, and dead when it should answer

    def kill_and_receive(max_bytes: int) -> Any:
        process.kill()
        return receive(max_bytes)

    with monkeypatch.context() as patched:
        patched.setattr(confined, "receive", kill_and_receive)
        with pytest.raises(BrokenStream, match="ended the reader"):
            reader.extract(REAL["a.html"], HTML)
    assert SAID in reader.extract(REAL["a.html"], HTML)[0]


@pytest.mark.parametrize(
    ("limits", "page", "says"),
    [
        ((SourceOptions(max_record_bytes=50),), REAL["a.html"], "more than 50 bytes"),
        ((OPTIONS, 0.02), html(f"<p>{SAID}</p>" * 20_000), "more than 0 s"),
    ],
    ids=["bytes", "time"],
)
def test_a_document_over_a_limit_is_given_up(limits: Any, page: bytes, says: str) -> None:
    with closing(DocumentReader(*limits)) as reader, pytest.raises(BrokenStream, match=says):
        reader.extract(page, HTML)


def test_a_pdf_is_read_although_another_file_is_in_the_place_of_its_library(
    reader: DocumentReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (tmp_path / "kreuzberg-pdfium").mkdir()
    (tmp_path / "kreuzberg-pdfium" / "libpdfium.so").write_bytes(b"somebody else's")
    assert SAID in " ".join(reader.extract(REAL["b.PDF"], "application/pdf")[0].split())
    assert [path.name for path in tmp_path.iterdir()] == ["kreuzberg-pdfium"]


def test_a_disk_that_allows_no_library_is_named_as_the_cause(
    reader: DocumentReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tmpfs(tmp_path / "disk", 64 << 20, "noexec") as disk:
        monkeypatch.setenv("TMPDIR", str(disk))
        monkeypatch.setattr(tempfile, "tempdir", None)
        with pytest.raises(BrokenStream, match=f"could not be loaded out of {disk}: set TMPDIR"):
            reader.extract(REAL["b.PDF"], "application/pdf")
        reader.close()


def test_a_readers_process_gets_none_of_our_settings(reader: DocumentReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCMILL_DATABASE_URL", "postgresql://me:secret@db/x")
    reader.extract(REAL["a.html"], HTML)
    process = reader._process._process
    assert process is not None
    assert b"secret" not in Path(f"/proc/{process.pid}/environ").read_bytes()
    reader.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


def test_binary_files_with_the_name_of_a_text_are_rejected_and_similar_texts_are_read(tmp_path: Path) -> None:
    binary = [
        ("a.txt", OLE + b"\0" * 512, "an Office file (.doc, .xls, .ppt, or a newer one with a password)"),
        (
            "b.eml",
            gzip.compress(b"x"),
            "compressed by gzip under another name: decompress it, or add .gz to the name",
        ),
        ("c.csv", b"GIF89a\1\0\1\0\x80\0\0", "a GIF picture under another name: leave it out"),
    ]
    for name, raw, _ in binary:
        (tmp_path / name).write_bytes(raw)
    (tmp_path / "d.txt").write_text("PK is a name of a column.")
    (tmp_path / "e.txt").write_text("GIF89a is a format I like.")
    *rejections, first, second = read(tmp_path)
    for (name, _, kind), item in zip(binary, rejections, strict=True):
        assert (item.where, item.below) == (name, name)
        assert f"it is {kind}" in item.reason
    assert isinstance(first, Record)
    assert isinstance(second, Record)


def test_a_document_without_text_is_rejected_with_the_reason(tmp_path: Path) -> None:
    documents = [
        ("a.docx", b"", "it is empty: its file has no bytes"),
        ("a.pdf", pdf("secret"), "it is protected by a password: save a copy without it"),
        ("a.docx", OLE + b"\0" * 504 + "EncryptedPackage".encode("utf-16-le"), "it is protected by a password: save"),
        ("a.odt", zipped({"META-INF/manifest.xml": "<manifest:encryption-data>", "content.xml": "\1"}), "a password"),
        ("a.pdf", zipped({"word/document.xml": ""}), "it is a .docx file under another name: end its name in .docx"),
        ("a.docx", b"%PDF-1.7\n", "it is a PDF file under another name"),
        ("a.doc", zipped({"word/document.xml": ""}), "it is a .docx file under another name"),
        ("a.docx", zipped({"xl/workbook.xml": ""})[:60], "it is a .xlsx file under another name"),
        ("a.docx", zipped({"a.txt": ""}), "it is a .zip file under another name: end its name in .zip"),
        ("a.doc", b"{\\rtf1 Dear reader}", "it is an RTF file under another name: end its name in .rtf"),
        ("a.pdf", b"\n<!doctype html><p>Dear reader", "it is a web page under another name: end its name in .html"),
        ("a.docx", b"Dear reader", "it is no file of its kind, whatever its name says"),
        ("a.pdf", REAL["b.PDF"][:400], "it is damaged or cut short (ParsingError)"),
        ("a.docx", REAL["c.docx"][:10_000], "it is damaged or cut short (ParsingError)"),
        ("a.epub", REAL["e.epub"][:400], "it is damaged or cut short (ParsingError)"),
    ]
    for number, (name, raw, _) in enumerate(documents):
        (tmp_path / f"{number:02}{name}").write_bytes(raw)
    for (_, _, reason), item in zip(documents, read(tmp_path), strict=True):
        assert reason in item.reason


def scanned(folder: Path, *, cover: str = "") -> bytes:
    """Return a PDF file with a picture of a page, after a page of text if there is a cover."""
    typed = FPDF()
    typed.add_page()
    typed.set_font("Helvetica", size=16)
    typed.multi_cell(0, 8, SAID_IN_SCAN)
    typed.output(str(folder / ".typed.pdf"))
    picture = kreuzberg.render_pdf_page(str(folder / ".typed.pdf"), 0, dpi=150)
    document = FPDF()
    if cover:
        document.add_page()
        document.set_font("Helvetica", size=12)
        document.multi_cell(0, 6, cover)
    document.add_page()
    document.image(io.BytesIO(picture), 0, 0, 210)
    return bytes(document.output())


@pytest.mark.slow
def test_pages_without_text_are_recognized(tmp_path: Path) -> None:
    if "eng" not in documents.installed_languages(documents.TESSDATA_FOLDERS):
        missing("Tesseract's data for English are not installed")
    cover = "This page is of text, and its words are not recognized but read, since they are there."
    (tmp_path / "a.pdf").write_bytes(scanned(tmp_path))
    (tmp_path / "b.pdf").write_bytes(scanned(tmp_path, cover=cover))
    (tmp_path / "c.txt").write_text("plain")
    alone, after, text = read(tmp_path, SourceOptions(ocr="eng"))
    assert alone == Record("a.pdf", SAID_IN_SCAN, {}, ("recognized",), "a.pdf")
    assert " ".join(after.text.split()) == f"{cover} {SAID_IN_SCAN}"
    assert after.flags == ("recognized",)
    assert text == Record("c.txt", "plain", {}, (), "c.txt")


def test_languages_without_data_on_the_machine_are_refused(tmp_path: Path) -> None:
    for name in ("deu", "eng", "osd"):
        (tmp_path / f"{name}.traineddata").touch()
    folder = str(tmp_path)
    assert documents.find_languages(" deu, eng ", folder) == "deu+eng"
    for wrong in ("fra", "deu+xx", "osd", "../deu", "", "deu+"):
        with pytest.raises(SourceUnsupported, match=r"no data of Tesseract for .* there is deu, eng\. Languages are"):
            documents.find_languages(wrong, folder)
    with pytest.raises(SourceUnsupported, match=r"there is none in .*/none, which TESSDATA_PREFIX names"):
        documents.find_languages("eng", f"{folder}/none")


def test_a_line_that_stays_on_the_screen_is_kept_once_and_a_repeated_line_twice() -> None:
    assert read_subtitles(LIVE, "vtt") == "hello world\nhow are you\nhow are you"


def test_subtitles_are_documents_in_any_encoding_compressed_or_not(tmp_path: Path) -> None:
    (tmp_path / "a.srt").write_bytes(SRT.replace("\n", "\r\n").encode("cp1252"))
    (tmp_path / "b.vtt.gz").write_bytes(gzip.compress(VTT.encode("utf-8-sig")))
    (tmp_path / "c.SRT").write_text("These are no subtitles.")
    assert read(tmp_path, SourceOptions(encoding="cp1252")) == [
        Record("a.srt", "Größe: a < b and b > c\n42", {}, (), "a.srt"),
        Record("b.vtt.gz", "We are in New York & Ob{er}au\n- Where?\n- Over there", {}, (), "b.vtt.gz"),
        Rejection("c.SRT", "no subtitles were found in it"),
    ]
    [wrong] = read(tmp_path / "a.srt")
    assert wrong.flags == ("assumed_cp1252@60",)
