"""Compare docmill end to end with its engine alone, on the same texts.

A job's start and its end cost the same whatever its length; each document costs reading, storing and writing. The
engine alone gets the texts in memory and leaves its results there. Embedding with MiniLM takes little for a
document; a translation by a model of Marian's base size takes some five times as long.
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
        "--short-pairs", type=int, default=11, help="of jobs of fewer than 10,000, which chance moves more"
    )
    parser.add_argument("--name", default="whole", help="of the results' files")
    asked = parser.parse_args()

    def pairs_of(count: int) -> int:
        return int(asked.pairs if count >= LONG else asked.short_pairs)

    compared: list[Comparison] = []
    busy: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for counts, dtype in ((asked.texts, "auto"), (asked.int8, "int8")):
            if counts:
                compared += both(folder, "embed", MODEL, counts, pairs_of, {"dtype": dtype}, busy)
                written(asked.name, compared, busy)
        if asked.translations:
            marian = str(translate.base_model(folder / "marian-base", translate.TOKENIZERS["translate"]))
            options = {"beams": 1, "dtype": "int8"}
            compared += both(folder, "translate", marian, asked.translations, pairs_of, options, busy)
            written(asked.name, compared, busy)


def written(name: str, compared: Sequence[Comparison], busy: dict[str, list[float]]) -> None:
    claims = [[Claim("whole path ÷ engine", WHOLE, ENGINE, 0.97)] for _ in compared]
    write(name, compared, claims, busy_shares_end_to_end=busy)


def both(
    folder: Path,
    task: str,
    model: str,
    counts: Sequence[int],
    pairs_of: Callable[[int], int],
    options: dict[str, Any],
    busy: dict[str, list[float]],
) -> list[Comparison]:
    """A comparison for each number of texts; what the worker says of its device goes into ``busy``."""
    name = task if options["dtype"] == "auto" else f"{task} in {options['dtype']}"
    texts = paragraphs(max(counts))
    numbers = itertools.count()

    def unseen(count: int) -> list[str]:
        number = next(numbers)
        return [f"{number} {place} {text}" for place, text in enumerate(texts[:count])]

    with ExitStack() as stack:
        stack.enter_context(quiet())
        through = stack.enter_context(fleet(folder / name.replace(" ", "-"), lane=task))
        engine = Alone(task, model, through.cache_dir, **options)
        stack.callback(engine.close)

        def whole(count: int) -> Run:
            seconds, _ = through.run(unseen(count), task, model, **options)
            return Run(count, seconds)

        def alone(count: int) -> Run:
            these = unseen(count)
            return timed(lambda: len(engine.run(these)))

        found = [
            interleave(
                f"{name}, a job of {count:,} texts",
                "docs",
                {WHOLE: partial(whole, count), ENGINE: partial(alone, count)},
                pairs=pairs_of(count),
            )
            for count in counts
        ]
        busy[name] = through.busy_shares()
    return found


if __name__ == "__main__":
    main()
