"""Read sources, and make archives of files."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from docmill.storage.readers import Record, Rejection, SourceError, SourceOptions, open_source

OPTIONS = SourceOptions()


def read(source: str | Path, options: SourceOptions = OPTIONS) -> list[Any]:
    """Return the records and rejections of a source."""
    return list(open_source(str(source), options).records())


def list_keys(items: Iterable[Record | Rejection]) -> list[str]:
    """Return the keys of the records among the items of a source."""
    return [item.key for item in items if isinstance(item, Record)]


def list_texts(items: Iterable[Record | Rejection]) -> list[str]:
    """Return the texts of the records among the items of a source."""
    return [item.text for item in items if isinstance(item, Record)]


def list_rejections(items: Iterable[Record | Rejection]) -> list[Rejection]:
    """Return the rejections among the items of a source."""
    return [item for item in items if isinstance(item, Rejection)]


def zipped(members: Mapping[str, str | bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a ZIP archive of files, without times, which would change the ids of parametrized tests."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return file.getvalue()


def refused(error: type[SourceError], source: str | Path, options: SourceOptions = OPTIONS) -> str:
    """Return the message about a source that cannot be opened."""
    with pytest.raises(error) as caught:
        open_source(str(source), options)
    return str(caught.value)
