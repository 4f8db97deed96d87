"""Compare docmill's own inference code with the library's, in the same backend and under the same batching.

docmill computes an encoder without padding. The library's model code computes padded batches. The sides are compared
by the CPU time of this process on one thread. On a shared machine, CPU time says more than the clock, and several
threads would also count the time in which they wait for each other.
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


def read_paragraphs(name: str, count: int) -> list[str]:
    """Return the first `count` paragraphs of an example."""
    rows = map(json.loads, (EXAMPLES / name).read_text(encoding="utf-8").splitlines())
    return [line for row in rows for line in row["text"].split("\n") if len(line.strip()) > 20][:count]


def assignment(kind: str, model: str, cache_dir: Path, head: Head, **options: Any) -> Assignment:
    """Return an assignment that loads a model on the CPU."""
    folders = ModelFolders(None, cache_dir)
    pinned = pinning.pin(model, folders)
    config = pinning.read_config(pinned, folders)
    spec = build_spec(kind, pinned, kinds.options(kind, **options), config)
    return Assignment(spec, pinning.locate(pinned, folders), "cpu", cache_dir, head)


class PlainLinear(OneDnnLinear):
    """A linear layer that torch computes."""

    def __init__(self, *stacked: tuple[torch.Tensor, torch.Tensor]) -> None:
        self._weight = torch.cat([weight for weight, _ in stacked])
        self._bias = torch.cat([bias for _, bias in stacked])

    def __call__(self, inputs: torch.Tensor, activation: tuple[str, str] = ("none", "")) -> torch.Tensor:
        product = functional.linear(inputs, self._weight, self._bias)
        return functional.gelu(product) if activation == ("gelu", "none") else product

    def added_to(self, residual: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        return residual + functional.linear(inputs, self._weight, self._bias)


@contextmanager
def replace_attribute(module: Any, name: str, value: Any) -> Iterator[None]:
    """Replace an attribute of a module until the block ends."""
    original = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, original)


def computing(backend: Any, texts: list[str]) -> Callable[[], Run]:
    """Return a side that computes all texts once, and whose run has seconds of CPU time."""
    encoded_texts = backend.encode(texts)

    def compute() -> Run:
        waiting: Pool[Any] = Pool()
        waiting.add(Item(number, encoded, None) for number, encoded in enumerate(encoded_texts))
        began = time.process_time()
        n_texts = len(list(backend.run(waiting)))
        return Run(n_texts, time.process_time() - began)

    return compute


def compare(title: str, backends: Mapping[str, Any], texts: list[str], pairs: int) -> Comparison:
    """Compare backends on the same texts, and close them."""
    sides = {name: computing(backend, texts) for name, backend in backends.items()}
    comparison = interleave(title, "texts", sides, pairs=pairs)
    for backend in backends.values():
        backend.close()
    return comparison


def compare_encoders(dtype: str, cache_dir: Path, texts: list[str], pairs: int) -> Comparison:
    """Compare an encoder without padding, on linear layers of oneDNN and of torch, with the library's model code.

    Each side has its own cache folder, so that it cannot load the encoder that another side saved.
    """
    embedder = assignment("embed", "minilm", cache_dir, Head.POOLING, dtype=dtype)
    backends = {f"{OURS}: no padding, oneDNN": EncoderBackend(embedder)}
    with replace_attribute(packed, "OneDnnLinear", PlainLinear):
        plain = replace(embedder, cache_dir=cache_dir / "plain")
        backends["no padding, torch's linear layers"] = EncoderBackend(plain)
    with replace_attribute(encoder_backend, "proven_encoder", lambda *_, **__: None):
        backends[f"{LIBRARY}: padded"] = EncoderBackend(replace(embedder, cache_dir=cache_dir / "padded"))
    return compare(f"MiniLM in {dtype}", backends, texts, pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--texts", type=int, default=400, help="to embed")
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    english = read_paragraphs("descriptions.jsonl", options.texts)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        cache = Path(work)
        comparisons = [compare_encoders(dtype, cache, english, options.pairs) for dtype in ("float32", "auto")]
    claims = []
    for comparison in comparisons:
        *ours, library = comparison.sides
        claims.append([Claim(f"{side} ÷ {library}", side, library, 1.0) for side in ours])
    write("inference", comparisons, claims, seconds="of CPU time", texts=len(english))


if __name__ == "__main__":
    main()
