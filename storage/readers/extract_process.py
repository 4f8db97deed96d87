"""The process that extracts text from documents of hostile formats.

It answers a frame {"kind"} and a document by a frame with the text in UTF-8, or by {"error"}.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from storage.readers import confinement
from storage.readers.confinement import Needs
from storage.readers.sandbox import confine, receive, send

Extract = Callable[[bytes, str], str]

# Tags that only style their content: the text stays, without Markdown around it.
_DRESS = ["a", "abbr", "b", "cite", "code", "em", "i", "mark", "s", "small", "span", "strong", "sub", "sup", "u"]


def main() -> None:
    # The library unpacks its PDF engine into the temporary folder and loads it from there: not from a name that other
    # users can foresee, and while this process may still write.
    with TemporaryDirectory(prefix="docmill-") as own:
        os.environ["TMPDIR"] = own
        confinement.restrict_files(Needs(scratch=Path(own)))
        extract = _extractor()
        with suppress(Exception):  # an empty PDF is an error
            extract(b"", "application/pdf")
    confine()
    serve(extract, sys.stdin.buffer, sys.stdout.buffer)


def serve(extract: Extract, requests: BinaryIO, answers: BinaryIO) -> None:
    while (asked := receive(requests)) is not None:
        head, raw = asked
        try:
            text = extract(raw, head["kind"]).encode("utf-8", "replace")
        except Exception as error:  # whatever the library raises on a file that it cannot read
            send(answers, {"error": type(error).__name__, "unloaded": "LoadLibraryError" in str(error)})
        else:
            send(answers, {}, text)


def _extractor() -> Extract:
    import kreuzberg

    config = kreuzberg.ExtractionConfig(
        use_cache=False,
        disable_ocr=True,
        enable_quality_processing=False,
        html_options={"strip_tags": _DRESS},
    )

    def extract(raw: bytes, kind: str) -> str:
        lines: list[str] = kreuzberg.extract_bytes_sync(raw, kind, config).content.splitlines()
        return "\n".join(line.rstrip() for line in lines).strip()

    return extract


if __name__ == "__main__":
    main()
