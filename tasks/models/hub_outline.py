"""The outline of a hub's model: its small files, and the headers of its weights without the weights.

A safetensors file begins with a header, which has the name, type and shape of each weight. With the headers a model
is checked by the same code as if all its files were here.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TypeVar

import orjson

from docmill.tasks.errors import HubUnreachable, ModelCorrupt, ModelError, WeightsNotRead
from docmill.tasks.models import hub

LONGEST_S = 30.0  # one that fails says so sooner
_AT_ONCE = 8
_GUESS_BYTES = 100_000  # most headers are shorter
_MOST_HEADER_BYTES = 100_000_000  # as safetensors itself has it
_LENGTH_BYTES = 8
_WHOLE = "model.safetensors"
_INDEX = f"{_WHOLE}.index.json"
_AWAY = "the hub does not answer"

Answer = TypeVar("Answer")


def not_read(model: str, reason: str = _AWAY) -> WeightsNotRead:
    return WeightsNotRead(
        f"The weights of {model} were not looked at: {reason}. A worker checks them when it loads the model."
    )


@contextmanager
def outline(model: str, commit: str, longest_s: float = LONGEST_S) -> Iterator[Path]:
    """Give a folder with the model's files at a commit, in which all weights are zeros that take no space.

    Raises ModelNotFound where the repository holds no model, ModelCorrupt where its index names files that it lacks,
    and WeightsNotRead where the weights are no safetensors, or the hub does not tell within ``longest_s``.
    """
    until = time.monotonic() + longest_s
    threads = ThreadPoolExecutor(_AT_ONCE)
    folder = Path(tempfile.mkdtemp(prefix="docmill-outline-"))
    try:
        names = _answer(model, threads.submit(hub.file_names, model, commit), until)
        wanted = hub.wanted_of(model, commit, names)
        if any(name.endswith(".bin") for name in wanted):
            raise not_read(model, "they are .bin files, which only a whole download can tell about")
        weights = [name for name in wanted if name.endswith(".safetensors")]
        others = [name for name in wanted if name not in weights]
        small = threads.submit(hub.small_files, model, commit, others)
        headers = [threads.submit(_header, model, commit, name) for name in weights]
        cached = _answer(model, small, until)
        for name in others:
            _placed(folder, name).symlink_to(cached / name)
        _require_shards(model, folder, weights)
        for name, header in zip(weights, headers, strict=True):
            _write_zeros(_placed(folder, name), *_answer(model, header, until))
        yield folder
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        shutil.rmtree(folder, ignore_errors=True)


def _answer(model: str, future: Future[Answer], until: float) -> Answer:
    """Return the hub's answer. Raises WeightsNotRead for every other one, and for none until then."""
    try:
        return future.result(max(0.0, until - time.monotonic()))
    except TimeoutError as error:
        raise not_read(model, "the hub is too slow") from error
    except HubUnreachable as error:
        raise not_read(model) from error
    except ModelError as error:  # the workers may have another token
        raise not_read(model, "the hub does not show them to this machine") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise not_read(model, "the hub did not give their headers") from error


@cache  # a commit's file never changes, and each kind of task is checked by itself
def _header(model: str, commit: str, name: str) -> tuple[bytes, int]:
    """Return a safetensors file up to its weights, and its size in bytes. Raises ValueError for another file."""
    found = hub.beginning(model, commit, name, _GUESS_BYTES)
    length = _LENGTH_BYTES + int.from_bytes(found[:_LENGTH_BYTES], "little")
    if length > _MOST_HEADER_BYTES:
        raise ValueError(name)
    if length > len(found):
        found = hub.beginning(model, commit, name, length)
    found = found[:length]
    tensors = orjson.loads(found[_LENGTH_BYTES:])
    ends = (int(one["data_offsets"][1]) for key, one in tensors.items() if key != "__metadata__")
    return found, length + max(ends, default=0)


def _write_zeros(path: Path, header: bytes, size: int) -> None:
    with path.open("wb") as file:
        file.write(header)
        file.truncate(size)  # a hole in the file: it has no blocks on the disk


def _placed(folder: Path, name: str) -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    return folder / name


def _require_shards(model: str, folder: Path, weights: Sequence[str]) -> None:
    index = folder / _INDEX
    if _WHOLE in weights or not index.is_file():
        return
    table = orjson.loads(index.read_bytes())
    missing = sorted({str(file) for file in table["weight_map"].values()} - {*weights})
    if missing:
        raise ModelCorrupt(
            f"{model} on the hub lacks {', '.join(missing)}, which hold weights: name another --revision or model."
        )
