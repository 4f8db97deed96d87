"""Log each text that the model computes, by its token ids, in every process of a tool.

Python imports this module when it starts, since the folder is in PYTHONPATH. Once the module with the model is
loaded, we wrap the method that takes a batch of token ids. Each computed text adds a line to the file $TORTURE_LOG. A
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

CLS, SEP = 101, 102  # the token ids that begin and end each text of this model


def make_key(ids: Iterable[Any]) -> str:
    """Return the key of a text with these token ids."""
    return hashlib.sha256(",".join(str(int(number)) for number in ids).encode()).hexdigest()[:20]


def read_sentence_transformers(_model: Any, features: Any, *_: Any, **__: Any) -> list[Any]:
    """Return the token ids of each text of sentence-transformers: padded rows with a mask."""
    ids, mask = features["input_ids"].tolist(), features["attention_mask"].tolist()
    return [row[: sum(row_mask)] for row, row_mask in zip(ids, mask, strict=True)]


def read_docmill(_backend: Any, items: Any, *_: Any, **__: Any) -> list[Any]:
    """Return the token ids of each text of docmill's backends: a batch of windows."""
    return [item.encoded.ids for item in items]


def read_vllm(_model: Any, input_ids: Any, *_: Any, **__: Any) -> list[Any]:
    """Return the token ids of each text of vLLM: all texts in one row, and padding."""
    texts: list[list[int]] = []
    for token_id in input_ids.tolist():
        if token_id == CLS:
            texts.append([])
        if texts:
            texts[-1].append(token_id)
    return [ids[: ids.index(SEP) + 1] for ids in texts if SEP in ids]


# For each module: the class and the method to wrap, and the function that reads the method's arguments.
WRAPPED = {
    "sentence_transformers.base.model": ("BaseModel", "forward", read_sentence_transformers),
    "docmill.tasks.backends.encoder.encoder_backend": ("EncoderBackend", "_compute", read_docmill),
    "docmill.tasks.backends.encoder.openvino_backend": ("OpenVinoBackend", "_compute", read_docmill),
    "vllm.model_executor.models.bert": ("BertEmbeddingModel", "forward", read_vllm),
}


def wrap(
    method: Callable[..., Any], read_token_ids: Callable[..., list[Any]], log: int, poison: str
) -> Callable[..., Any]:
    """Return the method with logging. ``log`` is a file descriptor, and ``poison`` a text's key."""

    def compute(*arguments: Any, **options: Any) -> Any:
        keys = [make_key(ids) for ids in read_token_ids(*arguments, **options)]
        if poison in keys:
            os.kill(os.getpid(), signal.SIGKILL)
        result = method(*arguments, **options)
        os.write(log, "".join(f"{key}\n" for key in keys).encode())
        return result

    return compute


class Hook(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules in WRAPPED as usual, and wraps the method once the module is loaded."""

    def __init__(self, library: str, log: int, poison: str) -> None:
        self._wrapped = {name: wrapped for name, wrapped in WRAPPED.items() if name.startswith(library)}
        self._log, self._poison = log, poison
        self._loaders: dict[str, Any] = {}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in self._wrapped or name in self._loaders:
            return None
        self._loaders[name] = None  # so that the search below does not come back here
        spec: Any = importlib.util.find_spec(name)
        self._loaders[name], spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: Any) -> Any:
        return self._loaders[spec.name].create_module(spec)

    def exec_module(self, module: Any) -> None:
        self._loaders[module.__name__].exec_module(module)
        class_name, method_name, read_token_ids = self._wrapped[module.__name__]
        owner = getattr(module, class_name)
        method = getattr(owner, method_name)
        setattr(owner, method_name, wrap(method, read_token_ids, self._log, self._poison))


if "TORTURE_LOG" in os.environ:
    descriptor = os.open(os.environ["TORTURE_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    hook = Hook(os.environ["TORTURE_MODEL_OF"], descriptor, os.environ.get("TORTURE_POISON", ""))
    sys.meta_path.insert(0, hook)
