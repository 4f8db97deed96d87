"""Paragraphs of manual pages as a corpus: English prose and lists of options, from ten tokens to some hundred."""

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
SHORTEST_CHARS, LONGEST_CHARS = 50, 1000  # the longest are within the window of small models, or nearly

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
    """`count` different paragraphs, the same ones each time on the same pages, spread over all of them.

    The pages are those of Debian's packages `manpages` and `manpages-dev` where apt can fetch them (once, into a
    cache), else those that are installed here. Raises SystemExit where there are fewer paragraphs than asked for.
    """
    found = dict.fromkeys(
        text for page in _pages() for text in _of_page(page) if SHORTEST_CHARS <= len(text) <= LONGEST_CHARS
    )
    if len(found) < count:
        raise SystemExit(
            f"only {len(found)} paragraphs of manual pages are at hand: install manpages-dev, or ask for less"
        )
    return sorted(found, key=lambda text: hashlib.sha256(text.encode()).digest())[:count]


def _pages() -> Iterator[str]:
    """The sources of all pages."""
    for path in sorted(_folder().glob("man[1-8]/*.gz")):
        if path.is_file():
            yield gzip.decompress(path.read_bytes()).decode("utf-8", "replace")


def _folder() -> Path:
    """Return the folder of the manual pages: unpacked packages in our cache, or the installed pages."""
    ready = CACHE / "manpages"
    if not ready.is_dir() and shutil.which("apt-get") and shutil.which("dpkg-deb"):
        CACHE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as building:
            asked = subprocess.run(["apt-get", "download", *PACKAGES], cwd=building, capture_output=True)
            archives = sorted(Path(building).glob("*.deb"))
            if asked.returncode == 0 and archives:
                for archive in archives:
                    subprocess.run(["dpkg-deb", "-x", archive, Path(building) / "files"], check=True)
                (Path(building) / "files/usr/share/man").rename(ready)
    return ready if ready.is_dir() else INSTALLED


def _of_page(source: str) -> Iterator[str]:
    """The paragraphs of one page's source, without its markup."""
    words: list[str] = []
    literal = False
    for line in [*source.splitlines(), ".PP"]:
        if _BREAKS.match(line):
            literal = line.startswith((".nf", ".EX")) or (literal and not line.startswith((".fi", ".EE")))
            if words:
                yield " ".join(" ".join(words).split())
            words = []
            continue
        fonts = _FONTS.match(line)
        if not literal and (fonts or not line.startswith((".", "'"))):
            words.append(_plain(fonts.group(1).replace('"', "") if fonts else line))


def _plain(line: str) -> str:
    for pattern, text in _ESCAPES:
        line = pattern.sub(text, line)
    return line
