"""Data sets of Hugging Face: `datasets://OWNER/NAME?split=train`, and folders by `datasets:///FOLDER`.

A data set from `save_to_disk` is a list of Arrow files, and is read without the library. All others are read by the
library (`datasets`, an extra) in a process of its own, since anybody may publish on the hub.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

from docmill.storage.extras import DATASETS, install
from docmill.storage.readers import registry, table
from docmill.storage.readers.confinement import Needs, confine, receive, restrict_files, send
from docmill.storage.readers.errors import (
    SourceError,
    SourceMissing,
    SourceUnreadable,
    SourceUnsupported,
)
from docmill.storage.readers.files import FileSource, RowSource, Source, on_disk, until_broken
from docmill.storage.readers.many_files import FilesSource, within
from docmill.storage.readers.records import Rejection, Rows, SourceOptions, quote_names
from docmill.storage.readers.streams import is_folder, open_regular, path_text
from docmill.storage.readers.table import CutShort, OpenTable, TableRefused, load, serve, slices

if TYPE_CHECKING:
    from datasets import DatasetBuilder, IterableDataset
    from pyarrow import RecordBatch

    from docmill.storage.readers.table import TableSegment

SCHEME = "datasets"
_HOW = "write datasets://OWNER/NAME?split=train (and &config=…, &revision=…) or datasets:///FOLDER?split=train"
_PARAMETERS = ("split", "config", "revision")
_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)
_MOST_LISTED = 16 * 2**20
# Variables with the cache of the hub, its address, and proxies.
_LOCAL = frozenset(("HOME", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE"))
_HUB = _LOCAL.union(
    ("HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_TOKEN", "HF_TOKEN_PATH", "SSL_CERT_FILE"),
    ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT"),
    ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
)
# Files of texts and tables. Decoders of other kinds would have to be trusted, or the files hold no text.
_KINDS = frozenset(("arrow", "cache", "csv", "json", "parquet", "text"))
_ROWS_AT_ONCE = 100  # at most so many good rows are lost before a bad one
_OLDEST = 4  # in earlier releases a data set could run code


@dataclass(frozen=True)
class Address:
    """The parts of a URL: a folder or a name on the hub, and the part of the data set to read."""

    folder: Path | None
    name: str
    split: str | None = None
    config: str | None = None
    revision: str | None = None


def parse(url: str) -> Address:
    """Parse a URL. Raises SourceUnsupported for a URL that names no data set."""
    rest, _, query = url.partition("://")[2].partition("?")
    parameters = dict(parse_qsl(query, keep_blank_values=True))
    wrong = [name for name in parameters if name not in _PARAMETERS]
    if wrong or not all(parameters.values()):
        raise SourceUnsupported(
            f"datasets:// takes {', '.join(_PARAMETERS)} after its ?, not {quote_names(wrong)}: {_HOW}"
        )
    if rest.startswith("/") and rest.strip("/"):
        return Address(Path(unquote(rest)), "", **parameters)
    if not _NAME.fullmatch(rest):
        raise SourceUnsupported(f"the source names no data set: {_HOW}")
    return Address(None, rest, **parameters)


def folder_of(url: str) -> Path | None:
    """Return the folder of a URL that names one; None for a data set of the hub. Raises SourceUnsupported."""
    return parse(url).folder


def open_dataset(url: str, options: SourceOptions) -> SavedSource | DatasetSource:
    """Return the source of a URL.

    Raises SourceMissing, SourceUnreadable, SourceUnsupported and FieldUnknown.
    """
    parsed = parse(url)
    if parsed.folder is None:
        return DatasetSource(parsed, options)
    if not is_folder(parsed.folder):
        with open_regular(parsed.folder):
            pass
        raise SourceUnsupported(f"{path_text(parsed.folder)} is a file: leave out datasets://")
    if any((parsed.folder / name).exists() for name in ("dataset_dict.json", "state.json")):
        return SavedSource(parsed, options)
    return DatasetSource(parsed, options)


class SavedSource(FilesSource[Path]):
    """A data set that `save_to_disk` wrote: the rows of one split's Arrow files, named by file and number.

    A file that is cut short or missing loses its own rows only.
    """

    def __init__(self, parsed: Address, options: SourceOptions) -> None:
        assert parsed.folder is not None
        root = parsed.folder.resolve()
        self._root, split = _split(root, parsed)
        name = _shown(path_text(root), split=split)
        place = path_text(root.name) + (f"/{split}" if split else "")
        self._files = [(f"{place}/{file}", Path(file)) for file in _saved_files(self._root, name)]
        super().__init__(name, options, lambda: iter(self._files), self._open)

    def size_bytes(self) -> int | None:
        try:
            return sum((self._root / file).stat().st_size for _, file in self._files)
        except OSError:
            return None

    def _check(self) -> None:
        path, file = self._files[0]
        self._open(file, self._options, path)

    def _open(self, file: Path, options: SourceOptions, path: str) -> Source:
        target = within(self._root, str(file))
        if isinstance(target, Rejection):
            raise SourceUnreadable(f"{path_text(path)}: {target.reason}")
        return FileSource(on_disk(target[1], path), registry.ARROW.rows, None, options)


class DatasetSource(RowSource):
    """A data set of the hub or of a folder, read by the library `datasets` row by row."""

    def __init__(self, parsed: Address, options: SourceOptions) -> None:
        shown = path_text(parsed.folder.resolve()) if parsed.folder is not None else parsed.name
        name = _shown(shown, split=parsed.split, config=parsed.config, revision=parsed.revision)
        DATASETS.require(name, error=SourceUnsupported)
        told = {
            "path": shown if parsed.folder is None else str(parsed.folder.resolve()),
            "local": parsed.folder is not None,
            **{name: getattr(parsed, name) for name in _PARAMETERS},
        }
        self._program = table.Program(
            __name__,
            lambda head: refusal(head, name),
            told,
            _HUB if parsed.folder is None else _LOCAL,
        )
        place = "/".join(filter(None, (shown.rpartition("/")[2], parsed.config, parsed.split)))
        super().__init__(name, place, options)

    def _rows(self) -> Rows:
        rows = table.rows(self._program, None, self._place, self._options)
        return until_broken(rows, lambda: self._place)


def refusal(head: dict[str, Any], name: str) -> SourceError:
    """Return the error of a data set that the process did not open, without the library's words."""
    names = quote_names(head.get("names", ()))
    errors: dict[str, SourceError] = {
        "unreachable": SourceUnreadable(
            f"{name}: the hub cannot be reached, or may not be (HF_HUB_OFFLINE), and nothing is kept of it here"
        ),
        "missing": SourceMissing(f"{name}: the hub has no such data set, or none for us (HF_TOKEN)"),
        "config": SourceMissing(f"{name}: there are the configs {names}: name one with config=…"),
        "split": SourceMissing(f"{name}: there are the splits {names}: name one with split=…"),
        "empty": SourceUnsupported(f"{name} has no files that are read"),
        "outside": SourceUnreadable(f"{name} names files that are not its own"),
        "kind": SourceUnsupported(f"{name} is made of files that are not read ({names})"),
        "old": SourceUnsupported(f"{name} needs a newer library: {install(DATASETS.name)}"),
    }
    reason = head["refused"]
    return errors.get(reason) or SourceUnreadable(f"{name} cannot be read ({reason})")


def _split(root: Path, parsed: Address) -> tuple[Path, str | None]:
    """Return the folder of the wanted split, and its name if there are several."""
    if parsed.config or parsed.revision:
        raise SourceUnsupported(f"{path_text(root)} was saved by `save_to_disk`, and has no configs or revisions")
    if not (root / "dataset_dict.json").exists():
        if parsed.split:
            raise SourceMissing(f"{path_text(root)} has no splits: leave out split=…")
        return root, None
    splits = _read(root, "dataset_dict.json").get("splits")
    if not isinstance(splits, list) or not splits or not all(_plain(split) for split in splits):
        raise SourceUnreadable(f"{path_text(root)}/dataset_dict.json names no splits")
    split = parsed.split or (splits[0] if len(splits) == 1 else None)
    if split is None or split not in splits:
        raise refusal({"refused": "split", "names": splits}, _shown(path_text(root), split=parsed.split))
    folder = root / split
    if folder.is_symlink() or not is_folder(folder):
        raise SourceMissing(f"{path_text(folder)}: no such folder")
    return folder, split


def _saved_files(folder: Path, name: str) -> list[str]:
    state = _read(folder, "state.json")
    try:
        files = [entry["filename"] for entry in state["_data_files"]]
        indices = state.get("_indices_files")
    except (KeyError, TypeError) as error:
        raise SourceUnreadable(f"{path_text(folder)}/state.json names no files") from error
    if indices:
        raise SourceUnsupported(f"{name} is a selection by indices: save it again with a newer library")
    if not all(_plain(file) for file in files):
        raise SourceUnreadable(f"{name} names files that are not its own")
    if not files:
        raise SourceUnsupported(f"{name} has no files")
    return files


def _read(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    with open_regular(path, follow=False) as file:
        raw = file.read(_MOST_LISTED + 1)
    try:
        if len(raw) > _MOST_LISTED:
            raise ValueError("too long")
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise SourceUnreadable(f"{path_text(path)} is damaged") from error
    if not isinstance(content, dict):
        raise SourceUnreadable(f"{path_text(path)} is damaged")
    return content


def _plain(name: object) -> bool:
    """Return True for the name of a file in the same folder."""
    return isinstance(name, str) and "\0" not in name and name not in {"", ".", ".."} and "/" not in name


def _shown(path: str, **parameters: str | None) -> str:
    query = urlencode({key: value for key, value in parameters.items() if value}, quote_via=quote)
    return f"{SCHEME}://{path}" + (f"?{query}" if query else "")


def main() -> None:
    """Read one data set. The answer to one that is not read is {"refused": why, "names": [available names]}.

    Lists of the hub are read before the process loses its rights, since the library caches some of them. The files
    are streamed, and none is kept.
    """
    request = receive(sys.stdin.buffer)
    assert request is not None
    head, _ = request
    settings = dict.fromkeys(("USE_TORCH", "USE_TF", "USE_JAX"), "0")
    # Xet, the hub's other protocol, would write files into a cache first.
    settings |= dict.fromkeys(("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY"), "1")
    if head["local"]:
        settings["HF_HUB_OFFLINE"] = "1"  # reading a folder needs no hub
    os.environ.update(settings)
    out = sys.stdout.buffer
    try:
        with TemporaryDirectory(prefix="docmill-") as empty:
            restrict_files(_needs(head, Path(empty)))
            tempfile.tempdir = empty  # a search for a shared library makes a temporary file
            load()
            os.chdir(empty)  # else the library may take a folder here for a data set of the hub
            dataset = _opened(head)
            os.chdir("/")
        confine(network=not head["local"])
    except TableRefused as refused:
        send(out, refused.answer)
        return
    except Exception as error:  # whatever the library raises
        send(out, {"refused": type(error).__name__})
        return
    options = SourceOptions(**head["options"])
    serve(partial(_table, dataset, options), options, out)


def _needs(request: dict[str, Any], scratch: Path) -> Needs:
    """Return the needs of reading: the caches, and the folder, or the token and certificates for the hub."""
    from huggingface_hub import constants

    home = Path(constants.HF_HOME)
    caches = [Path(constants.HF_HUB_CACHE), home / "modules", home / "datasets"]
    caches += [Path(os.environ[name]) for name in ("HF_DATASETS_CACHE",) if os.environ.get(name)]
    for cache in caches:
        with suppress(OSError):
            cache.mkdir(parents=True, exist_ok=True)
    hub = [Path(constants.HF_TOKEN_PATH), *(Path(file) for file in (os.environ.get("SSL_CERT_FILE"),) if file)]
    return Needs(
        scratch,
        (Path(request["path"]),) if request["local"] else tuple(hub),
        tuple(cache for cache in caches if cache.is_dir()),
        network=not request["local"],
    )


def _opened(request: dict[str, Any]) -> IterableDataset:
    """Return the wanted split as the library streams it. Raises TableRefused."""
    import datasets
    from datasets.exceptions import DatasetNotFoundError

    if int(datasets.__version__.partition(".")[0]) < _OLDEST:
        raise TableRefused("old")
    path, config, revision = request["path"], request["config"], request["revision"]
    try:
        builder = datasets.load_dataset_builder(path, config, revision=revision)
    except DatasetNotFoundError as error:
        raise TableRefused("missing") from error
    except FileNotFoundError as error:
        raise TableRefused("empty") from error
    except ConnectionError as error:
        raise TableRefused("unreachable") from error
    except ValueError as error:  # for one, of configs
        names = datasets.get_dataset_config_names(path, revision=revision)
        if config in names or (config is None and len(names) == 1):
            raise
        raise TableRefused("config", names=names) from error
    _check(builder, request)
    splits = builder.as_streaming_dataset()
    names = [str(name) for name in splits]
    split = request["split"] or (names[0] if len(names) == 1 else None)
    if split not in names:
        raise TableRefused("split", names=names)
    return splits[split]


def _check(builder: DatasetBuilder, request: dict[str, Any]) -> None:
    """Raise TableRefused for files of other kinds, and for files that the data set links to elsewhere."""
    prefix = "datasets.packaged_modules."
    modules = [kind.__module__ for kind in type(builder).__mro__]
    kinds = [module.removeprefix(prefix).partition(".")[0] for module in modules if module.startswith(prefix)]
    if not kinds or kinds[0] not in _KINDS:
        raise TableRefused("kind", names=kinds[:1])
    files = [file for of_split in (builder.config.data_files or {}).values() for file in of_split]
    root = Path(request["path"])
    own = f"hf://datasets/{request['path']}@"
    for file in files:
        if request["local"] and not Path(file).resolve().is_relative_to(root):
            raise TableRefused("outside")
        if not request["local"] and not file.startswith(own):
            raise TableRefused("outside")


def _table(dataset: IterableDataset, options: SourceOptions) -> OpenTable:
    """Return the rows, of which pictures and sounds stay undecoded bytes."""
    batches = (batch for rows in dataset.with_format("arrow").iter(_ROWS_AT_ONCE) for batch in rows.to_batches())
    ahead = list(islice(batches, 1))
    columns = ahead[0].schema.names if ahead else dataset.column_names or [options.text_field, options.id_field]
    return OpenTable(columns, _parts(chain(ahead, batches)))


def _parts(batches: Iterator[RecordBatch]) -> Iterator[TableSegment]:
    try:
        for batch in batches:
            yield batch.num_rows, slices(batch)
    except Exception as error:  # whatever the library raises on what it cannot read, or loses on the way
        raise CutShort(f"it cannot be read on ({type(error).__name__})") from error


if __name__ == "__main__":
    main()
