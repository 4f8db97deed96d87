"""The process that extracts text from documents of hostile formats.

It answers a frame {"kind"} and a document by a frame with the text in UTF-8, or by {"error"}. Its argument names the
languages of scanned pages, if they are to be recognised. {"recognised": true} says that some were.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, BinaryIO

from storage.readers import confinement, subtitles
from storage.readers.confinement import Needs
from storage.readers.ocr import VARIABLE
from storage.readers.registry import PDF, SRT, VTT
from storage.readers.sandbox import confine, receive, send

if TYPE_CHECKING:
    import kreuzberg

Extract = Callable[[bytes, str, str | None], str]

_BLANK = b"P5 64 64 255\n" + b"\xff" * 64 * 64, "image/x-portable-graymap"
_SUBTITLES = {SRT: "srt", VTT: "vtt"}

# Tags that only style their content: the text stays, without Markdown around it.
_DRESS = ["a", "abbr", "b", "cite", "code", "em", "i", "mark", "s", "small", "span", "strong", "sub", "sup", "u"]


def main() -> None:
    # The library unpacks its PDF engine into the temporary folder and loads it from there: not from a name that other
    # users can foresee, and while this process may still write.
    with TemporaryDirectory(prefix="docmill-") as own:
        os.environ["TMPDIR"] = own
        os.environ["KREUZBERG_CACHE_DIR"] = own  # it keeps nothing, but makes the folder
        languages = next(iter(sys.argv[1:]), None)
        data = os.environ.get(VARIABLE)
        confinement.restrict_files(Needs(scratch=Path(own), readable=(Path(data),) if data else ()))
        extract = _extractor()
        with suppress(Exception):  # an empty PDF is an error
            extract(b"", PDF, None)
        if languages is not None:
            with suppress(Exception):
                extract(*_BLANK, languages)
        with suppress(ImportError):
            import pysubs2  # noqa: F401 - as above
    confine()
    serve(extract, languages, sys.stdin.buffer, sys.stdout.buffer)


def serve(extract: Extract, languages: str | None, requests: BinaryIO, answers: BinaryIO) -> None:
    while (asked := receive(requests)) is not None:
        head, raw = asked
        kind = head["kind"]
        try:
            plain = extract(raw, kind, None)
            text = extract(raw, kind, languages) if languages is not None and kind == PDF else plain
            body = text.encode("utf-8", "replace")
        except Exception as error:  # whatever the library raises on a file that it cannot read
            send(answers, {"error": type(error).__name__, "unloaded": "LoadLibraryError" in str(error)})
        else:
            send(answers, {"recognised": text != plain}, body)


def _extractor() -> Extract:
    import kreuzberg

    def config(languages: str | None) -> kreuzberg.ExtractionConfig:
        return kreuzberg.ExtractionConfig(
            use_cache=False,
            disable_ocr=languages is None,
            enable_quality_processing=False,
            html_options={"strip_tags": _DRESS},
            ocr=None if languages is None else _tesseract(languages),
        )

    def extract(raw: bytes, kind: str, languages: str | None) -> str:
        if kind in _SUBTITLES:
            return subtitles.text(raw.decode(), _SUBTITLES[kind])
        lines: list[str] = kreuzberg.extract_bytes_sync(raw, kind, config(languages)).content.splitlines()
        return "\n".join(line.rstrip() for line in lines).strip()

    return extract


def _tesseract(languages: str) -> kreuzberg.OcrConfig:
    import kreuzberg

    tesseract = kreuzberg.TesseractConfig(language=languages, use_cache=False, output_format="text")
    return kreuzberg.OcrConfig(backend="tesseract", language=languages, tesseract_config=tesseract)


if __name__ == "__main__":
    main()
