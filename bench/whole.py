"""What the road to the device and back takes: docmill end to end beside its engine alone, on short and long jobs.

A job's start and its end cost the same whatever its length; each document costs reading, storing and writing. The
engine alone gets the texts in memory and leaves its results there.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench.embed import MODEL, Alone, of_run
from bench.manpages import paragraphs
from bench.mill import Mill, mill
from bench.pairs import Claim, Run, interleave, timed, write
from tasks.backends.accelerator import quiet

WHOLE, ENGINE = "docmill, Redis and PostgreSQL", "its engine alone"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, nargs="+", default=[1000, 4000, 12_000], help="of each length of job")
    parser.add_argument("--pairs", type=int, default=5)
    asked = parser.parse_args()
    texts = paragraphs(max(asked.texts))
    numbers = itertools.count()

    def side(work: Callable[[list[str]], object], count: int) -> Run:
        these = [f"{next(numbers)} {text}" for text in of_run(texts[:count], 0)]

        def counted() -> int:
            work(these)
            return len(these)

        return timed(counted)

    with tempfile.TemporaryDirectory() as cache, quiet(), mill(Path(cache) / "mill", lane="embed") as through:
        alone = Alone(Path(cache))
        compared = [
            interleave(
                f"a job of {count:,} texts",
                "docs",
                {WHOLE: partial(side, partial(_run, through), count), ENGINE: partial(side, alone.embed, count)},
                pairs=asked.pairs,
            )
            for count in asked.texts
        ]
        busy = through.busy_shares()
        alone.engine.close()
    claims = [[Claim("whole path ÷ engine", WHOLE, ENGINE, 0.97)] for _ in compared]
    write("whole", compared, claims, busy_shares_end_to_end=busy)


def _run(through: Mill, texts: list[str]) -> None:
    through.run(texts, "embed", MODEL)


if __name__ == "__main__":
    main()
