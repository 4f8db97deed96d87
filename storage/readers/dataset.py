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
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

from docmill.storage.extras import DATASETS, install
from docmill.storage.readers import registry, table
from docmill.storage.readers.confinement import Confined, confine, receive, restrict_files
from docmill.storage.readers.errors import BrokenStream, SourceError, SourceMissing, SourceUnsupported
from docmill.storage.readers.files import FileSource, RowSource, Source, on_disk, until_broken
from docmill.storage.readers.many_files import FilesSource, within
from docmill.storage.readers.records import Rejection, Rows, SourceOptions, quote_names
from docmill.storage.readers.streams import is_folder, open_regular, path_text
from docmill.storage.readers.table import OpenTable, in_frames, load, serve, slices

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


Parameters = dict[str, str | None]  # those of a URL by their names, in the order of `_PARAMETERS`


def parse(url: str) -> tuple[Path | str, Parameters]:
    """Return a URL's folder, or its name on the hub, and the part of the data set to read.

    Raises SourceUnsupported for a URL that names no data set.
    """
    rest, _, query = url.partition("://")[2].partition("?")
    parameters = dict(parse_qsl(query, keep_blank_values=True))
    wrong = [name for name in parameters if name not in _PARAMETERS]
    if wrong or not all(parameters.values()):
        raise SourceUnsupported(
            f"datasets:// takes {', '.join(_PARAMETERS)} after its ?, not {quote_names(wrong)}: {_HOW}"
        )
    is_folder_named = rest.startswith("/") and bool(rest.strip("/"))
    if not is_folder_named and not _NAME.fullmatch(rest):
        raise SourceUnsupported(f"the source names no data set: {_HOW}")
    return Path(unquote(rest)) if is_folder_named else rest, {name: parameters.get(name) for name in _PARAMETERS}


def folder_of(url: str) -> Path | None:
    """Return the folder of a URL that names one; None for a data set of the hub. Raises SourceUnsupported."""
    place, _ = parse(url)
    return place if isinstance(place, Path) else None


def open_dataset(url: str, options: SourceOptions) -> SavedSource | DatasetSource:
    """Return the source of a URL. Raises SourceError."""
    place, parameters = parse(url)
    if isinstance(place, str):
        return DatasetSource(place, parameters, options)
    if not is_folder(place):
        with open_regular(place):
            pass
        raise SourceUnsupported(f"{path_text(place)} is a file: leave out datasets://")
    if any((place / name).exists() for name in ("dataset_dict.json", "state.json")):
        return SavedSource(place.resolve(), parameters, options)
    return DatasetSource(place.resolve(), parameters, options)


class SavedSource(FilesSource[Path]):
    """A data set that `save_to_disk` wrote: the rows of one split's Arrow files, named by file and number.

    A file that is cut short or missing loses its own rows only.
    """

    def __init__(self, root: Path, parameters: Parameters, options: SourceOptions) -> None:
        self._root, split = _split(root, parameters)
        name = _format_url(path_text(root), {"split": split})
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
            raise SourceError(f"{path_text(path)}: {target.reason}")
        return FileSource(on_disk(target[1], path), registry.ARROW.rows, None, options)


class DatasetSource(RowSource):
    """A data set of the hub or of a folder, read by the library `datasets` row by row."""

    def __init__(self, place: Path | str, parameters: Parameters, options: SourceOptions) -> None:
        shown = path_text(place)
        name = _format_url(shown, parameters)
        DATASETS.require(name, error=SourceUnsupported)
        self._is_local = isinstance(place, Path)
        self._request = {"name": name, "path": str(place), "local": self._is_local, **parameters}
        parts = (shown.rpartition("/")[2], parameters["config"], parameters["split"])
        super().__init__(name, "/".join(filter(None, parts)), options)

    def _rows(self) -> Rows:
        process = Confined(__name__, environment=_LOCAL if self._is_local else _HUB)
        rows = table.rows(process, self._request, None, self._place, self._options)
        return until_broken(rows, lambda: self._place)


def _unnamed(name: str, parameter: str, names: Sequence[str]) -> SourceMissing:
    """Return the error of a data set whose config or split was not named, or does not exist."""
    return SourceMissing(f"{name}: there are the {parameter}s {quote_names(names)}: name one with {parameter}=…")


def _split(root: Path, parameters: Parameters) -> tuple[Path, str | None]:
    """Return the folder of the wanted split, and its name if there are several."""
    wanted = parameters["split"]
    if parameters["config"] or parameters["revision"]:
        raise SourceUnsupported(f"{path_text(root)} was saved by `save_to_disk`, and has no configs or revisions")
    if not (root / "dataset_dict.json").exists():
        if wanted:
            raise SourceMissing(f"{path_text(root)} has no splits: leave out split=…")
        return root, None
    splits = _read(root, "dataset_dict.json").get("splits")
    if not isinstance(splits, list) or not splits or not all(_plain(split) for split in splits):
        raise SourceError(f"{path_text(root)}/dataset_dict.json names no splits")
    split = wanted or (splits[0] if len(splits) == 1 else None)
    if split is None or split not in splits:
        raise _unnamed(_format_url(path_text(root), {"split": wanted}), "split", splits)
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
        raise SourceError(f"{path_text(folder)}/state.json names no files") from error
    if indices:
        raise SourceUnsupported(f"{name} is a selection by indices: save it again with a newer library")
    if not all(_plain(file) for file in files):
        raise SourceError(f"{name} names files that are not its own")
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
        raise SourceError(f"{path_text(path)} is damaged") from error
    if not isinstance(content, dict):
        raise SourceError(f"{path_text(path)} is damaged")
    return content


def _plain(name: object) -> bool:
    """Return True for the name of a file in the same folder."""
    return isinstance(name, str) and "\0" not in name and name not in {"", ".", ".."} and "/" not in name


def _format_url(path: str, parameters: Parameters) -> str:
    query = urlencode({key: value for key, value in parameters.items() if value}, quote_via=quote)
    return f"{SCHEME}://{path}" + (f"?{query}" if query else "")


def main() -> None:
    """Read one data set.

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
    options = SourceOptions(**head["options"])
    serve(partial(_open, head, options), sys.stdout.buffer)


def _open(request: dict[str, Any], options: SourceOptions) -> OpenTable:
    """Open a data set and confine this process. Raises SourceError, without the library's words."""
    try:
        with TemporaryDirectory(prefix="docmill-") as empty:
            _restrict(request, Path(empty))
            tempfile.tempdir = empty  # a search for a shared library makes a temporary file
            load()
            os.chdir(empty)  # else the library may take a folder here for a data set of the hub
            dataset = _stream(request)
            os.chdir("/")
        confine(network=not request["local"])
        return _table(dataset, options)
    except SourceError:
        raise
    except Exception as error:  # whatever the library raises
        raise SourceError(f"{request['name']} cannot be read ({type(error).__name__})") from error


def _table(dataset: IterableDataset, options: SourceOptions) -> OpenTable:
    """Return the rows. Pictures and sounds stay undecoded bytes."""
    batches = (batch for rows in dataset.with_format("arrow").iter(_ROWS_AT_ONCE) for batch in rows.to_batches())
    ahead = list(islice(batches, 1))
    columns = ahead[0].schema.names if ahead else dataset.column_names or [options.text_field, options.id_field]
    return columns, in_frames(_segments(chain(ahead, batches)), options)


def _restrict(request: dict[str, Any], scratch: Path) -> None:
    """Restrict this process to the caches, and the folder, or the token and certificates for the hub."""
    from huggingface_hub import constants

    home = Path(constants.HF_HOME)
    caches = [Path(constants.HF_HUB_CACHE), home / "modules", home / "datasets"]
    caches += [Path(os.environ[name]) for name in ("HF_DATASETS_CACHE",) if os.environ.get(name)]
    for cache in caches:
        with suppress(OSError):
            cache.mkdir(parents=True, exist_ok=True)
    hub = [Path(constants.HF_TOKEN_PATH), *(Path(file) for file in (os.environ.get("SSL_CERT_FILE"),) if file)]
    restrict_files(
        scratch,
        [Path(request["path"])] if request["local"] else hub,
        [cache for cache in caches if cache.is_dir()],
        network=not request["local"],
    )


def _stream(request: dict[str, Any]) -> IterableDataset:
    """Return the wanted split as the library streams it. Raises SourceError."""
    import datasets
    from datasets.exceptions import DatasetNotFoundError

    name, path, config, revision = (request[key] for key in ("name", "path", "config", "revision"))
    if int(datasets.__version__.partition(".")[0]) < _OLDEST:
        raise SourceUnsupported(f"{name} needs a newer library: {install(DATASETS.name)}")
    try:
        builder = datasets.load_dataset_builder(path, config, revision=revision)
    except DatasetNotFoundError as error:
        raise SourceMissing(f"{name}: the hub has no such data set, or none for us (HF_TOKEN)") from error
    except FileNotFoundError as error:
        raise SourceUnsupported(f"{name} has no files that are read") from error
    except ConnectionError as error:
        raise SourceError(
            f"{name}: the hub cannot be reached, or may not be (HF_HUB_OFFLINE), and nothing is kept of it here"
        ) from error
    except ValueError as error:  # for one, of configs
        configs = datasets.get_dataset_config_names(path, revision=revision)
        if config in configs or (config is None and len(configs) == 1):
            raise
        raise _unnamed(name, "config", configs) from error
    _check(builder, request)
    splits = builder.as_streaming_dataset()
    names = [str(split) for split in splits]
    split = request["split"] or (names[0] if len(names) == 1 else None)
    if split not in names:
        raise _unnamed(name, "split", names)
    return splits[split]


def _check(builder: DatasetBuilder, request: dict[str, Any]) -> None:
    """Raise SourceError for files of other kinds, and for files that the data set links to elsewhere."""
    prefix = "datasets.packaged_modules."
    modules = [kind.__module__ for kind in type(builder).__mro__]
    kinds = [module.removeprefix(prefix).partition(".")[0] for module in modules if module.startswith(prefix)]
    if not kinds or kinds[0] not in _KINDS:
        names = quote_names(kinds[:1])
        raise SourceUnsupported(f"{request['name']} is made of files that are not read ({names})")
    files = [file for of_split in (builder.config.data_files or {}).values() for file in of_split]
    root = Path(request["path"])
    own = f"hf://datasets/{request['path']}@"
    for file in files:
        is_own = Path(file).resolve().is_relative_to(root) if request["local"] else file.startswith(own)
        if not is_own:
            raise SourceError(f"{request['name']} names files that are not its own")


def _segments(batches: Iterator[RecordBatch]) -> Iterator[TableSegment]:
    try:
        for batch in batches:
            yield batch.num_rows, slices(batch)
    except Exception as error:  # whatever the library raises on damage, or on a lost connection
        raise BrokenStream(f"it cannot be read on ({type(error).__name__})") from error


if __name__ == "__main__":
    main()
