"""The settings and the report of the measurements."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench.pairs import Run
from bench.random_models import BERT_BASE, LLAMA_1B, MINILM, SMOLLM_135M, TINY, Size
from docmill.tasks import kinds
from docmill.tasks.backends import Assignment
from docmill.tasks.batching import Item, Pool
from docmill.tasks.models.weights import ModelFolders
from docmill.tasks.outputs import Head, Output
from docmill.tasks.specs import pinning
from docmill.tasks.specs.plan import build_spec
from docmill.tasks.windows.windows import Encoded

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_BATCHES = (32, 64, 128, 256, 512)


@dataclass(frozen=True)
class Sizes:
    """The models, and the numbers of texts, tokens and runs."""

    encoders: tuple[Size, ...]
    decoders: tuple[Size, ...]
    texts_to_encode: int
    texts_to_translate: int
    prompts: int
    new_tokens: int
    pairs: int
    batch_sizes: tuple[int, ...]


SIZES = {
    "full": Sizes((MINILM, BERT_BASE), (SMOLLM_135M, LLAMA_1B), 8_000, 512, 256, 64, 3, _BATCHES),
    "small": Sizes((TINY,), (TINY,), 64, 3, 8, 8, 1, (8,)),
}


@dataclass
class Proof:
    """A comparison that holds or fails. ``figure`` is the greatest difference, or the share of equal outputs."""

    what: str
    holds: bool
    figure: float
    bound: float
    why: str = ""


@dataclass
class Report:
    """All results, as they are written to a file."""

    device: str
    facts: dict[str, Any]
    proofs: list[Proof] = field(default_factory=list)
    measured: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def write(self, path: Path) -> None:
        results = {
            "device": self.device,
            **self.facts,
            "proofs": [asdict(proof) for proof in self.proofs],
            "measured": self.measured,
            "skipped": self.skipped,
        }
        path.write_text(json.dumps(results, indent=1) + "\n")


@dataclass(frozen=True)
class Bench:
    """The device, the precision, the sizes, and a folder for models and caches."""

    device: str
    dtype: str
    sizes: Sizes
    folder: Path

    @property
    def quality(self) -> str:
        """The precision as a spec names it."""
        return "native" if self.dtype == "auto" else self.dtype

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    def assignment(self, kind: str, model: Path | str, head: Head, *, dtype: str = "", **options: Any) -> Assignment:
        """Return an assignment of a model to this device."""
        cache = self.folder / "cache"
        folders = ModelFolders(None, cache)
        pinned = pinning.pin(str(model), folders)
        config = pinning.read_config(pinned, folders)
        task_options = kinds.options(kind, dtype=dtype or self.dtype, **options)
        folder = pinning.locate(pinned, folders)
        return Assignment(build_spec(kind, pinned, task_options, config), folder, self.device, cache, head)

    def sync(self) -> None:
        """Wait until a GPU has finished its queued work."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def make_side(self, work: Callable[[], float]) -> Callable[[], Run]:
        """Return a side of a comparison, which times ``work`` and notes the peak of a GPU's memory.

        ``work`` returns the number of its units.
        """

        def run_once() -> Run:
            if self.on_gpu:
                torch.cuda.reset_peak_memory_stats()
            self.sync()
            began = time.perf_counter()
            units = work()
            self.sync()
            seconds = time.perf_counter() - began
            return Run(units, seconds, {"peak_mib": torch.cuda.max_memory_allocated() >> 20} if self.on_gpu else {})

        return run_once


def compute_outputs(backend: Any, windows: Sequence[Encoded]) -> list[Output]:
    """Return a backend's outputs, in the order of the windows."""
    pool: Pool[Any] = Pool()
    pool.add(Item(number, window, None) for number, window in enumerate(windows))
    outputs = dict(backend.run(pool))
    return [outputs[number] for number in range(len(windows))]


def repeat_texts(texts: list[str], count: int) -> list[str]:
    """Return ``count`` texts, which repeat these."""
    return (texts * (count // len(texts) + 1))[:count]
