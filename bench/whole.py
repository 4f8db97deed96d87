"""Compare docmill end to end with its engine alone, on the same texts.

The start and the end of a job take the same time whatever its length. Reading, storing and writing take time for each
document. The engine alone gets the texts in memory and leaves its results there. Embedding with MiniLM takes little
time for a document. A translation by a model of Marian's base size takes about five times as long.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from bench import translate
from bench.alone import Alone
from bench.embed import MODEL
from bench.fleet import fleet
from bench.manpages import paragraphs
from bench.pairs import Claim, Comparison, Run, interleave, timed, write
from docmill.tasks.backends.accelerator import quiet

LONG = 10_000  # texts
WHOLE, ENGINE = "docmill, Redis and PostgreSQL", "its engine alone"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, nargs="*", default=[4000, 16_000], help="of each job that embeds")
    parser.add_argument("--int8", type=int, nargs="*", default=[16_000], help="of each job that embeds in int8")
    parser.add_argument("--translations", type=int, nargs="*", default=[640], help="of each job that translates")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument(
        "--short-pairs", type=int, default=11, help="of jobs with fewer than 10,000 texts, whose times vary more"
    )
    parser.add_argument("--name", default="whole", help="of the result files")
    arguments = parser.parse_args()

    def choose_pairs(count: int) -> int:
        return int(arguments.pairs if count >= LONG else arguments.short_pairs)

    comparisons: list[Comparison] = []
    busy_shares: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for counts, dtype in ((arguments.texts, "auto"), (arguments.int8, "int8")):
            if counts:
                comparisons += compare(folder, "embed", MODEL, counts, choose_pairs, {"dtype": dtype}, busy_shares)
                write_results(arguments.name, comparisons, busy_shares)
        if arguments.translations:
            marian = str(translate.make_base_model(folder / "marian-base", translate.TOKENIZERS["translate"]))
            options = {"beams": 1, "dtype": "int8"}
            comparisons += compare(
                folder, "translate", marian, arguments.translations, choose_pairs, options, busy_shares
            )
            write_results(arguments.name, comparisons, busy_shares)


def write_results(name: str, comparisons: Sequence[Comparison], busy_shares: dict[str, list[float]]) -> None:
    claims = [[Claim("whole path ÷ engine", WHOLE, ENGINE, 0.97)] for _ in comparisons]
    write(name, comparisons, claims, busy_shares_end_to_end=busy_shares)


def compare(
    folder: Path,
    task: str,
    model: str,
    counts: Sequence[int],
    choose_pairs: Callable[[int], int],
    options: dict[str, Any],
    busy_shares: dict[str, list[float]],
) -> list[Comparison]:
    """Return a comparison for each number of texts. Add the busy shares of the worker's device to `busy_shares`."""
    name = task if options["dtype"] == "auto" else f"{task} in {options['dtype']}"
    base = paragraphs(max(counts))
    runs = itertools.count()

    def make_unseen_texts(count: int) -> list[str]:
        run = next(runs)
        return [f"{run} {number} {text}" for number, text in enumerate(base[:count])]

    with ExitStack() as stack:
        stack.enter_context(quiet())
        installation = stack.enter_context(fleet(folder / name.replace(" ", "-"), lane=task))
        engine = Alone(task, model, installation.cache_dir, **options)
        stack.callback(engine.close)

        def run_end_to_end(count: int) -> Run:
            seconds, _ = installation.run(make_unseen_texts(count), task, model, **options)
            return Run(count, seconds)

        def run_engine(count: int) -> Run:
            texts = make_unseen_texts(count)
            return timed(lambda: len(engine.run(texts)))

        comparisons = [
            interleave(
                f"{name}, a job of {count:,} texts",
                "docs",
                {WHOLE: partial(run_end_to_end, count), ENGINE: partial(run_engine, count)},
                pairs=choose_pairs(count),
            )
            for count in counts
        ]
        busy_shares[name] = installation.busy_shares()
    return comparisons


if __name__ == "__main__":
    main()
