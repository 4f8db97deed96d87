"""The languages in which scanned pages can be recognised: files of Tesseract on this machine.

The formats library has Tesseract in it. Its data are one file for each language, in a folder that the system's
packages (`tesseract-ocr-deu`) fill, or that the variable TESSDATA_PREFIX names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from docmill.storage.core.installation import install
from docmill.storage.readers.errors import SourceUnsupported
from docmill.storage.readers.records import listed
from docmill.storage.readers.registry import FORMATS

VARIABLE = "TESSDATA_PREFIX"
SUFFIX = ".traineddata"
# Where the formats library looks, in its order.
FOLDERS = (
    *("/opt/homebrew/share/tessdata", "/opt/homebrew/opt/tesseract/share/tessdata"),
    *("/usr/local/opt/tesseract/share/tessdata", "/usr/share/tesseract-ocr/5/tessdata"),
    *("/usr/share/tesseract-ocr/4/tessdata", "/usr/share/tessdata", "/usr/local/share/tessdata"),
)
_NOT_LANGUAGES = frozenset(("equ", "osd"))


def known(languages: str, folder: str | None) -> str:
    """Return the languages, joined by `+`. `folder` is the value of TESSDATA_PREFIX.

    Raises SourceUnsupported if the formats library or a language's data is not on this machine.
    """
    if not FORMATS.is_installed:
        raise SourceUnsupported(f"--ocr needs another library: {install(FORMATS.name)}")
    wanted = re.sub(r"\s*[,+]\s*", "+", languages.strip())
    there = installed((folder,) if folder else FOLDERS)
    lacking = [one for one in wanted.split("+") if one not in there]
    if not lacking:
        return wanted
    if not there:
        where = f"there is none in {folder}, which {VARIABLE} names" if folder else "there is none on this machine"
        raise SourceUnsupported(
            f"--ocr needs Tesseract's data, and {where}; Debian's package tesseract-ocr-eng has those for English"
        )
    raise SourceUnsupported(
        f"--ocr: no data of Tesseract for {listed(lacking)} on this machine; there is {', '.join(there)}. Languages "
        "are named as Tesseract names them, such as eng or deu+eng; Debian's package tesseract-ocr-LANGUAGE has the "
        "data of one"
    )


def installed(folders: Sequence[str]) -> list[str]:
    """Return the languages in the first of these folders that is there."""
    for folder in map(Path, folders):
        if folder.is_dir():
            found = (path.name.removesuffix(SUFFIX) for path in folder.glob(f"*{SUFFIX}"))
            return sorted(one for one in found if one not in _NOT_LANGUAGES)
    return []
