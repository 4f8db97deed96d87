"""Embedding: docmill from `enqueue` to the end of the job, its engine alone, peers, and the arithmetic limit.

The texts are paragraphs of manual pages. Each run has texts of its own (the same paragraphs, each with the run's word
at its end), since docmill does not compute a text twice. docmill's time begins before `enqueue` reads the file and
ends when the last shard is committed in PostgreSQL. The worker's model is loaded by then, as the peers' are, and the
backends are measured, which takes seconds once for a model and a machine.
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
WORKERS = (1, peers.CORES)  # models side by side, which share the cores
WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "run", "turn", "time", "lap")


def of_run(texts: Sequence[str], number: int) -> list[str]:
    """The texts of a run: no two runs share one."""
    return [f"{text} {WORDS[number]}" for text in texts]


def vectors(alone: Alone, texts: Sequence[str]) -> peers.Vectors:
    """Return the vectors that docmill's engine computes, of shape (texts, dim)."""
    return np.stack([np.frombuffer(outcome.vector or b"", "<f4") for outcome in alone.run(texts)])


def sweep(make: Callable[[int], peers.Embed], texts: Sequence[str]) -> dict[tuple[int, int], float]:
    """Texts a second by models side by side and batch size, on some of the texts."""
    rates = {}
    for workers in WORKERS:
        embed = peers.side_by_side(make, workers)
        embed(texts, BATCH_SIZES[-1])  # compiles
        for size in BATCH_SIZES:
            run = timed(partial(_count, embed, texts, size))
            rates[workers, size] = round(run.rate, 1)
    return rates


def _count(embed: peers.Embed, texts: Sequence[str], size: int) -> float:
    return len(embed(texts, size))


def cosines(found: peers.Vectors, exact: peers.Vectors) -> dict[str, float]:
    """The least and the median cosine of rows with those in float32."""
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(exact, axis=1)
    each = (found * exact).sum(axis=1) / lengths
    return {"least": round(float(each.min()), 6), "median": round(float(np.median(each)), 6)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--texts", type=int, default=4000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--swept", type=int, default=400, help="texts for each setting of a peer")
    parser.add_argument("--name", default="embed", help="of the results' files")
    asked = parser.parse_args()
    texts = paragraphs(asked.texts)
    dtype = dtype_for("native", "cpu")
    with tempfile.TemporaryDirectory() as cache, quiet(), fleet(Path(cache) / "fleet", lane="embed") as through:
        alone = Alone("embed", MODEL, through.cache_dir)
        makers: dict[str, Callable[[int], peers.Embed]] = {
            "sentence-transformers, torch float32": partial(peers.sentence_transformers, alone.model, torch.float32),
            "sentence-transformers, torch bfloat16": partial(
                peers.sentence_transformers, alone.model, torch.bfloat16
            ),
            "OpenVINO float32": partial(peers.openvino, alone.model, "f32"),
            "OpenVINO bfloat16": partial(peers.openvino, alone.model, "bf16"),
            "ONNX Runtime float32": partial(peers.onnx_runtime, alone.model, Path(cache), int8=False),
            "OpenVINO int8": partial(peers.openvino_int8, alone.model, texts[-300:]),
            "ONNX Runtime int8": partial(peers.onnx_runtime, alone.model, Path(cache), int8=True),
        }
        if dtype != torch.bfloat16:  # without instructions for it, it takes ten times as long
            makers = {name: make for name, make in makers.items() if "bfloat16" not in name}
        rates = {name: sweep(make, texts[: asked.swept]) for name, make in makers.items()}
        best_of = {name: max(curve, key=curve.__getitem__) for name, curve in rates.items()}
        found = {name: peers.side_by_side(make, best_of[name][0]) for name, make in makers.items()}
        sizes = {name: size for name, (_, size) in best_of.items()}
        in_int8 = Alone("embed", MODEL, through.cache_dir, dtype="int8")
        quality = _quality({"docmill": alone, "docmill int8": in_int8}, found, sizes, texts[:300])
        tokens = peers.lengths(alone.model, of_run(texts, 0))
        encoder = limits.Encoder.of(json.loads((alone.model / "config.json").read_bytes()))
        operations = encoder.operations(tokens)

        def side(work: Callable[[list[str]], object], share: int = 1) -> Callable[[], Run]:
            numbers = itertools.count()

            def once() -> Run:
                these = of_run(texts[::share], next(numbers))

                def count() -> int:
                    work(these)
                    return len(these)

                return timed(count)

            return once

        def end_to_end(number: Iterator[int], **options: str) -> Run:
            these = of_run(texts, next(number))
            seconds, _ = through.run(these, "embed", MODEL, **options)
            return Run(len(these), seconds)

        sides: dict[str, Callable[[], Run]] = {
            "docmill": partial(end_to_end, itertools.count()),
            "docmill's engine alone": side(partial(vectors, alone)),
            **{
                name: side(  # those that are slow and will not be the best have fewer texts
                    lambda these, embed=embed, size=sizes[name]: embed(these, size),  # type: ignore[misc]
                    share=4 if "float32" in name else 1,
                )
                for name, embed in found.items()
                if "int8" not in name
            },
            "arithmetic limit": lambda: Run(len(texts), operations / limits.peak(dtype)),
        }
        compared = interleave("embedding", "docs", sides, pairs=asked.pairs)
        lossy: dict[str, Callable[[], Run]] = {
            "docmill int8": partial(end_to_end, itertools.count(), dtype="int8"),
            "docmill's engine alone, int8": side(partial(vectors, in_int8)),
            **{
                name: side(lambda these, embed=embed, size=sizes[name]: embed(these, size))  # type: ignore[misc]
                for name, embed in found.items()
                if "int8" in name
            },
        }
        small = interleave("embedding in int8", "docs", lossy, pairs=asked.pairs)
        counters = alone.engine.counters
        busy = through.busy_shares()
        alone.close()
        in_int8.close()
    best = compared.best(*(name for name in found if "int8" not in name and quality[name]["least"] >= 0.999))
    best_int8 = small.best(*(name for name in found if "int8" in name))
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
        asked.name,
        [compared, small],
        [claims, int8_claims],
        texts=len(texts),
        mean_tokens=round(sum(tokens) / len(tokens), 1),
        side_by_side_and_batch=best_of,
        swept_docs_per_s={
            name: {str(settings): rate for settings, rate in curve.items()} for name, curve in rates.items()
        },
        cosine_with_float32=quality,
        padding=round(counters.padded_tokens / counters.tokens_in - 1, 4),
        busy_share_of_the_engine_alone=alone.busy_share,
        busy_shares_end_to_end=busy,
    )
    with (RESULTS / f"{asked.name}.md").open("a") as page:
        page.write(swept_table(rates))
    if asked.name == "embed":
        _drawn(compared, small, rates)


def swept_table(rates: Mapping[str, Mapping[tuple[int, int], float]]) -> str:
    """Return a table of all settings that were tried."""
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


def _drawn(compared: Comparison, small: Comparison, rates: Mapping[str, Mapping[tuple[int, int], float]]) -> None:
    ours = ("docmill", "docmill's engine alone", "docmill int8", "arithmetic limit")
    levels = {side: one.median(side) for one in (compared, small) for side in one.sides if side in ours}
    curves = {
        name: {float(size): max(curve[workers, size] for workers in WORKERS) for size in BATCH_SIZES}
        for name, curve in rates.items()
    }
    draw(
        "embed", Axes("Embedding with MiniLM, two cores", "texts in a peer's batch", "texts a second"), curves, levels
    )


def _quality(
    ours: Mapping[str, Alone], found: Mapping[str, peers.Embed], sizes: Mapping[str, int], texts: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Cosines with float32, of texts that nobody has to cut."""
    short = [text for text in texts if len(text) < 600]
    exact = found["sentence-transformers, torch float32"](short, 32)
    every = {name: embed(short, sizes[name]) for name, embed in found.items()}
    every |= {name: vectors(alone, short) for name, alone in ours.items()}
    return {name: cosines(found_ones, exact) for name, found_ones in every.items()}


if __name__ == "__main__":
    main()
