"""Embedding with each of docmill's backends, under the same batching: which is the fastest here at equal quality.

Two encoders: MiniLM, which is of BERT's design and so computed without padding on torch, and one of the size and the
design of all-mpnet-base-v2, which is not (with random weights: they take as long as trained ones). Each is computed
in float32 and in what the processor does natively, by its engine alone.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import transformers

from bench.alone import Alone
from bench.embed import cosines, of_run, vectors
from bench.manpages import paragraphs
from bench.pairs import Claim, Comparison, Run, interleave, timed, write
from docmill.tasks.backends import registry
from docmill.tasks.backends.accelerator import quiet
from docmill.tasks.models.families import Family
from docmill.tasks.models.weights import ModelFolders
from docmill.tasks.specs import pinning

TRAINED = "minilm"
QUALITIES = ("float32", "native")


def mpnet(folder: Path, cache_dir: Path) -> Path:
    """An encoder as large as all-mpnet-base-v2, with the other model's tokenizer."""
    folders = ModelFolders(None, cache_dir)
    pinned = pinning.pin(TRAINED, folders)
    tokenizer = transformers.AutoTokenizer.from_pretrained(pinning.locate(pinned, folders))
    torch.manual_seed(7)
    model = transformers.MPNetModel(transformers.MPNetConfig(vocab_size=tokenizer.vocab_size)).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def compared(
    model: str, quality: str, texts: list[str], cache_dir: Path, pairs: int
) -> tuple[Comparison, dict[str, float]]:
    """The backends that take the model in this quality, and their least cosine with torch in float32."""
    names = registry.candidates("embed", Family.ENCODER, quality=quality, device="cpu")
    dtype = "auto" if quality == "native" else quality
    alone = {name: Alone("embed", model, cache_dir, backend=name, dtype=dtype) for name in names}
    exact = Alone("embed", model, cache_dir, backend="transformers", dtype="float32")
    expected = vectors(exact, texts[:100])
    exact.close()
    least = {name: cosines(vectors(one, texts[:100]), expected)["least"] for name, one in alone.items()}

    def side(one: Alone) -> Callable[[], Run]:
        numbers = itertools.count()

        def once() -> Run:
            these = of_run(texts, next(numbers))
            return timed(lambda: len(one.run(these)))

        return once

    sides = {name: side(one) for name, one in alone.items()}
    title = f"{Path(model).name} in {quality}"
    found = interleave(title, "docs", sides, pairs=pairs)
    for one in alone.values():
        one.close()
    return found, least


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--texts", type=int, default=1000, help="for MiniLM; the other gets a tenth")
    parser.add_argument("--pairs", type=int, default=5)
    asked = parser.parse_args()
    texts = paragraphs(asked.texts)
    comparisons, claims, quality = [], [], {}
    with tempfile.TemporaryDirectory() as work, quiet():
        cache = Path(work) / "cache"
        large = str(mpnet(Path(work) / "mpnet-base", cache))
        for model, some in ((TRAINED, texts), (large, texts[: asked.texts // 10])):
            for precision in QUALITIES:
                found, least = compared(model, precision, some, cache, asked.pairs)
                comparisons.append(found)
                quality[found.question] = least
                others = [name for name in least if name != "transformers"]
                claims.append([Claim(f"{name} ÷ transformers", name, "transformers", 1.0) for name in others])
    write("backends", comparisons, claims, texts=asked.texts, least_cosine_with_float32=quality)


if __name__ == "__main__":
    main()
