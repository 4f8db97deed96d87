"""Logs each text that the model has computed, by its token ids, in whatever process of whatever tool computes it.

Python imports this module at its start, as the folder is in PYTHONPATH. It waits for the module that holds the
model, and wraps the method that takes a batch of token ids. Each computed text is a line in the file $TORTURE_LOG. A
text with the key $TORTURE_POISON kills the process, as a fault in a library's native code does.
"""

from __future__ import annotations

import hashlib
import importlib.abc
import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Iterable
from typing import Any

CLS, SEP = 101, 102  # begin and end each text of this model


def key_of(ids: Iterable[Any]) -> str:
    """Return the key of a text from its token ids."""
    return hashlib.sha256(",".join(str(int(number)) for number in ids).encode()).hexdigest()[:20]


def of_library(_model: Any, features: Any, *_: Any, **__: Any) -> list[Any]:
    """sentence-transformers: padded rows with a mask."""
    ids, mask = features["input_ids"].tolist(), features["attention_mask"].tolist()
    return [row[: sum(kept)] for row, kept in zip(ids, mask, strict=True)]


def of_docmill(_backend: Any, items: Any, *_: Any, **__: Any) -> list[Any]:
    """docmill's backends: a batch of windows."""
    return [item.encoded.ids for item in items]


def of_vllm(_model: Any, input_ids: Any, *_: Any, **__: Any) -> list[Any]:
    """vLLM: texts end to end, and whatever fills the batch up."""
    rows: list[list[int]] = []
    for number in input_ids.tolist():
        if number == CLS:
            rows.append([])
        if rows:
            rows[-1].append(number)
    return [row[: row.index(SEP) + 1] for row in rows if SEP in row]


PLACES = {
    "sentence_transformers.base.model": ("BaseModel", "forward", of_library),
    "docmill.tasks.backends.encoder.encoder_backend": ("EncoderBackend", "_compute", of_docmill),
    "docmill.tasks.backends.encoder.openvino_backend": ("OpenVinoBackend", "_compute", of_docmill),
    "vllm.model_executor.models.bert": ("BertEmbeddingModel", "forward", of_vllm),
}


def counted(
    inner: Callable[..., Any], rows_of: Callable[..., list[Any]], log: int, poison: str
) -> Callable[..., Any]:
    def compute(*given: Any, **more: Any) -> Any:
        keys = [key_of(row) for row in rows_of(*given, **more)]
        if poison in keys:
            os.kill(os.getpid(), signal.SIGKILL)
        made = inner(*given, **more)
        os.write(log, "".join(f"{key}\n" for key in keys).encode())
        return made

    return compute


class Hook(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules in PLACES as usual, and wraps the method once the module is loaded."""

    def __init__(self, library: str, log: int, poison: str) -> None:
        self._places = {name: place for name, place in PLACES.items() if name.startswith(library)}
        self._log, self._poison = log, poison
        self._loaders: dict[str, Any] = {}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in self._places or name in self._loaders:
            return None
        self._loaders[name] = None  # so that the question below does not come here
        spec: Any = importlib.util.find_spec(name)
        self._loaders[name], spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: Any) -> Any:
        return self._loaders[spec.name].create_module(spec)

    def exec_module(self, module: Any) -> None:
        self._loaders[module.__name__].exec_module(module)
        owner, method, rows_of = self._places[module.__name__]
        holder = getattr(module, owner)
        setattr(holder, method, counted(getattr(holder, method), rows_of, self._log, self._poison))


if "TORTURE_LOG" in os.environ:
    descriptor = os.open(os.environ["TORTURE_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    hook = Hook(os.environ["TORTURE_MODEL_OF"], descriptor, os.environ.get("TORTURE_POISON", ""))
    sys.meta_path.insert(0, hook)
