"""Inference code of docmill's own beside the library's, in the same backend and under the same batching.

An encoder without padding beside the model's own code on padded batches. Sides are compared by this process's CPU
time on one thread, which says more than the clock on a machine that is shared: several threads would count the time
in which they wait for each other.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from bench.pairs import Claim, Comparison, Run, interleave, write
from docmill.tasks import kinds
from docmill.tasks.backends import Assignment
from docmill.tasks.backends.encoder import encoder_backend, packed
from docmill.tasks.backends.encoder.encoder_backend import EncoderBackend
from docmill.tasks.backends.encoder.packed import OneDnnLinear
from docmill.tasks.batching import Item, Pool
from docmill.tasks.models.weights import ModelFolders
from docmill.tasks.outputs import Head
from docmill.tasks.specs import pinning
from docmill.tasks.specs.plan import build_spec

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
OURS, LIBRARY = "docmill's own", "the library's own"


def lines(name: str, count: int) -> list[str]:
    """Return the first paragraphs of an example."""
    rows = map(json.loads, (EXAMPLES / name).read_text(encoding="utf-8").splitlines())
    return [line for row in rows for line in row["text"].split("\n") if len(line.strip()) > 20][:count]


def assignment(kind: str, model: str, cache_dir: Path, head: Head, **options: Any) -> Assignment:
    """Return an assignment of a model that comes with docmill, on the CPU."""
    folders = ModelFolders(None, cache_dir)
    pinned = pinning.pin(model, folders)
    config = pinning.read_config(pinned, folders)
    spec = build_spec(kind, pinned, kinds.options(kind, **options), config)
    return Assignment(spec, pinning.locate(pinned, folders), "cpu", cache_dir, head)


class PlainLinear(OneDnnLinear):
    """A linear layer of torch's own."""

    def __init__(self, *stacked: tuple[torch.Tensor, torch.Tensor]) -> None:
        self._weight = torch.cat([weight for weight, _ in stacked])
        self._bias = torch.cat([bias for _, bias in stacked])

    def __call__(self, inputs: torch.Tensor, activation: tuple[str, str] = ("none", "")) -> torch.Tensor:
        product = functional.linear(inputs, self._weight, self._bias)
        return functional.gelu(product) if activation == ("gelu", "none") else product

    def added_to(self, residual: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        return residual + functional.linear(inputs, self._weight, self._bias)


@contextmanager
def replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """Put a value in the place of a module's own while a model is opened."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def computing(backend: Any, texts: list[str]) -> Callable[[], Run]:
    """Return a side: the backend computes all texts once, and its run has the seconds of CPU time."""
    encoded = backend.encode(texts)

    def once() -> Run:
        waiting: Pool[Any] = Pool()
        waiting.add(Item(number, one, None) for number, one in enumerate(encoded))
        began = time.process_time()
        done = len(list(backend.run(waiting)))
        return Run(done, time.process_time() - began)

    return once


def compared(title: str, sides: Mapping[str, Any], texts: list[str], pairs: int) -> Comparison:
    found = interleave(title, "texts", {name: computing(one, texts) for name, one in sides.items()}, pairs=pairs)
    for backend in sides.values():
        backend.close()
    return found


def encoders(dtype: str, cache_dir: Path, texts: list[str], pairs: int) -> Comparison:
    """An encoder without padding on oneDNN's and on torch's own linear layers, and the model's own code.

    Each side has a cache of its own, from which no other can open its encoder again.
    """
    asked = assignment("embed", "minilm", cache_dir, Head.POOLING, dtype=dtype)
    sides = {f"{OURS}: no padding, oneDNN": EncoderBackend(asked)}
    with replaced(packed, "OneDnnLinear", PlainLinear), replaced(packed, "on_amx", lambda _dtype: False):
        sides["no padding, torch's linear layers"] = EncoderBackend(replace(asked, cache_dir=cache_dir / "plain"))
    with replaced(encoder_backend, "proven_encoder", lambda *_, **__: None):
        sides[f"{LIBRARY}: padded"] = EncoderBackend(replace(asked, cache_dir=cache_dir / "padded"))
    return compared(f"MiniLM in {dtype}", sides, texts, pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--texts", type=int, default=400, help="to embed")
    parser.add_argument("--pairs", type=int, default=5)
    asked = parser.parse_args()
    english = lines("descriptions.jsonl", asked.texts)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        cache = Path(work)
        found = [encoders(dtype, cache, english, asked.pairs) for dtype in ("float32", "auto")]
    claims = []
    for one in found:
        library = list(one.sides)[-1]
        claims.append([Claim(f"{side} ÷ {library}", side, library, 1.0) for side in one.sides if side != library])
    write("inference", found, claims, seconds="of CPU time", texts=len(english))


if __name__ == "__main__":
    main()
