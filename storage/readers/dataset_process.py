"""The process that reads a data set of the hub or of a folder with the library `datasets`.

It answers {"columns": [name, …]}, {"refused": why, "names": [available names]} or {"error"}, and then sends rows.
After {"broken": why} nothing more can be read; {"end"} is the end. Lists of the hub are read before the process loses
its rights, since the library caches some of them. The files are streamed, and none is kept.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

from storage.readers.confinement import Needs
from storage.readers.records import SourceOptions
from storage.readers.sandbox import begin, confine, receive, send
from storage.readers.table_process import batch_rows, frames, load

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
            begin(_needs(head, Path(empty)))
            load()
            os.chdir(empty)  # else the library may take a folder here for a data set of the hub
            rows = _opened(head)
            os.chdir("/")
        confine(network=not head["local"])
    except _Refused as refused:
        send(out, refused.answer)
        return
    except Exception as error:  # whatever the library raises
        send(out, {"error": type(error).__name__})
        return
    serve(rows, SourceOptions(**head["options"]), out)


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


def _opened(asked: dict[str, Any]) -> Any:
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


def _check(builder: Any, asked: dict[str, Any]) -> None:
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


def serve(dataset: Any, options: SourceOptions, out: BinaryIO) -> None:
    given, opened = 0, False
    try:
        for batch in _batches(dataset):
            if not opened:
                send(out, {"columns": batch.schema.names})
                opened = True
            for frame in frames(batch, given + 1, options):
                send(out, {}, frame)
            given += batch.num_rows
    except Exception as error:  # whatever the library raises on what it cannot read, or loses on the way
        reason = type(error).__name__
        send(out, {"broken": f"it cannot be read on ({reason})"} if opened else {"error": reason})
        return
    if not opened:
        send(out, {"columns": dataset.column_names or [options.text_field, options.id_field]})
    send(out, {"end": True})


def _batches(dataset: Any) -> Iterator[Any]:
    """Return the rows as Arrow batches. Pictures and sounds stay undecoded bytes."""
    for found in dataset.with_format("arrow").iter(_ROWS_AT_ONCE):
        for batch in found.to_batches():
            step = batch_rows(batch.nbytes, batch.num_rows)
            for start in range(0, batch.num_rows, step):
                yield batch.slice(start, step)


if __name__ == "__main__":
    main()
