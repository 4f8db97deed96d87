"""A converted model that was opened before, without torch: OpenVINO computes its encoder, and arrays its head."""

from __future__ import annotations

import json
import logging
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from safetensors.numpy import load_file

from docmill.tasks.backends import Assignment, Source, allocator, processor
from docmill.tasks.backends.convert import is_whole
from docmill.tasks.backends.encoder import openings
from docmill.tasks.backends.encoder.array_heads import Array, Arrays, outputs_of
from docmill.tasks.backends.encoder.batch_tuning import BUDGETS, SIZES, WarmUp, short_window
from docmill.tasks.backends.encoder.converted.compiled import FOLDER, CompiledEncoder
from docmill.tasks.backends.encoder.parallel_batches import Streams
from docmill.tasks.backends.processor import Processor
from docmill.tasks.backends.static import Items, StaticLoop
from docmill.tasks.errors import OutOfMemory
from docmill.tasks.kinds.base import Traits
from docmill.tasks.outputs import Output
from docmill.tasks.windows.windows import Encoded

log = logging.getLogger("docmill.backends")

_CLASS = "OpenVinoBackend"  # which opened the model first
_NO_MEMORY = ("can't allocate memory", "ALLOC_FAILED", "bad_alloc")


def reopened(assignment: Assignment) -> KeptBackend | None:
    """Return the model as the cache keeps it; None if the class that opened it first has to open it again."""
    ready = kept_folder(assignment)
    if ready is None:
        return None
    try:
        backend = KeptBackend(assignment, ready, processor.of(assignment.cache_dir))
    except Exception as error:  # whatever libraries raise on files or tensors that they do not know
        log.info("opening_not_repeated folder=%s error=%r", ready, error)
        return None
    with suppress(OSError):  # a cache that is only read
        os.utime(ready)  # the time of its last use
    return backend


def kept_folder(assignment: Assignment) -> Path | None:
    """Return the folder of the cache that keeps the model's opening; None if there is none."""
    if assignment.device != "cpu":
        return None
    here = processor.of(assignment.cache_dir)
    ready = openings.folder(assignment, _CLASS, here.name, here.threads)
    return ready if is_whole(ready, assignment.cache_dir) else None


class Differs(Exception):
    """Raised where an encoder does not give what the model's own code gave."""


class KeptBackend:
    """One encoder-only model with its head on a CPU. Raises Differs, and what libraries raise on damaged files."""

    def __init__(self, assignment: Assignment, ready: Path, here: Processor) -> None:
        spec, cache_dir = assignment.spec, assignment.cache_dir
        facts = json.loads((ready / openings.FACTS).read_bytes())
        tensors: dict[str, Array] = load_file(ready / openings.TENSORS)
        self._facts, self._int8, self._here = facts, spec.quality == "int8", here
        self._precision = here.native if spec.quality in ("native", "int8") else spec.quality
        self._tokens = openings.tokens_of(facts, (ready / openings.TOKENIZER).read_text(encoding="utf-8"))
        self.limit_tokens: int = facts["limit_tokens"]
        self.traits: Traits = openings.traits_of(facts, self._tokens)
        of_head = {name.removeprefix("head "): one for name, one in tensors.items() if name.startswith("head ")}
        self._head = outputs_of(facts["head"], of_head)
        converted = cache_dir / FOLDER / facts["encoder"]["folder"]
        if not is_whole(converted, cache_dir):
            raise Differs("conversion")
        self._encoder = CompiledEncoder(converted, self._tokens, self._precision, here.threads)
        _compare(self._encoder, facts["comparison"], tensors)
        self._loop = StaticLoop(self._compute, BUDGETS["cpu"])
        self._streams = Streams(self._loop, self._compute, here.threads)
        self._warm_up = WarmUp(self._loop, self.run, short_window(self), at_once=self._streams.count)
        subject = f"{spec.revision} {spec.quality} {_CLASS} {here.name} {here.threads}"
        self._warm_up.find(SIZES["cpu"], cache_dir / "batches", subject, measured=assignment.tuned)

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        return self._tokens.encode(texts)

    def run(self, source: Source) -> Iterator[tuple[int, Output]]:
        return self._streams.run(source)

    def tokens_per_s(self) -> float:
        """Measure for a fraction of a second how fast short windows are computed here."""
        return self._warm_up.rate()

    def runtime(self) -> dict[str, Any]:
        library = self._facts["library"]
        versions = {"torch": self._here.torch, "python": platform.python_version()}
        versions |= {name: version(name) for name in ("transformers", library, *(["nncf"] if self._int8 else []))}
        return {
            "device": self._here.name,
            "precision": f"int8_{self._precision}" if self._int8 else self._precision,
            "backend": "openvino",
            "versions": {**versions, "openvino": openvino.__version__},
        }

    def close(self) -> None:
        self._streams.close()
        del self._encoder
        allocator.release()

    def _compute(self, items: Items) -> Sequence[Output]:
        try:
            return self._head([item.encoded for item in items], self._states(items))
        except MemoryError as error:
            raise OutOfMemory from error
        except RuntimeError as error:  # OpenVINO has no type of its own for this
            if any(words in str(error) for words in _NO_MEMORY):
                raise OutOfMemory from error
            raise

    def _states(self, items: Items) -> Arrays:
        """Return the states of a batch's tokens."""
        return self._encoder([item.encoded for item in items])


def _compare(encoder: CompiledEncoder, kept: Mapping[str, Any], tensors: Arrays) -> None:
    """Raise Differs unless the encoder gives the states of the model's own code, as ``Comparison`` compares them."""
    found = encoder([Encoded(tokens, features) for tokens, features in kept["texts"]])
    states, masks = found["token_embeddings"], found["attention_mask"].astype(bool)
    of = {"states": _of_states, "means": _of_means}[kept["measure"]]
    rows = enumerate(zip(states, masks, strict=True))
    distance = max(of(row[mask], tensors[f"states {place}"]) for place, (row, mask) in rows)
    if not (np.isfinite(states).all() and distance <= kept["tolerance"]):
        raise Differs(f"difference={distance:.2g}")


def _of_states(found: Array, own: Array) -> float:
    return float((np.linalg.norm(found - own, axis=-1) / np.linalg.norm(own, axis=-1)).max())


def _of_means(found: Array, own: Array) -> float:
    one, other = found.sum(axis=0), own.sum(axis=0)
    return float(1 - one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))
