"""Compare docmill's backends in embedding, under the same batching: their speed, and how near they are to float32.

There are two encoders. MiniLM has BERT's design, so torch computes it without padding. The other has the size and the
design of all-mpnet-base-v2, and needs padding. Its weights are random: it takes as long as with trained ones. The
engine computes each encoder alone, in float32 and in the processor's native precision.
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
from bench.embed import compute_vectors, measure_cosines, vary_texts
from bench.manpages import paragraphs
from bench.pairs import Claim, Comparison, Run, interleave, timed, write
from docmill.tasks.backends import registry
from docmill.tasks.backends.accelerator import quiet
from docmill.tasks.models.families import Family
from docmill.tasks.models.weights import ModelFolders
from docmill.tasks.specs import pinning

TRAINED = "minilm"
QUALITIES = ("float32", "native")


def save_mpnet(folder: Path, cache_dir: Path) -> Path:
    """Save an encoder as large as all-mpnet-base-v2, with MiniLM's tokenizer. Return its folder."""
    folders = ModelFolders(None, cache_dir)
    pinned = pinning.pin(TRAINED, folders)
    tokenizer = transformers.AutoTokenizer.from_pretrained(pinning.locate(pinned, folders))
    torch.manual_seed(7)
    model = transformers.MPNetModel(transformers.MPNetConfig(vocab_size=tokenizer.vocab_size)).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def compare(
    model: str, quality: str, texts: list[str], cache_dir: Path, pairs: int
) -> tuple[Comparison, dict[str, float]]:
    """Compare the backends that can compute the model in this quality.

    Return the comparison, and each backend's least cosine with the vectors of torch in float32.
    """
    names = registry.candidates("embed", Family.ENCODER, quality=quality, device="cpu")
    dtype = "auto" if quality == "native" else quality
    engines = {name: Alone("embed", model, cache_dir, backend=name, dtype=dtype) for name in names}
    exact_engine = Alone("embed", model, cache_dir, backend="transformers", dtype="float32")
    sample = texts[:100]
    exact = compute_vectors(exact_engine, sample)
    exact_engine.close()
    least = {
        name: measure_cosines(compute_vectors(engine, sample), exact)["least"] for name, engine in engines.items()
    }

    def make_side(engine: Alone) -> Callable[[], Run]:
        numbers = itertools.count()

        def run_once() -> Run:
            new_texts = vary_texts(texts, next(numbers))
            return timed(lambda: len(engine.run(new_texts)))

        return run_once

    sides = {name: make_side(engine) for name, engine in engines.items()}
    title = f"{Path(model).name} in {quality}"
    comparison = interleave(title, "docs", sides, pairs=pairs)
    for engine in engines.values():
        engine.close()
    return comparison, least


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--texts", type=int, default=1000, help="for MiniLM; the other encoder gets a tenth")
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    texts = paragraphs(options.texts)
    comparisons, claims, least_cosines = [], [], {}
    with tempfile.TemporaryDirectory() as folder, quiet():
        cache_dir = Path(folder) / "cache"
        large = str(save_mpnet(Path(folder) / "mpnet-base", cache_dir))
        for model, model_texts in ((TRAINED, texts), (large, texts[: options.texts // 10])):
            for quality in QUALITIES:
                comparison, least = compare(model, quality, model_texts, cache_dir, options.pairs)
                comparisons.append(comparison)
                least_cosines[comparison.question] = least
                others = [name for name in least if name != "transformers"]
                claims.append([Claim(f"{name} ÷ transformers", name, "transformers", 1.0) for name in others])
    write("backends", comparisons, claims, texts=options.texts, least_cosine_with_float32=least_cosines)


if __name__ == "__main__":
    main()
