"""Compare this tree with another commit of it, end to end: embedding, translation, classify, a null model, a warm
start, and ingest.

Each side runs whole `docmill` commands from its own checkout, with its own store and cache, on texts that it has not
seen. The sides take turns, so that the ratios compare neighbours in time. CPU seconds and peak memory are the
operating system's figures for each finished command and its children.
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
# The command of a checkout. In early commits `docmill` is a module.
START = "try:\n    from docmill.worker.cli import main\nexcept ImportError:\n    from docmill import main\nmain()"
HERE = "this tree"


@dataclass(frozen=True)
class Checkout:
    """A tree of docmill's source, and the folder of its home."""

    source: Path
    home: Path

    def spell(self, name: str, task: str, source: Path, *options: str) -> list[str]:
        """Return the arguments of `run` or `enqueue`. In early commits the task was an option."""
        if (self.source / "worker" / "cli" / "tasks.py").exists():
            return [name, task, str(source), *options]
        return [name, str(source), "--task", task, *options]

    def run(self, *arguments: str, database_url: str | None = None) -> tuple[float, float, float]:
        """Return wall seconds, CPU seconds and peak memory in MB of one command. Raises SystemExit if it fails."""
        # Modules are compiled once, as those of an installed package are.
        left_out = ("DOCMILL_", "PYTHONDONTWRITEBYTECODE")
        environment = {key: value for key, value in os.environ.items() if not key.startswith(left_out)}
        environment |= {"DOCMILL_HOME": str(self.home), "PYTHONPATH": str(self.source)}
        if database_url is not None:
            environment["DOCMILL_DATABASE_URL"] = database_url
        command = [sys.executable, "-P", "-c", START, *arguments]
        began = time.perf_counter()
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(command, cwd=self.home, env=environment, stdout=said, stderr=said)
            _, status, used = os.wait4(process.pid, 0)  # with the processes that it started and waited for
            seconds = time.perf_counter() - began
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                said.seek(0)
                raise SystemExit(f"docmill {' '.join(arguments)} in {self.source}: {said.read()[-2000:].decode()}")
        return seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="the commit to compare with; a work of 0 texts is left out")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--embeddings", type=int, default=3_000)
    parser.add_argument("--translations", type=int, default=400)
    parser.add_argument("--classified", type=int, default=3_000)
    parser.add_argument("--started", type=int, default=8, help="texts of a short run: it measures the start")
    parser.add_argument("--carried", type=int, default=20_000)
    parser.add_argument("--ingested", type=int, default=60_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        sides = {
            HERE: _checkout(ROOT, folder / "here"),
            arguments.commit: _checkout(stack.enter_context(_tree(arguments.commit, folder)), folder / "there"),
        }
        embed = ("run", "embed")
        translate = ("run", "translate", "--from", "fr", "--to", "en")
        works = [
            ("embedding", embed, arguments.embeddings),
            ("translation", translate, arguments.translations),
            ("classify", ("run", "classify"), arguments.classified),
            ("warm start", embed, arguments.started),
            ("null model", (*embed, "--model", "null"), arguments.carried),
        ]
        compared = [
            _compared(question, command, sides, folder, count, arguments.pairs)
            for question, command, count in works
            if count
        ]
        if POSTGRES_URL and arguments.ingested:
            compared.append(_ingested(sides, folder, arguments.ingested, arguments.pairs))
    claims = [[Claim(f"this tree ÷ {arguments.commit}", HERE, arguments.commit, 0.97)] for _ in compared]
    write("releases", compared, claims, commit=arguments.commit)


def _compared(
    question: str, command: Sequence[str], sides: Mapping[str, Checkout], folder: Path, count: int, pairs: int
) -> Comparison:
    texts = _texts("translate" in command)
    numbers = _numbers(sides)

    def work(side: Checkout) -> Run:
        source = _written(folder, texts, count, next(numbers[side.home]))
        name, task, *options = command
        seconds, cpu_s, peak = side.run(*side.spell(name, task, source, *options, "--corpus", source.stem))
        source.unlink()
        return Run(count, seconds, {"cpu_s": round(cpu_s, 2), "peak_mb": round(peak)})

    return interleave(question, "docs", _works(sides, work), pairs=pairs)


def _ingested(sides: Mapping[str, Checkout], folder: Path, count: int, pairs: int) -> Comparison:
    texts = _texts(french=False)
    numbers = _numbers(sides)
    with ExitStack() as stack:
        urls = {side.home: stack.enter_context(fresh_postgres(empty=True)) for side in sides.values()}
        for side in sides.values():
            side.run("db", "upgrade", database_url=urls[side.home])  # each side has a schema of its own

        def work(side: Checkout) -> Run:
            source = _written(folder, texts, count, next(numbers[side.home]))
            command = side.spell("enqueue", "embed", source, "--model", "null", "--corpus", source.stem)
            seconds, cpu_s, peak = side.run(*command, database_url=urls[side.home])
            source.unlink()
            return Run(count, seconds, {"cpu_s": round(cpu_s, 2), "peak_mb": round(peak)})

        return interleave("ingest into PostgreSQL", "docs", _works(sides, work), pairs=pairs)


def _numbers(sides: Mapping[str, Checkout]) -> dict[Path, Iterator[int]]:
    """Return the numbers of each side's runs, by its home: both sides of a pair get the same texts."""
    return {side.home: itertools.count() for side in sides.values()}


def _works(sides: Mapping[str, Checkout], work: Callable[[Checkout], Run]) -> dict[str, Callable[[], Run]]:
    return {name: partial(work, side) for name, side in sides.items()}


def _texts(french: bool) -> list[str]:
    if french:
        return [json.loads(line)["text"] for line in FRENCH.read_text().splitlines()]
    return paragraphs(3_000)


def _written(folder: Path, texts: Sequence[str], count: int, number: int) -> Path:
    """Return a file of `count` texts that no run with another number had."""
    source = folder / f"texts-{number}.jsonl"
    with source.open("w") as file:
        for place in range(count):
            text = f"{texts[place % len(texts)]} ({number}.{place})"
            file.write(json.dumps({"id": str(place), "text": text}) + "\n")
    return source


def _checkout(source: Path, home: Path) -> Checkout:
    home.mkdir()
    return Checkout(source, home)


@contextmanager
def _tree(commit: str, folder: Path) -> Iterator[Path]:
    """Yield a folder with the source of a commit."""
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
