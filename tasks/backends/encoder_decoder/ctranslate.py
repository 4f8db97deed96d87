"""Encoder-decoder models by CTranslate2: several single-threaded workers, each with a batch of its own."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import pairwise
from typing import Any

import ctranslate2
import transformers

from docmill.tasks.backends import Assignment, Source, accelerator, allocator
from docmill.tasks.backends.encoder_decoder.ctranslate_models import converted, require_known
from docmill.tasks.backends.encoder_decoder.ctranslate_options import inexact, options
from docmill.tasks.backends.encoder_decoder.generation import Generation
from docmill.tasks.backends.generation_files import Opening, generation_settings
from docmill.tasks.backends.static import Computed, Items, StaticLoop
from docmill.tasks.batching import Budget
from docmill.tasks.errors import DeviceLost, OutOfMemory, Unsuited
from docmill.tasks.outputs import Output
from docmill.tasks.windows.windows import Encoded

# Windows and input tokens of one worker's batch. A step reads all weights, whatever the rows, and of each row what
# the input left behind, which all its beams share: the rows that are fastest fall with the root of the length. Marian
# of base size in int8, greedy, was fastest with 96 rows of 12 tokens, 48 to 64 of 24, 32 to 48 of 53, 32 of 90, 16 to
# 32 of 190, and these rows some 9 % slower at most. With 4 beams in float32 it was fastest with 32 rows, of 45 and of
# 190 tokens: 16 took a tenth longer and 12 a quarter to a third; in int8 16 to 32 of 190 were alike.
# Unlike lengths cost less than small batches. What is taken at once is divided among the workers, so that the last
# windows of a job, or a few shards' windows, keep none of them waiting.
_ANY = 1 << 30
BUDGETS = {
    "cpu": Budget(tokens=6144, rows=48, spread=_ANY),
    "cuda": Budget(tokens=65_536, rows=512, spread=_ANY),
}
# Rows × beams of one worker's batch, and of all workers' together: each hypothesis keeps what its tokens left behind,
# 128 of 200 tokens 0.6 GB with Marian of base size.
_HYPOTHESES = {"cpu": 128, "cuda": 512}
_ALL_HYPOTHESES = 512
_MOST_WORKERS = 8
# Batches for each worker, so that none waits for us between two of them.
AHEAD = 2
# A batch takes seconds: it is worth this long a wait to begin with a full one.
PATIENCE_S = 0.05
# How often batches in flight are looked at: a worker for which nothing went ahead waits so long at the most.
_LOOK_S = 0.005
# What a quality class may be carried out in, the best first.
_TYPES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "cpu": {"native": ("bfloat16", "float32"), "int8": ("int8_bfloat16", "int8_float32", "int8")},
    "cuda": {
        "native": ("bfloat16", "float16", "float32"),
        "int8": ("int8_bfloat16", "int8_float16", "int8_float32", "int8"),
    },
}
_NO_MEMORY = ("out of memory", "bad_alloc", "CUBLAS_STATUS_ALLOC_FAILED")


@dataclass(frozen=True)
class Flight:
    """A batch on its way, with one pending result for each window."""

    items: Items
    results: Sequence[Any]

    @property
    def landed(self) -> bool:
        return all(result.done() for result in self.results)


class CTranslateBackend:
    """One encoder-decoder model under one spec.

    Raises Unsuited where CTranslate2 does not know a setting, and if another backend can take the model also where
    CTranslate2's search by beams is not that of transformers.
    """

    def __init__(self, assignment: Assignment) -> None:
        spec, folder, device = assignment.spec, assignment.folder, assignment.device
        cache_dir = assignment.cache_dir
        kind, _, index = device.partition(":")
        self._device = device
        self._type = compute_type(spec.quality, kind)
        opening = Opening.of(spec, folder, cache_dir)
        require_known(opening.config.model_type, spec.model)
        opening.require_weights(transformers.AutoModelForSeq2SeqLM)  # of an earlier conversion, too
        self._generation = Generation(opening, generation_settings(opening.folder))
        self.limit_tokens = self._generation.limit_tokens
        self._options = options(self._generation, spec.model)
        if not assignment.alone and (setting := inexact(self._generation)):
            raise Unsuited(f"CTranslate2 searches otherwise than transformers: {setting}.")
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = min(cores, _MOST_WORKERS) if kind == "cpu" else 1
        with _errors(device):
            self._translator = ctranslate2.Translator(
                str(converted(folder, spec.model, spec.revision, cache_dir)),
                device=kind,
                device_index=int(index or 0),
                compute_type=self._type,
                inter_threads=workers,
                intra_threads=cores // workers if kind == "cpu" else 0,
                max_queued_batches=-1,
            )
        if kind == "cpu":
            allocator.keep_freed()
        self._workers = workers
        budget, beams = BUDGETS[kind], self._generation.beams
        self._loop = StaticLoop(
            self._compute,
            replace(
                budget,
                tokens=budget.tokens if kind == "cpu" else budget.tokens // beams,  # more was not measured on a GPU
                rows=max(1, min(budget.rows, min(_HYPOTHESES[kind], _ALL_HYPOTHESES // workers) // beams)),
            ),
        )
        self.traits = self._generation.traits

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        return self._generation.tokens.encode(texts)

    def run(self, source: Source) -> Iterator[Computed]:
        """Keeps some batches in flight for each worker. Once nothing more is given, those in flight are the last."""
        flights: list[Flight] = []
        while True:
            while len(flights) <= (AHEAD - 1) * self._workers and (items := self._take(source, len(flights))):
                flights += (Flight(part, self._post(part)) for part in divided(items, self._workers))
            if not flights:
                return
            landed = [flight for flight in flights if flight.landed]
            if not landed:
                time.sleep(_LOOK_S)
            for flight in landed:
                flights.remove(flight)
                yield from self._loop.settle(flight.items, partial(self._collect, flight))

    def runtime(self) -> dict[str, Any]:
        return {
            "device": accelerator.device_name(self._device),
            "precision": self._type,
            "backend": "ctranslate2",
            "versions": {
                "ctranslate2": version("ctranslate2"),
                "transformers": transformers.__version__,
                "python": platform.python_version(),
            },
        }

    def close(self) -> None:
        self._translator.unload_model()
        del self._translator
        accelerator.release(self._device)

    def _take(self, source: Source, in_flight: int) -> Items:
        """A batch for each worker, all of like length; as long as all of them compute, only full ones."""
        one = self._loop.budget
        rows = one.rows * self._workers
        busy = in_flight >= self._workers
        asked = replace(
            one,
            tokens=one.tokens * self._workers,
            rows=rows,
            least=rows if busy else 1,
            patience_s=0.0 if busy else PATIENCE_S,
        )
        return source.take(asked)

    def _compute(self, items: Items) -> Sequence[Output]:
        return self._collect(Flight(items, self._post(items)))

    def _post(self, items: Items) -> Sequence[Any]:
        sources = [list(map(str, item.encoded.ids)) for item in items]
        prefix = self._options.prefix
        results: Sequence[Any] = self._translator.translate_batch(
            sources,
            target_prefix=[list(prefix)] * len(sources) if prefix else None,
            asynchronous=True,
            **self._options.arguments,
        )
        return results

    def _collect(self, flight: Flight) -> Sequence[Output]:
        with _errors(self._device):
            found = [result.result() for result in flight.results]
        return self._generation.outputs(
            [self._options.written([*map(int, one.hypotheses[0])], one.scores[0]) for one in found]
        )


def divided(items: Items, parts: int) -> Iterator[Items]:
    """As many parts of like size, or one for each item where these are fewer; what is longest first."""
    parts = min(parts, len(items))
    ends = [len(items) * number // parts for number in range(parts + 1)]
    return (items[start:end] for start, end in reversed(list(pairwise(ends))))


def compute_type(quality: str, kind: str) -> str:
    """Return CTranslate2's type for a quality class on a kind of device; raises Unsuited if it has none."""
    supported = ctranslate2.get_supported_compute_types(kind)
    wanted = _TYPES[kind].get(quality, (quality,))
    for name in wanted:
        if name in supported:
            return name
    raise Unsuited(f"CTranslate2 has no {quality} precision on this {kind} device.")


@contextmanager
def _errors(device: str) -> Iterator[None]:
    """Turn what CTranslate2 raises when memory is short into OutOfMemory, and a broken device into DeviceLost."""
    try:
        yield
    except MemoryError as error:
        raise OutOfMemory from error
    except RuntimeError as error:
        if any(words in str(error) for words in _NO_MEMORY):
            raise OutOfMemory from error
        if "CUDA failed" in str(error):
            raise DeviceLost(f"{device}: {str(error).splitlines()[0]}") from error
        raise
