"""Compare embedding by docmill end to end, by its engine alone and by other libraries, with the arithmetic limit.

The texts are paragraphs of manual pages. docmill does not compute a text twice, so each run appends a word of its own
to the paragraphs. docmill's time begins before `enqueue` reads the file, and ends when the last shard is committed in
PostgreSQL. Before that, docmill and its peers load their models, and docmill measures its backends, which takes
seconds once for each model and machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from bench import limits, peers
from bench.alone import Alone
from bench.fleet import fleet
from bench.manpages import paragraphs
from bench.pairs import RESULTS, Claim, Comparison, Run, interleave, timed, write
from bench.plots import Axes, draw
from docmill.tasks.backends.accelerator import dtype_for, quiet

MODEL = "minilm"
BATCH_SIZES = (8, 16, 32, 64, 128)
WORKERS = (1, peers.CORES)  # models side by side, among which the cores are divided
WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "run", "turn", "time", "lap")


def vary_texts(texts: Sequence[str], number: int) -> list[str]:
    """Return the texts of a run: each with the run's word at its end, so that no two runs share a text."""
    return [f"{text} {WORDS[number]}" for text in texts]


def compute_vectors(engine: Alone, texts: Sequence[str]) -> peers.Vectors:
    """Return the vectors that docmill's engine computes, of shape (texts, dim)."""
    return np.stack([np.frombuffer(outcome.vector or b"", "<f4") for outcome in engine.run(texts)])


def sweep(make: Callable[[int], peers.Embed], texts: Sequence[str]) -> dict[tuple[int, int], float]:
    """Try all settings of a peer. Return the texts per second by models side by side and batch size."""
    rates = {}
    for workers in WORKERS:
        embed = peers.side_by_side(make, workers)
        embed(texts, BATCH_SIZES[-1])  # not timed, since some peers compile the model in their first call
        for size in BATCH_SIZES:
            run = timed(partial(_embed_and_count, embed, texts, size))
            rates[workers, size] = round(run.rate, 1)
    return rates


def _embed_and_count(embed: peers.Embed, texts: Sequence[str], size: int) -> float:
    return len(embed(texts, size))


def measure_cosines(vectors: peers.Vectors, exact: peers.Vectors) -> dict[str, float]:
    """Return the least and the median cosine of the rows with those in float32. Both shapes are (texts, dim)."""
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(exact, axis=1)
    cosines = (vectors * exact).sum(axis=1) / norms
    return {"least": round(float(cosines.min()), 6), "median": round(float(np.median(cosines)), 6)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--texts", type=int, default=4000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--swept", type=int, default=400, help="texts for each setting of a peer")
    parser.add_argument("--name", default="embed", help="of the results' files")
    options = parser.parse_args()
    texts = paragraphs(options.texts)
    dtype = dtype_for("native", "cpu")
    with tempfile.TemporaryDirectory() as cache, quiet(), fleet(Path(cache) / "fleet", lane="embed") as installation:
        engine = Alone("embed", MODEL, installation.cache_dir)
        makers: dict[str, Callable[[int], peers.Embed]] = {
            "sentence-transformers, torch float32": partial(peers.sentence_transformers, engine.model, torch.float32),
            "sentence-transformers, torch bfloat16": partial(
                peers.sentence_transformers, engine.model, torch.bfloat16
            ),
            "OpenVINO float32": partial(peers.openvino, engine.model, "f32"),
            "OpenVINO bfloat16": partial(peers.openvino, engine.model, "bf16"),
            "ONNX Runtime float32": partial(peers.onnx_runtime, engine.model, Path(cache), int8=False),
            "OpenVINO int8": partial(peers.openvino_int8, engine.model, texts[-300:]),
            "ONNX Runtime int8": partial(peers.onnx_runtime, engine.model, Path(cache), int8=True),
        }
        if dtype != torch.bfloat16:  # bfloat16 takes ten times as long on a processor without instructions for it
            makers = {name: make for name, make in makers.items() if "bfloat16" not in name}
        rates = {name: sweep(make, texts[: options.swept]) for name, make in makers.items()}
        best_settings = {name: max(curve, key=curve.__getitem__) for name, curve in rates.items()}
        embedders = {name: peers.side_by_side(make, best_settings[name][0]) for name, make in makers.items()}
        sizes = {name: size for name, (_, size) in best_settings.items()}
        int8_engine = Alone("embed", MODEL, installation.cache_dir, dtype="int8")
        quality = _measure_quality({"docmill": engine, "docmill int8": int8_engine}, embedders, sizes, texts[:300])
        tokens = peers.lengths(engine.model, vary_texts(texts, 0))
        encoder = limits.Encoder.of(json.loads((engine.model / "config.json").read_bytes()))
        operations = encoder.operations(tokens)

        def make_side(embed: Callable[[list[str]], object], share: int = 1) -> Callable[[], Run]:
            """Return a side that embeds every `share`-th text."""
            numbers = itertools.count()

            def run_once() -> Run:
                run_texts = vary_texts(texts[::share], next(numbers))

                def embed_and_count() -> int:
                    embed(run_texts)
                    return len(run_texts)

                return timed(embed_and_count)

            return run_once

        def run_end_to_end(numbers: Iterator[int], **task_options: str) -> Run:
            run_texts = vary_texts(texts, next(numbers))
            seconds, _ = installation.run(run_texts, "embed", MODEL, **task_options)
            return Run(len(run_texts), seconds)

        sides: dict[str, Callable[[], Run]] = {
            "docmill": partial(run_end_to_end, itertools.count()),
            "docmill's engine alone": make_side(partial(compute_vectors, engine)),
            **{
                name: make_side(  # the slow peers, which will not be the best, have fewer texts
                    lambda texts, embed=embed, size=sizes[name]: embed(texts, size),  # type: ignore[misc]
                    share=4 if dtype == torch.bfloat16 and "float32" in name else 1,
                )
                for name, embed in embedders.items()
                if "int8" not in name
            },
            "arithmetic limit": lambda: Run(len(texts), operations / limits.peak(dtype)),
        }
        comparison = interleave("embedding", "docs", sides, pairs=options.pairs)
        int8_sides: dict[str, Callable[[], Run]] = {
            "docmill int8": partial(run_end_to_end, itertools.count(), dtype="int8"),
            "docmill's engine alone, int8": make_side(partial(compute_vectors, int8_engine)),
            **{
                name: make_side(lambda texts, embed=embed, size=sizes[name]: embed(texts, size))  # type: ignore[misc]
                for name, embed in embedders.items()
                if "int8" in name
            },
        }
        int8_comparison = interleave("embedding in int8", "docs", int8_sides, pairs=options.pairs)
        counters = engine.engine.counters
        busy_shares = installation.busy_shares()
        engine.close()
        int8_engine.close()
    best = comparison.best(*(name for name in embedders if "int8" not in name and quality[name]["least"] >= 0.999))
    best_int8 = int8_comparison.best(*(name for name in embedders if "int8" in name))
    claims = [
        Claim(f"docmill ÷ the best peer ({best})", "docmill", best, 1.2),
        Claim("docmill ÷ the arithmetic limit", "docmill", "arithmetic limit", 0.55),
        Claim("docmill ÷ its engine alone", "docmill", "docmill's engine alone", 0.97),
    ]
    int8_claims = [
        Claim(f"docmill int8 ÷ the best int8 peer ({best_int8})", "docmill int8", best_int8, 1.1),
        Claim("docmill int8 ÷ its engine alone", "docmill int8", "docmill's engine alone, int8", 0.97),
    ]
    write(
        options.name,
        [comparison, int8_comparison],
        [claims, int8_claims],
        texts=len(texts),
        mean_tokens=round(sum(tokens) / len(tokens), 1),
        side_by_side_and_batch=best_settings,
        swept_docs_per_s={
            name: {str(settings): rate for settings, rate in curve.items()} for name, curve in rates.items()
        },
        cosine_with_float32=quality,
        padding=round(counters.padded_tokens / counters.tokens_in - 1, 4),
        busy_share_of_the_engine_alone=engine.busy_share,
        busy_shares_end_to_end=busy_shares,
    )
    with (RESULTS / f"{options.name}.md").open("a") as page:
        page.write(format_settings(rates))
    if options.name == "embed":
        _draw_curves(comparison, int8_comparison, rates)


def format_settings(rates: Mapping[str, Mapping[tuple[int, int], float]]) -> str:
    """Return a table of all settings that were tried, with their texts per second."""
    lines = [
        "",
        "## Settings of the peers, docs/s",
        "",
        f"| peer, models side by side × threads | {' | '.join(map(str, BATCH_SIZES))} in a batch |",
        "| --- |" + " --: |" * len(BATCH_SIZES),
    ]
    for name, curve in rates.items():
        for workers in WORKERS:
            cells = " | ".join(f"{curve[workers, size]:,.1f}" for size in BATCH_SIZES)
            lines.append(f"| {name}, {workers} × {peers.CORES // workers} | {cells} |")
    return "\n".join(lines) + "\n"


def _draw_curves(
    comparison: Comparison, int8_comparison: Comparison, rates: Mapping[str, Mapping[tuple[int, int], float]]
) -> None:
    drawn = ("docmill", "docmill's engine alone", "docmill int8", "arithmetic limit")
    levels = {
        side: compared.median(side)
        for compared in (comparison, int8_comparison)
        for side in compared.sides
        if side in drawn
    }
    curves = {
        name: {float(size): max(curve[workers, size] for workers in WORKERS) for size in BATCH_SIZES}
        for name, curve in rates.items()
    }
    draw(
        "embed", Axes("Embedding with MiniLM, two cores", "texts in a peer's batch", "texts a second"), curves, levels
    )


def _measure_quality(
    engines: Mapping[str, Alone], embedders: Mapping[str, peers.Embed], sizes: Mapping[str, int], texts: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Return each side's cosines with float32, from texts that are short enough for one window."""
    short = [text for text in texts if len(text) < 600]
    exact = embedders["sentence-transformers, torch float32"](short, 32)
    vectors = {name: embed(short, sizes[name]) for name, embed in embedders.items()}
    vectors |= {name: compute_vectors(engine, short) for name, engine in engines.items()}
    return {name: measure_cosines(side_vectors, exact) for name, side_vectors in vectors.items()}


if __name__ == "__main__":
    main()
