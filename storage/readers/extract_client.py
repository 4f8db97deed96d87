"""Extract text from PDF, HTML, office and mail files, by a library in a process that any of them may kill."""

from __future__ import annotations

from tempfile import gettempdir

from storage.readers.sandbox import TIME_S, Confined, Ended


class NotExtracted(Exception):
    """The reason why a document has no text, in a sentence without the document's own words."""


class Extractor:
    """An extraction process, started when it is needed and again after it died. Close it after use."""

    def __init__(self, max_bytes: int, time_s: float = TIME_S) -> None:
        self._max_bytes = max_bytes
        self._process = Confined("storage.readers.extract_process", time_s)

    def text(self, raw: bytes, kind: str) -> str:
        """Return the text of a document of a kind (a MIME type).

        Raises NotExtracted if the document is broken, takes too much time or memory, or has too much text.
        """
        try:
            self._process.send({"kind": kind}, raw)
            head, text = self._process.receive(self._max_bytes)
        except Ended as error:
            raise NotExtracted(str(error)) from error
        if head.get("unloaded"):
            raise NotExtracted(
                f"the library that reads its kind could not be loaded out of {gettempdir()}: set TMPDIR to a folder "
                "on a disk whose programs may be run (a tmpfs of a container takes `exec`)"
            )
        if "error" in head:
            raise NotExtracted(f"its text cannot be read ({head['error']}): it is broken, or protected by a password")
        return text.decode()

    def close(self) -> None:
        self._process.close()
