"""Paragraphs of manual pages as a corpus: English prose and lists of options, of ten to a few hundred tokens."""

from __future__ import annotations

import gzip
import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("manpages", "manpages-dev")
INSTALLED = Path("/usr/share/man")
CACHE = Path(__file__).resolve().parent / "cache"
SHORTEST_CHARS, LONGEST_CHARS = 50, 1000  # the longest about fill the window of small models

_BREAKS = re.compile(r"^[.'](SH|SS|PP|P|LP|TP|IP|HP|TQ|RS|RE|EX|EE|nf|fi|sp|br|Sh|Ss|Pp|It|Bl|El)\b")
_FONTS = re.compile(r"^\.(?:B|I|BR|BI|IB|IR|RB|RI|SM|SB|MR|UR|UE)\s+(.*)$")
_ESCAPES = (
    (re.compile(r'\\".*$'), ""),
    (re.compile(r"\\f(?:\[\w*\]|\(\w\w|.)"), ""),
    (re.compile(r"\\s[+-]?\d"), ""),
    (re.compile(r"\\\((?:bu|em|en|hy)|\\\[(?:bu|em|en|hy)\]"), "-"),
    (re.compile(r"\\\((?:aq|cq|oq)|\\\[(?:aq|cq|oq)\]"), "'"),
    (re.compile(r"\\\((?:dq|lq|rq)|\\\[(?:dq|lq|rq)\]"), '"'),
    (re.compile(r"\\\(..|\\\[[^\]]*\]|\\\*\(..|\\\*\[[^\]]*\]"), ""),
    (re.compile(r"\\[&%|^/,:c]"), ""),
    (re.compile(r"\\[ ~0]"), " "),
    (re.compile(r"\\-"), "-"),
    (re.compile(r"\\e"), "\\\\"),
)


def paragraphs(count: int) -> list[str]:
    """Return `count` different paragraphs from all over the pages. The same pages always give the same paragraphs.

    The pages are those of Debian's packages `manpages` and `manpages-dev`, which apt downloads once into a cache. If
    it cannot, they are the installed pages. Raises SystemExit if the pages have fewer than `count` paragraphs.
    """
    texts = dict.fromkeys(
        text for page in _read_pages() for text in _split_page(page) if SHORTEST_CHARS <= len(text) <= LONGEST_CHARS
    )
    if len(texts) < count:
        raise SystemExit(
            f"the manual pages have only {len(texts)} paragraphs: install manpages-dev, or ask for fewer texts"
        )
    return sorted(texts, key=lambda text: hashlib.sha256(text.encode()).digest())[:count]


def _read_pages() -> Iterator[str]:
    """Yield the source of each page."""
    for path in sorted(_find_folder().glob("man[1-8]/*.gz")):
        if path.is_file():
            yield gzip.decompress(path.read_bytes()).decode("utf-8", "replace")


def _find_folder() -> Path:
    """Return the folder of the manual pages: the unpacked packages in our cache, or else the installed pages."""
    unpacked = CACHE / "manpages"
    if not unpacked.is_dir() and shutil.which("apt-get") and shutil.which("dpkg-deb"):
        CACHE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as work:
            download = subprocess.run(["apt-get", "download", *PACKAGES], cwd=work, capture_output=True)
            archives = sorted(Path(work).glob("*.deb"))
            if download.returncode == 0 and archives:
                for archive in archives:
                    subprocess.run(["dpkg-deb", "-x", archive, Path(work) / "files"], check=True)
                (Path(work) / "files/usr/share/man").rename(unpacked)
    return unpacked if unpacked.is_dir() else INSTALLED


def _split_page(source: str) -> Iterator[str]:
    """Yield the paragraphs of a page's source without markup."""
    words: list[str] = []
    is_literal = False
    for line in [*source.splitlines(), ".PP"]:
        if _BREAKS.match(line):
            is_literal = line.startswith((".nf", ".EX")) or (is_literal and not line.startswith((".fi", ".EE")))
            if words:
                yield " ".join(" ".join(words).split())
            words = []
            continue
        fonts = _FONTS.match(line)
        if not is_literal and (fonts or not line.startswith((".", "'"))):
            words.append(_remove_escapes(fonts.group(1).replace('"', "") if fonts else line))


def _remove_escapes(line: str) -> str:
    for pattern, replacement in _ESCAPES:
        line = pattern.sub(replacement, line)
    return line
