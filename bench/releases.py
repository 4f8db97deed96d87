"""Compare this tree with another commit, end to end.

The tasks are embedding, translation, classification, a null model, a warm start, and ingest. Each side runs whole
`docmill` commands from its own checkout, with its own store and cache, on texts that it has not seen. The sides take
turns, so that each ratio compares two runs that are close in time. CPU seconds and peak memory are the operating
system's figures for each finished command and its children. A task with 0 texts is omitted.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.manpages import paragraphs
from bench.pairs import Claim, Comparison, Run, interleave, write
from bench.stores import POSTGRES_URL, fresh_postgres

ROOT = Path(__file__).resolve().parent.parent
FRENCH = ROOT / "examples" / "french.jsonl"
# Runs the command line of a checkout. In early commits, `docmill` is a module.
START = "try:\n    from docmill.worker.cli import main\nexcept ImportError:\n    from docmill import main\nmain()"
HERE = "this tree"


@dataclass(frozen=True)
class Checkout:
    """A tree of docmill's source, and its home folder."""

    source: Path
    home: Path

    def spell(self, name: str, task: str, source: Path, *options: str) -> list[str]:
        """Return the arguments of `run` or `enqueue`. In early commits, the task was an option."""
        if (self.source / "worker" / "cli" / "tasks.py").exists():
            return [name, task, str(source), *options]
        return [name, str(source), "--task", task, *options]

    def run(self, *arguments: str, database_url: str | None = None) -> tuple[float, float, float]:
        """Return wall seconds, CPU seconds and peak memory in MB of one command. Raises SystemExit if it fails."""
        # Without PYTHONDONTWRITEBYTECODE, modules are compiled only once, like those of an installed package.
        removed = ("DOCMILL_", "PYTHONDONTWRITEBYTECODE")
        environment = {key: value for key, value in os.environ.items() if not key.startswith(removed)}
        environment |= {"DOCMILL_HOME": str(self.home), "PYTHONPATH": str(self.source)}
        if database_url is not None:
            environment["DOCMILL_DATABASE_URL"] = database_url
        command = [sys.executable, "-P", "-c", START, *arguments]
        began = time.perf_counter()
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(command, cwd=self.home, env=environment, stdout=output, stderr=output)
            _, status, used = os.wait4(process.pid, 0)  # includes the children that it waited for
            seconds = time.perf_counter() - began
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                output.seek(0)
                raise SystemExit(f"docmill {' '.join(arguments)} in {self.source}: {output.read()[-2000:].decode()}")
        return seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="the commit to compare with")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--embeddings", type=int, default=3_000)
    parser.add_argument("--translations", type=int, default=400)
    parser.add_argument("--classified", type=int, default=3_000)
    parser.add_argument("--started", type=int, default=8, help="texts of the warm start, a short run")
    parser.add_argument("--carried", type=int, default=20_000)
    parser.add_argument("--ingested", type=int, default=60_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        tree = stack.enter_context(_add_worktree(options.commit, folder))
        sides = {
            HERE: _make_checkout(ROOT, folder / "here"),
            options.commit: _make_checkout(tree, folder / "there"),
        }
        embed = ("run", "embed")
        translate = ("run", "translate", "--from", "fr", "--to", "en")
        tasks = [
            ("embedding", embed, options.embeddings),
            ("translation", translate, options.translations),
            ("classify", ("run", "classify"), options.classified),
            ("warm start", embed, options.started),
            ("null model", (*embed, "--model", "null"), options.carried),
        ]
        comparisons = [
            _compare(question, command, sides, folder, count, options.pairs)
            for question, command, count in tasks
            if count
        ]
        if POSTGRES_URL and options.ingested:
            comparisons.append(_compare_ingests(sides, folder, options.ingested, options.pairs))
    claims = [[Claim(f"this tree ÷ {options.commit}", HERE, options.commit, 0.97)] for _ in comparisons]
    write("releases", comparisons, claims, commit=options.commit)


def _compare(
    question: str, command: Sequence[str], sides: Mapping[str, Checkout], folder: Path, count: int, pairs: int
) -> Comparison:
    """Compare the sides on a `docmill` command over `count` texts."""
    texts = _read_texts("translate" in command)
    numbers = _count_runs(sides)

    def work(side: Checkout) -> Run:
        source = _write_source(folder, texts, count, next(numbers[side.home]))
        name, task, *options = command
        seconds, cpu_s, peak_mb = side.run(*side.spell(name, task, source, *options, "--corpus", source.stem))
        source.unlink()
        return Run(count, seconds, {"cpu_s": round(cpu_s, 2), "peak_mb": round(peak_mb)})

    return interleave(question, "docs", _bind(sides, work), pairs=pairs)


def _compare_ingests(sides: Mapping[str, Checkout], folder: Path, count: int, pairs: int) -> Comparison:
    """Compare the sides on `docmill enqueue` into PostgreSQL."""
    texts = _read_texts(french=False)
    numbers = _count_runs(sides)
    with ExitStack() as stack:
        urls = {side.home: stack.enter_context(fresh_postgres(empty=True)) for side in sides.values()}
        for side in sides.values():
            side.run("db", "upgrade", database_url=urls[side.home])  # the commits may have different schemas

        def work(side: Checkout) -> Run:
            source = _write_source(folder, texts, count, next(numbers[side.home]))
            command = side.spell("enqueue", "embed", source, "--model", "null", "--corpus", source.stem)
            seconds, cpu_s, peak_mb = side.run(*command, database_url=urls[side.home])
            source.unlink()
            return Run(count, seconds, {"cpu_s": round(cpu_s, 2), "peak_mb": round(peak_mb)})

        return interleave("ingest into PostgreSQL", "docs", _bind(sides, work), pairs=pairs)


def _count_runs(sides: Mapping[str, Checkout]) -> dict[Path, Iterator[int]]:
    """Return a counter of the runs of each side, by its home. The number of a run determines its texts."""
    return {side.home: itertools.count() for side in sides.values()}


def _bind(sides: Mapping[str, Checkout], work: Callable[[Checkout], Run]) -> dict[str, Callable[[], Run]]:
    """Return, by side, a function that runs the work on that side."""
    return {name: partial(work, side) for name, side in sides.items()}


def _read_texts(french: bool) -> list[str]:
    if french:
        return [json.loads(line)["text"] for line in FRENCH.read_text().splitlines()]
    return paragraphs(3_000)


def _write_source(folder: Path, texts: Sequence[str], count: int, number: int) -> Path:
    """Write a file of `count` texts that are different for each number, and return its path."""
    source = folder / f"texts-{number}.jsonl"
    with source.open("w") as file:
        for place in range(count):
            text = f"{texts[place % len(texts)]} ({number}.{place})"
            file.write(json.dumps({"id": str(place), "text": text}) + "\n")
    return source


def _make_checkout(source: Path, home: Path) -> Checkout:
    home.mkdir()
    return Checkout(source, home)


@contextmanager
def _add_worktree(commit: str, folder: Path) -> Iterator[Path]:
    """Yield a folder with the source of a commit, and remove it when the block ends."""
    tree = folder / "tree"
    subprocess.run(
        ["git", "worktree", "add", "--detach", str(tree), commit], cwd=ROOT, check=True, capture_output=True
    )
    try:
        yield tree
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True, capture_output=True)


if __name__ == "__main__":
    main()
