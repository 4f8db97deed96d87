"""Find near duplicates: documents a second beside the library alone, and precision and recall on planted copies.

Each round reads the texts into a new store, which is not measured, and searches it twice: the second search finds
nothing new. The plain script holds all texts in memory, signs them with rensa, and takes its index's candidates with
an estimated similarity of at least the threshold. The truth compares every pair by a product of sparse matrices.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import rensa
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from bench.pairs import RESULTS, described, machine, peak_mb
from bench.stores import fresh_postgres, fresh_sqlite
from docmill.features.near_duplicates import clusters, report
from docmill.features.near_duplicates.components import Components
from docmill.features.near_duplicates.methods import ByText
from docmill.storage.core.database import Database
from docmill.storage.core.specs import Spec
from docmill.storage.ingest import ingest
from docmill.storage.ingest.chunks import ChunkBuilder
from docmill.storage.steps import jobs
from docmill.storage.steps.jobs import JobRequest
from docmill.storage.steps.steps import StepRequest
from docmill.tasks.kinds import STORED_KINDS as KINDS

EXAMPLES = Path(__file__).resolve().parent.parent / "examples" / "descriptions.jsonl"
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2)
CHUNK = 8_000
SPEC = Spec("embed", "null", "null")


def read(source: Path) -> list[str]:
    """Return the texts of JSON lines, which may be gzipped."""
    opened = gzip.open if source.suffix == ".gz" else open
    with opened(source, "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def store(database: Database, texts: Sequence[str]) -> int:
    """Read texts into a corpus. Return its id."""
    request = JobRequest("corpus", "bench", (StepRequest("embed", SPEC),))
    job = jobs.open_job(database, request)
    for first in range(0, len(texts), CHUNK):
        chunk = ChunkBuilder()
        for seq, text in enumerate(texts[first : first + CHUNK], first):
            chunk.put(str(seq), text, {}, (), seq)
        ingest.add(database, job, chunk.chunk())
    ingest.end(database, job)
    return job.corpus_id


def ours(url: str, texts: Sequence[str]) -> dict[str, float]:
    """Return the seconds of a first and of a second search."""
    database = Database(url, kinds=KINDS)
    corpus_id = store(database, texts)
    found = {}
    for name in ("first", "again"):
        began = time.perf_counter()
        clusters.find(database, corpus_id, ByText())
        found[name] = time.perf_counter() - began
    database.close()
    return found


def alone(texts: Sequence[str]) -> float:
    """Return the seconds of a plain script around the library."""
    began = time.perf_counter()
    method = ByText()
    index = rensa.RMinHashLSH(method.threshold, 126, 21)
    sketches = rensa.RMinHash.from_token_sets([method.shingles(text) for text in texts], 126, method.seed)
    components = Components(len(texts))
    for place, sketch in enumerate(sketches):
        for other in index.query(sketch):
            if sketch.jaccard(sketches[other]) >= method.threshold:
                components.join(place, other)
        index.insert(place, sketch)
    components.roots(np.arange(len(texts)))
    return time.perf_counter() - began


def planted(texts: Sequence[str], seed: int = 1) -> tuple[list[str], list[tuple[int, int, float]]]:
    """Return texts with a copy of each for each share of edited words, and the pairs (original, copy, share)."""
    chance = random.Random(seed)
    words = [word for text in texts for word in text.split()]
    made, pairs = list[str](), list[tuple[int, int, float]]()
    for text in texts:
        original = len(made)
        made.append(text)
        for share in SHARES:
            copy = text.split()
            places = chance.sample(range(len(copy)), max(1, round(share * len(copy))))
            for place in sorted(places, reverse=True):
                new = chance.choice(words)
                copy[place : place + 1] = chance.choice([[new], [], [copy[place], new]])
            pairs.append((original, len(made), share))
            made.append(" ".join(copy))
    return made, pairs


def similarities(texts: Sequence[str], threshold: float) -> Iterator[tuple[int, int]]:
    """Yield all pairs of places, the lower first, whose Jaccard similarity is at least the threshold."""
    numbers: dict[str, int] = {}
    ids = count()
    sets = [[numbers.setdefault(one, next(ids)) for one in ByText().shingles(text)] for text in texts]
    starts = np.cumsum([0, *map(len, sets)])
    columns = np.concatenate([np.array(one, np.int64) for one in sets])
    matrix = sparse.csr_matrix((np.ones(len(columns), np.int32), columns, starts))
    sizes = np.diff(starts)
    for first in range(0, len(texts), 1_000):
        common = (matrix[first : first + 1_000] @ matrix.T).tocoo()
        rows = common.row + first
        union = sizes[rows] + sizes[common.col] - common.data
        near = (rows < common.col) & (common.data >= threshold * union)
        yield from zip(rows[near].tolist(), common.col[near].tolist(), strict=True)


def quality(url: str, texts: Sequence[str], threshold: float) -> dict[str, Any]:
    """Return recall and precision of the pairs within clusters, and of the copies by their share of edited words."""
    made, copies = planted(texts)
    pairs = [*similarities(made, threshold)]
    rows, columns = np.array(pairs).T
    graph = sparse.csr_matrix((np.ones(len(pairs)), (rows, columns)), shape=(len(made), len(made)))
    true = connected_components(graph, directed=False)[1]
    database = Database(url, kinds=KINDS)
    corpus_id = store(database, made)
    found = clusters.find(database, corpus_id, ByText(threshold))
    first = {int(row["id"]): int(row["first"]) for row in report.read_members(database, corpus_id)}
    database.close()
    near = {*pairs}
    together = sum(first.get(one, -1) == first.get(other, -2) for one, other in pairs)
    false = sum(true[one] != true[other] for one, other in first.items())
    of_share = Counter(share for one, other, share in copies if (one, other) in near)
    found_of = Counter(
        share for one, other, share in copies if (one, other) in near and first.get(one, -1) == first.get(other, -2)
    )
    return {
        "threshold": threshold,
        "texts": len(made),
        "pairs above the threshold": len(pairs),
        "of these in one cluster": round(together / len(pairs), 5),
        "documents in a cluster of others": int(false),
        "pairs compared exactly": found.compared,
        "copies above the threshold, and found, by edited words": {
            f"{share:.0%}": [of_share[share], found_of[share]] for share in SHARES
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--source", type=Path, default=EXAMPLES, help="JSON lines with a text, may be gzipped")
    parser.add_argument("--documents", type=int, help="the first N for the speed")
    parser.add_argument("--planted", type=int, default=2_000, help="texts that get copies")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--postgresql", action="store_true", help="measure the speed on PostgreSQL, too")
    parser.add_argument("--memory", type=int, metavar="N", help="only search N random texts, for the peak of memory")
    asked = parser.parse_args()
    texts = read(asked.source)[: asked.documents]
    with tempfile.TemporaryDirectory() as folder:
        if asked.memory:
            print(json.dumps(memory(Path(folder), texts, asked.memory)))
            return
        speeds = measured(Path(folder), texts, asked.rounds, postgresql=asked.postgresql)
        found = []
        for threshold in (0.8, 0.6):
            with fresh_sqlite(Path(folder)) as url:
                found.append(quality(url, texts[: asked.planted], threshold))
    write({"documents": len(texts), "documents/s": speeds, "quality": found})


def measured(folder: Path, texts: Sequence[str], rounds: int, *, postgresql: bool) -> dict[str, float]:
    """Return the medians of documents a second. The sides take turns."""
    seconds: dict[str, list[float]] = {}
    for _ in range(rounds):
        seconds.setdefault("rensa alone", []).append(alone(texts))
        with fresh_sqlite(folder) as url:
            for name, one in ours(url, texts).items():
                seconds.setdefault(f"SQLite, {name}", []).append(one)
        if postgresql:
            with fresh_postgres() as url:
                for name, one in ours(url, texts).items():
                    seconds.setdefault(f"PostgreSQL, {name}", []).append(one)
    return {name: round(len(texts) / statistics.median(all_of)) for name, all_of in seconds.items()}


def memory(folder: Path, texts: Sequence[str], n: int) -> dict[str, float]:
    """Return the peak of this process before and after a search of `n` texts of random words, in MB."""
    words = [word for text in texts[:500] for word in text.split()]
    chance = random.Random(1)
    with fresh_sqlite(folder) as url:
        database = Database(url, kinds=KINDS)
        for first in range(0, n, CHUNK):
            some = [" ".join(chance.choices(words, k=40)) for _ in range(min(CHUNK, n - first))]
            corpus_id = append(database, some, first)
        before = peak_mb()
        began = time.perf_counter()
        clusters.find(database, corpus_id, ByText())
        return {"before": before, "after": peak_mb(), "seconds": round(time.perf_counter() - began)}


def append(database: Database, texts: Sequence[str], first: int) -> int:
    """Add texts to the corpus. Return its id."""
    job = jobs.open_job(database, JobRequest("corpus", str(first), (StepRequest("embed", SPEC),)))
    chunk = ChunkBuilder()
    for seq, text in enumerate(texts, first):
        chunk.put(str(seq), text, {}, (), seq)
    ingest.add(database, job, chunk.chunk())
    return job.corpus_id


def write(facts: dict[str, Any]) -> None:
    """Write the results, and print them as a page."""
    (RESULTS / "dedup.json").write_text(json.dumps({"machine": machine(), **facts}, indent=1) + "\n")
    base = facts["documents/s"]["rensa alone"]
    lines = ["# dedup", "", described(machine()), "", f"{facts['documents']:,} documents.", ""]
    lines += ["| | documents/s | ratio |", "| --- | --: | --: |"]
    lines += [f"| {name} | {rate:,} | {rate / base:.2f} |" for name, rate in facts["documents/s"].items()]
    lines += ["", "| | " + " | ".join(str(one["threshold"]) for one in facts["quality"]) + " |"]
    lines += ["| --- |" + " --: |" * len(facts["quality"])]
    for name in [*facts["quality"][0]][1:]:
        lines.append(f"| {name} | " + " | ".join(str(one[name]) for one in facts["quality"]) + " |")
    (RESULTS / "dedup.md").write_text("\n".join(lines) + "\n")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
