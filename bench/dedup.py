"""Measure the search for near duplicates: speed beside a script on rensa, and precision and recall on planted copies.

Each round reads the texts into a new store, which is not timed, and searches it twice. The second search has no new
documents. The script keeps all texts in memory, computes their signatures with rensa, and takes the candidates of its
index whose estimated similarity is at least the threshold. For precision and recall, a product of sparse matrices
gives the exact similarity of every pair.
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


def read_texts(source: Path) -> list[str]:
    """Return the texts of a file of JSON lines, which may be gzipped."""
    open_file = gzip.open if source.suffix == ".gz" else open
    with open_file(source, "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def store(database: Database, texts: Sequence[str]) -> int:
    """Read texts into a new corpus. Return its id."""
    request = JobRequest("corpus", "bench", (StepRequest("embed", SPEC),))
    job = jobs.open_job(database, request)
    for first in range(0, len(texts), CHUNK):
        chunk = ChunkBuilder()
        for seq, text in enumerate(texts[first : first + CHUNK], first):
            chunk.put(str(seq), text, {}, (), seq)
        ingest.add(database, job, chunk.chunk())
    ingest.end(database, job)
    return job.corpus_id


def time_docmill(url: str, texts: Sequence[str]) -> dict[str, float]:
    """Return the seconds of a first and of a second search."""
    database = Database(url, kinds=KINDS)
    corpus_id = store(database, texts)
    seconds = {}
    for name in ("first", "again"):
        began = time.perf_counter()
        clusters.find(database, corpus_id, ByText())
        seconds[name] = time.perf_counter() - began
    database.close()
    return seconds


def time_rensa(texts: Sequence[str]) -> float:
    """Return the seconds of a script that uses rensa directly."""
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


def plant_copies(texts: Sequence[str], seed: int = 1) -> tuple[list[str], list[tuple[int, int, float]]]:
    """Return the texts, each followed by an edited copy for each share of edited words, and all copies.

    A copy is the place of the original, the place of the copy, and the share of edited words.
    """
    generator = random.Random(seed)
    words = [word for text in texts for word in text.split()]
    with_copies, copies = list[str](), list[tuple[int, int, float]]()
    for text in texts:
        original = len(with_copies)
        with_copies.append(text)
        for share in SHARES:
            edited = text.split()
            places = generator.sample(range(len(edited)), max(1, round(share * len(edited))))
            for place in sorted(places, reverse=True):
                new = generator.choice(words)
                edited[place : place + 1] = generator.choice([[new], [], [edited[place], new]])
            copies.append((original, len(with_copies), share))
            with_copies.append(" ".join(edited))
    return with_copies, copies


def find_similar_pairs(texts: Sequence[str], threshold: float) -> Iterator[tuple[int, int]]:
    """Yield the places of all pairs of texts, the lower first, whose Jaccard similarity is at least the threshold."""
    ids: dict[str, int] = {}
    next_id = count()
    sets = [[ids.setdefault(shingle, next(next_id)) for shingle in ByText().shingles(text)] for text in texts]
    starts = np.cumsum([0, *map(len, sets)])
    columns = np.concatenate([np.array(shingle_ids, np.int64) for shingle_ids in sets])
    matrix = sparse.csr_matrix((np.ones(len(columns), np.int32), columns, starts))
    sizes = np.diff(starts)
    for first in range(0, len(texts), 1_000):
        common = (matrix[first : first + 1_000] @ matrix.T).tocoo()
        rows = common.row + first
        union = sizes[rows] + sizes[common.col] - common.data
        near = (rows < common.col) & (common.data >= threshold * union)
        yield from zip(rows[near].tolist(), common.col[near].tolist(), strict=True)


def measure_quality(url: str, texts: Sequence[str], threshold: float) -> dict[str, Any]:
    """Return the recall and precision of the search, and its recall of copies by their share of edited words."""
    with_copies, copies = plant_copies(texts)
    pairs = [*find_similar_pairs(with_copies, threshold)]
    rows, columns = np.array(pairs).T
    graph = sparse.csr_matrix((np.ones(len(pairs)), (rows, columns)), shape=(len(with_copies), len(with_copies)))
    true_clusters = connected_components(graph, directed=False)[1]
    database = Database(url, kinds=KINDS)
    corpus_id = store(database, with_copies)
    search = clusters.find(database, corpus_id, ByText(threshold))
    # A cluster is known by its first document.
    first_of = {int(row["id"]): int(row["first"]) for row in report.read_members(database, corpus_id)}
    database.close()

    def are_together(left: int, right: int) -> bool:
        return left in first_of and first_of[left] == first_of.get(right)

    near = {*pairs}
    together = sum(are_together(left, right) for left, right in pairs)
    misplaced = sum(true_clusters[place] != true_clusters[first] for place, first in first_of.items())
    near_copies = [(original, copy, share) for original, copy, share in copies if (original, copy) in near]
    n_near = Counter(share for _, _, share in near_copies)
    n_found = Counter(share for original, copy, share in near_copies if are_together(original, copy))
    return {
        "threshold": threshold,
        "texts": len(with_copies),
        "pairs above the threshold": len(pairs),
        "of these in one cluster": round(together / len(pairs), 5),
        "documents in a cluster of others": int(misplaced),
        "pairs compared exactly": search.compared,
        "copies above the threshold, and found, by edited words": {
            f"{share:.0%}": [n_near[share], n_found[share]] for share in SHARES
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--source", type=Path, default=EXAMPLES, help="JSON lines with a text, may be gzipped")
    parser.add_argument("--documents", type=int, help="measure the speed on the first N texts")
    parser.add_argument("--planted", type=int, default=2_000, help="texts that get copies")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--postgresql", action="store_true", help="also measure the speed on PostgreSQL")
    parser.add_argument("--memory", type=int, metavar="N", help="only search N random texts, for the peak memory")
    options = parser.parse_args()
    texts = read_texts(options.source)[: options.documents]
    with tempfile.TemporaryDirectory() as folder:
        if options.memory:
            print(json.dumps(measure_memory(Path(folder), texts, options.memory)))
            return
        speeds = measure_speeds(Path(folder), texts, options.rounds, postgresql=options.postgresql)
        quality = []
        for threshold in (0.8, 0.6):
            with fresh_sqlite(Path(folder)) as url:
                quality.append(measure_quality(url, texts[: options.planted], threshold))
    write_results({"documents": len(texts), "documents/s": speeds, "quality": quality})


def measure_speeds(folder: Path, texts: Sequence[str], rounds: int, *, postgresql: bool) -> dict[str, float]:
    """Return the median documents per second of each side. The sides take turns."""
    rounds_s: dict[str, list[float]] = {}
    for _ in range(rounds):
        rounds_s.setdefault("rensa alone", []).append(time_rensa(texts))
        with fresh_sqlite(folder) as url:
            for name, seconds in time_docmill(url, texts).items():
                rounds_s.setdefault(f"SQLite, {name}", []).append(seconds)
        if postgresql:
            with fresh_postgres() as url:
                for name, seconds in time_docmill(url, texts).items():
                    rounds_s.setdefault(f"PostgreSQL, {name}", []).append(seconds)
    return {name: round(len(texts) / statistics.median(side_s)) for name, side_s in rounds_s.items()}


def measure_memory(folder: Path, texts: Sequence[str], n: int) -> dict[str, float]:
    """Search `n` texts of random words. Return the peak memory before and after it, in MB, and its seconds."""
    words = [word for text in texts[:500] for word in text.split()]
    generator = random.Random(1)
    with fresh_sqlite(folder) as url:
        database = Database(url, kinds=KINDS)
        for first in range(0, n, CHUNK):
            new_texts = [" ".join(generator.choices(words, k=40)) for _ in range(min(CHUNK, n - first))]
            corpus_id = append(database, new_texts, first)
        before = peak_mb()
        began = time.perf_counter()
        clusters.find(database, corpus_id, ByText())
        return {"before": before, "after": peak_mb(), "seconds": round(time.perf_counter() - began)}


def append(database: Database, texts: Sequence[str], first: int) -> int:
    """Add texts to the corpus, with ids from `first` on. Return the corpus's id."""
    job = jobs.open_job(database, JobRequest("corpus", str(first), (StepRequest("embed", SPEC),)))
    chunk = ChunkBuilder()
    for seq, text in enumerate(texts, first):
        chunk.put(str(seq), text, {}, (), seq)
    ingest.add(database, job, chunk.chunk())
    return job.corpus_id


def write_results(facts: dict[str, Any]) -> None:
    """Write the results, and print them as a page."""
    (RESULTS / "dedup.json").write_text(json.dumps({"machine": machine(), **facts}, indent=1) + "\n")
    rensa_rate = facts["documents/s"]["rensa alone"]
    lines = ["# dedup", "", described(machine()), "", f"{facts['documents']:,} documents.", ""]
    lines += ["| | documents/s | ratio |", "| --- | --: | --: |"]
    lines += [f"| {name} | {rate:,} | {rate / rensa_rate:.2f} |" for name, rate in facts["documents/s"].items()]
    lines += ["", "| | " + " | ".join(str(column["threshold"]) for column in facts["quality"]) + " |"]
    lines += ["| --- |" + " --: |" * len(facts["quality"])]
    for name in [*facts["quality"][0]][1:]:
        lines.append(f"| {name} | " + " | ".join(str(column[name]) for column in facts["quality"]) + " |")
    (RESULTS / "dedup.md").write_text("\n".join(lines) + "\n")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
