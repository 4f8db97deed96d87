"""The process that reads a data set of the hub or of a folder with the library `datasets`.

It answers as `table_process` says, or {"refused": why, "names": [available names]}. Lists of the hub are read before
the process loses its rights, since the library caches some of them. The files are streamed, and none is kept.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from docmill.storage.readers import confinement
from docmill.storage.readers.confinement import Needs
from docmill.storage.readers.records import SourceOptions
from docmill.storage.readers.sandbox import confine, receive, send
from docmill.storage.readers.table_process import CutShort, Table, load, serve, slices

if TYPE_CHECKING:
    from datasets import DatasetBuilder, IterableDataset
    from pyarrow import RecordBatch

    from docmill.storage.readers.table_process import Part

# Files of texts and tables. Decoders of other kinds would have to be trusted, or the files hold no text.
_KINDS = frozenset(("arrow", "cache", "csv", "json", "parquet", "text"))
_ROWS_AT_ONCE = 100  # at most so many good rows are lost before a bad one
_OLDEST = 4  # in earlier releases a data set could run code


class _Refused(Exception):
    def __init__(self, why: str, names: list[str] | None = None) -> None:
        super().__init__(why)
        self.answer = {"refused": why, "names": names or []}


def main() -> None:
    asked = receive(sys.stdin.buffer)
    assert asked is not None
    head, _ = asked
    settings = dict.fromkeys(("USE_TORCH", "USE_TF", "USE_JAX"), "0")
    # Xet, the hub's other protocol, would write files into a cache first.
    settings |= dict.fromkeys(("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY"), "1")
    if head["local"]:
        settings["HF_HUB_OFFLINE"] = "1"  # reading a folder needs no hub
    os.environ.update(settings)
    out = sys.stdout.buffer
    try:
        with TemporaryDirectory(prefix="docmill-") as empty:
            confinement.restrict_files(_needs(head, Path(empty)))
            tempfile.tempdir = empty  # a search for a shared library makes a temporary file
            load()
            os.chdir(empty)  # else the library may take a folder here for a data set of the hub
            dataset = _opened(head)
            os.chdir("/")
        confine(network=not head["local"])
    except _Refused as refused:
        send(out, refused.answer)
        return
    except Exception as error:  # whatever the library raises
        send(out, {"error": type(error).__name__})
        return
    options = SourceOptions(**head["options"])
    serve(partial(_table, dataset, options), options, out)


def _needs(asked: dict[str, Any], scratch: Path) -> Needs:
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
        (Path(asked["path"]),) if asked["local"] else tuple(hub),
        tuple(cache for cache in caches if cache.is_dir()),
        network=not asked["local"],
    )


def _opened(asked: dict[str, Any]) -> IterableDataset:
    """Return the wanted split as the library streams it. Raises _Refused."""
    import datasets
    from datasets.exceptions import DatasetNotFoundError

    if int(datasets.__version__.partition(".")[0]) < _OLDEST:
        raise _Refused("old")
    path, config, revision = asked["path"], asked["config"], asked["revision"]
    try:
        builder = datasets.load_dataset_builder(path, config, revision=revision)
    except DatasetNotFoundError as error:
        raise _Refused("missing") from error
    except FileNotFoundError as error:
        raise _Refused("empty") from error
    except ConnectionError as error:
        raise _Refused("unreachable") from error
    except ValueError as error:  # for one, of configs
        names = datasets.get_dataset_config_names(path, revision=revision)
        if config in names or (config is None and len(names) == 1):
            raise
        raise _Refused("config", names) from error
    _check(builder, asked)
    splits = builder.as_streaming_dataset()
    names = [str(name) for name in splits]
    split = asked["split"] or (names[0] if len(names) == 1 else None)
    if split not in names:
        raise _Refused("split", names)
    return splits[split]


def _check(builder: DatasetBuilder, asked: dict[str, Any]) -> None:
    """Raise _Refused for files of other kinds, and for files that the data set links to elsewhere."""
    prefix = "datasets.packaged_modules."
    modules = [kind.__module__ for kind in type(builder).__mro__]
    kinds = [module.removeprefix(prefix).partition(".")[0] for module in modules if module.startswith(prefix)]
    if not kinds or kinds[0] not in _KINDS:
        raise _Refused("kind", kinds[:1])
    files = [file for found in (builder.config.data_files or {}).values() for file in found]
    root = Path(asked["path"])
    own = f"hf://datasets/{asked['path']}@"
    for file in files:
        if asked["local"] and not Path(file).resolve().is_relative_to(root):
            raise _Refused("outside")
        if not asked["local"] and not file.startswith(own):
            raise _Refused("outside")


def _table(dataset: IterableDataset, options: SourceOptions) -> Table:
    """Return the rows, of which pictures and sounds stay undecoded bytes."""
    found = (batch for one in dataset.with_format("arrow").iter(_ROWS_AT_ONCE) for batch in one.to_batches())
    ahead = list(islice(found, 1))
    columns = ahead[0].schema.names if ahead else dataset.column_names or [options.text_field, options.id_field]
    return Table(columns, _parts(chain(ahead, found)))


def _parts(batches: Iterator[RecordBatch]) -> Iterator[Part]:
    try:
        for batch in batches:
            yield batch.num_rows, slices(batch)
    except Exception as error:  # whatever the library raises on what it cannot read, or loses on the way
        raise CutShort(f"it cannot be read on ({type(error).__name__})") from error


if __name__ == "__main__":
    main()
