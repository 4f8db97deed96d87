"""The process that extracts text from documents of hostile formats.

It answers a frame {"kind"} and a document by a frame with the text in UTF-8, or by {"error"}. Its argument names the
languages of scanned pages, if they are to be recognized. {"recognized": true} says that some were.
"""

from __future__ import annotations

import html
import os
import re
import sys
import zipfile
from contextlib import suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

from docmill.storage.readers.confinement import confine, receive, restrict_files, send
from docmill.storage.readers.documents import ENCRYPTED, TESSDATA_VARIABLE
from docmill.storage.readers.registry import PDF, SRT, VTT

_BLANK = b"P5 64 64 255\n" + b"\xff" * 64 * 64, "image/x-portable-graymap"
_MOST_MANIFEST = 2**20
_SUBTITLES = {SRT: "srt", VTT: "vtt"}
# Tags that only style their content: the text stays, without Markdown around it.
_DRESS = ["a", "abbr", "b", "cite", "code", "em", "i", "mark", "s", "small", "span", "strong", "sub", "sup", "u"]
# Tags, times within a cue (`<00:00:05.500>`), and the override codes of other formats (`{\an8}`).
_MARKUP = re.compile(r"</?[A-Za-z][^<>]*>|</?>|<[\d:.]+>|\{\\[^{}]*\}")
_DASHES = "-–—"  # another speaker's words


def main() -> None:
    # The library unpacks its PDF engine into the temporary folder and loads it from there: not from a name that other
    # users can foresee, and while this process may still write.
    with TemporaryDirectory(prefix="docmill-") as own:
        os.environ["TMPDIR"] = own
        os.environ["KREUZBERG_CACHE_DIR"] = own  # it keeps nothing, but makes the folder
        languages = next(iter(sys.argv[1:]), None)
        data = os.environ.get(TESSDATA_VARIABLE)
        restrict_files(Path(own), [Path(data)] if data else [])
        extractor = ExtractionLibrary(languages)
        with suppress(Exception):  # an empty PDF is an error
            extractor.text(b"", PDF)
        extractor.begin()
        with suppress(ImportError):
            import pysubs2  # noqa: F401 - as above
    confine()
    serve(extractor, sys.stdin.buffer, sys.stdout.buffer)


def serve(extractor: ExtractionLibrary, requests: BinaryIO, answers: BinaryIO) -> None:
    while (request := receive(requests)) is not None:
        head, raw = request
        try:
            plain = extractor.text(raw, head["kind"])
            text = extractor.recognized(raw, plain) if head["kind"] == PDF else plain
            body = text.encode("utf-8", "replace")
        except Exception as error:  # whatever the library raises on a file that it cannot read
            unloaded = "LoadLibraryError" in str(error)
            protected = _is_protected(raw, str(error))
            send(answers, {"error": type(error).__name__, "unloaded": unloaded, "protected": protected})
        else:
            send(answers, {"recognized": text != plain}, body)


class ExtractionLibrary:
    """The library, with the languages of scanned pages; None leaves them as they are."""

    def __init__(self, languages: str | None) -> None:
        import kreuzberg

        self._library = kreuzberg
        self._languages = languages
        self._extract = kreuzberg.extract_bytes_sync
        self._config = partial(kreuzberg.ExtractionConfig, use_cache=False, enable_quality_processing=False)
        self._pages = kreuzberg.PageConfig(extract_pages=True)

    def begin(self) -> None:
        """Let the library make the folder of its recognition, which it does the first time."""
        if self._languages is not None:
            with suppress(Exception):
                self._extract(*_BLANK, self._config(ocr=self._tesseract()))

    def text(self, raw: bytes, kind: str) -> str:
        if kind in _SUBTITLES:
            return read_subtitles(raw.decode(), _SUBTITLES[kind])
        config = self._config(disable_ocr=True, html_options={"strip_tags": _DRESS})
        return _strip_lines(self._extract(raw, kind, config).content)

    def recognized(self, raw: bytes, plain: str) -> str:
        """Return a PDF file's text with that of pages that have none; `plain` is its text without those."""
        if self._languages is None:
            return plain
        pages = self._extract(raw, PDF, self._config(disable_ocr=True, pages=self._pages)).pages or []
        without = [page["page_number"] for page in pages if not page["content"].strip()]
        if not without:
            return plain
        config = self._config(ocr=self._tesseract(), force_ocr_pages=without, pages=self._pages)
        return _strip_lines(self._extract(raw, PDF, config).content)

    def _tesseract(self) -> Any:
        tesseract = self._library.TesseractConfig(language=self._languages, use_cache=False, output_format="text")
        return self._library.OcrConfig(backend="tesseract", language=self._languages, tesseract_config=tesseract)


def _is_protected(raw: bytes, said: str) -> bool:
    """Return True for a document with a password, by the library's words or the document's own."""
    if any(word in said.lower() for word in ("password", "encrypt")) or ENCRYPTED in raw:
        return True
    with suppress(Exception), zipfile.ZipFile(BytesIO(raw)) as members:  # whatever a damaged one raises
        if any(member.flag_bits & 1 for member in members.infolist()):
            return True
        with members.open("META-INF/manifest.xml") as manifest:  # of OpenDocument
            return b"encryption-data" in manifest.read(_MOST_MANIFEST)
    return False


def _strip_lines(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.splitlines()).strip()


def read_subtitles(source: str, form: str) -> str:
    """Return the text of subtitles, with a line for each cue. `form` is `srt` or `vtt`.

    Live captions show a line again with the next one; it is kept once.
    """
    import pysubs2

    cues = pysubs2.SSAFile.from_string(source, format_=form, keep_html_tags=True, keep_unknown_html_tags=True)
    texts: list[str] = []
    shown: list[str] = []
    ended_ms = -1
    for cue in cues:
        if cue.is_comment:
            continue
        lines = [line for line in map(str.strip, _plain(cue.text, form).split("\n")) if line]
        again = shown if cue.start <= ended_ms else []
        new = [line for line in lines if line not in again]
        if new:
            texts.append("".join(f"\n{line}" if line[0] in _DASHES else f" {line}" for line in new).strip())
        shown, ended_ms = lines, cue.end
    return "\n".join(texts)


def _plain(raw: str, form: str) -> str:
    without = _MARKUP.sub("", raw.replace("\\N", "\n"))
    return html.unescape(without) if form == "vtt" else without


if __name__ == "__main__":
    main()
