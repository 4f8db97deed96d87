"""The manifest of a folder of parts (`manifest.json`), and the rules for writing into such a folder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import orjson

from docmill.storage import writers
from docmill.storage.errors import StorageError

NAME = "manifest.json"
MOST_PARTS = 10_000  # the manifest is written anew after each; hubs of datasets take no more files in a folder
_VERSION = 1


@dataclass(frozen=True)
class PartFile:
    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ManifestPart:
    """Consecutive documents. `end` is the place of the last one (`storage.results.results.DocumentPlace`)."""

    files: tuple[PartFile, ...]
    documents: int
    first_id: str
    last_id: str
    end: tuple[int, int]


@dataclass(frozen=True)
class Manifest:
    """A folder's parts and their job. `format` includes the compression: `jsonl.zst`.

    `results` are the fingerprints (`storage.results.parts`) of the results when the first part was begun.
    """

    job: int
    corpus: str
    created_at: float  # of the job, since another store has a job with this number, too
    step: str | None
    format: str
    part_documents: int
    docmill: str
    specs: Mapping[str, Any]
    results: Mapping[str, Any]
    complete: bool = False
    parts: tuple[ManifestPart, ...] = ()
    job_state: str = "done"  # or cancelled, or stopped
    flags: str | None = None  # the condition on flags that the results meet

    @property
    def documents(self) -> int:
        return sum(part.documents for part in self.parts)

    def with_part(self, number: int, part: ManifestPart) -> Manifest:
        """Return the manifest with a part in its place: the next one, or one that is listed."""
        assert number <= len(self.parts)
        return replace(self, parts=(*self.parts[:number], part, *self.parts[number + 1 :]))

    def to_json(self) -> bytes:
        """Return the manifest as JSON. The same parts give the same bytes: it has no times and no paths."""
        values = {"manifest": _VERSION, **asdict(self), "documents": self.documents}
        values["parts"] = values.pop("parts")  # the longest comes last
        return orjson.dumps(values, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def from_json(raw: bytes) -> Manifest | None:
    """Return the manifest in a text; None if the text is not a manifest of ours."""
    try:
        values = orjson.loads(raw)
        if values.pop("manifest") != _VERSION:
            return None
        values.pop("documents")
        parts = tuple(_part_of(part) for part in values.pop("parts"))
        ours = all(part.files and all(is_part(file.name) for file in part.files) for part in parts)
        return Manifest(**values, parts=parts) if ours else None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _part_of(values: dict[str, Any]) -> ManifestPart:
    files = tuple(PartFile(**file) for file in values.pop("files"))
    seq, id_ = values.pop("end")
    return ManifestPart(files, **values, end=(seq, id_))


def is_part(name: str) -> bool:
    """Return True for the name of a part's file."""
    return re.fullmatch(_part(), name) is not None


def is_begun(name: str) -> bool:
    """Return True for a file that `whole_file` began and never finished."""
    return re.fullmatch(rf"\.(?:manifest\.json|{_part()})\.[^.]+\.part", name) is not None


def _part() -> str:
    suffixes, compressions = ("|".join(map(re.escape, some)) for some in (writers.suffixes(), writers.COMPRESSIONS))
    return rf"part-\d{{5}}(?:\.ids)?(?:{suffixes})(?:{compressions})?"


def find_leftovers(names: Sequence[str], manifest: Manifest) -> list[str]:
    """Return the names of our files that the manifest does not list: an interrupted export left them."""
    listed = {file.name for part in manifest.parts for file in part.files}
    return [name for name in names if is_begun(name) or (is_part(name) and name not in listed)]


def choose_manifest(
    existing: Manifest | None, wanted: Manifest, folder: str, *, replaced: bool
) -> tuple[Manifest, str | None]:
    """Return the manifest to continue, and the reason why it is not the existing one; None if there is no reason.

    Raises StorageError for another export's folder, unless that may be replaced.
    """
    if existing is None:
        return wanted, None
    if differing := _describe_differences(existing, wanted):
        if replaced:
            return wanted, f"it held the parts of another export ({differing})"
        raise StorageError(
            f"{folder} holds the parts of another export ({differing}): name another folder, or replace them with "
            "--overwrite"
        )
    if existing.results != wanted.results:
        return wanted, f"the results of job {wanted.job} have changed since its parts were written"
    return existing, None


def _describe_differences(existing: Manifest, wanted: Manifest) -> str:
    """Return the differences of two exports in words; empty if there are none."""
    said = {
        "job": "job {0}, not {1}",
        "corpus": "of corpus {0}, not {1}",
        "created_at": "a job {2} of another store",
        "step": "step {0}, not {1}",
        "format": "format {0}, not {1}",
        "part_documents": "{0:,} documents a part, not {1:,}",
        "flags": "{0} results, not {1}",
    }
    pairs = {name: (getattr(existing, name), getattr(wanted, name)) for name in said}
    different = [name for name, (value, other) in pairs.items() if value != other]
    if "job" in different:  # which says it all
        different = [name for name in different if name not in {"corpus", "created_at"}]
    words = {name: ["all" if value is None else value for value in pairs[name]] for name in different}
    return "; ".join(said[name].format(*words[name], wanted.job) for name in different)
