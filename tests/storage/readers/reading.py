"""Read a source as the tests of readers do, and make an archive of files."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from docmill.storage.readers import SourceError, SourceOptions, open_source

OPTIONS = SourceOptions()


def read(source: str | Path, options: SourceOptions = OPTIONS) -> list[Any]:
    """Return the records and rejections of a source."""
    return list(open_source(str(source), options).records())


def zipped(members: Mapping[str, str | bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return an archive of files, without their times, since names of tests hold some of it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for name, content in members.items():
            made.writestr(zipfile.ZipInfo(name), content, compression)
    return file.getvalue()


def refused(error: type[SourceError], source: str | Path, options: SourceOptions = OPTIONS) -> str:
    """Return what is said of a source that cannot be opened."""
    with pytest.raises(error) as caught:
        open_source(str(source), options)
    return str(caught.value)
