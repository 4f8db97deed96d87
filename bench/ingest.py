"""Compare docmill's ingest of a source with a bulk load of the rows that the ingest writes.

The bulk load computes and looks up nothing. Its files already contain the ids, hashes and shards, in the form that
the database reads fastest: COPY's binary format for PostgreSQL, tuples for SQLite's executemany. It fills the same
tables with the same keys and indexes, in one transaction. Each run has a process of its own, and reports the peak
memory of that process.
"""

from __future__ import annotations

import argparse
import json
import pickle
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import text

from bench.pairs import Claim, Comparison, Run, interleave, peak_mb, timed, write
from bench.stores import fresh_postgres, fresh_sqlite
from docmill.storage.core.database import Database
from docmill.storage.core.transaction import Transaction
from docmill.storage.results.status import read_status
from docmill.tasks.kinds import STORED_KINDS as KINDS
from docmill.worker.settings import Settings
from docmill.worker.submit.enqueue import enqueue
from docmill.worker.submit.options import Request
from docmill.worker.submit.request import prepare

DOCMILL = str(Path(sys.executable).with_name("docmill"))
TABLES = ("corpus", "spec", "ingest", "job", "step", "content", "document", "shard")  # in the order of foreign keys
BLOCK_ROWS = 5_000
STATUS_AIM_S, QUERY_AIM_S = 0.6, 0.02


def write_source(path: Path, documents: int) -> None:
    """Write a file of JSON lines, each with a text of 1,000 characters in English-like words."""
    chance = random.Random(documents)
    words = ["".join(chance.choices("etaoinshrdlucmfw", k=chance.randint(2, 9))) for _ in range(20_000)]
    with path.open("w") as file:
        for number in range(documents):
            content = " ".join(chance.choices(words, k=180))[:1_000].ljust(1_000, ".")
            file.write(json.dumps({"id": f"document-{number:09}", "text": content}) + "\n")


def ingest_source(url: str, source: Path) -> int:
    """Read a source into a store as `docmill enqueue` does, without a queue. Return the number of documents."""
    database = Database(url, kinds=KINDS)
    prepared = prepare(Settings(), Request(source=str(source), task="embed", model="null", corpus="bench"))
    documents = enqueue(database, None, prepared).documents
    database.close()
    return documents


def save_rows(url: str, folder: Path) -> None:
    """Write the rows of every table into files for the bulk load."""
    database = Database(url, kinds=KINDS)
    for table in TABLES:
        with (folder / f"{table}.rows").open("wb") as file:
            if database.server is None:
                with database.read() as transaction:
                    rows = transaction.connection.execution_options(yield_per=BLOCK_ROWS).execute(
                        text(f"SELECT * FROM {table}")
                    )
                    for block in rows.partitions(BLOCK_ROWS):
                        pickle.dump([tuple(row) for row in block], file)
            else:
                with (
                    psycopg.connect(url) as connection,
                    connection.cursor().copy(f"COPY {table} TO STDOUT (FORMAT BINARY)") as copy,
                ):
                    for data in copy:
                        file.write(data)
    database.close()


def load_rows(url: str, folder: Path) -> int:
    """Load the files of `save_rows` into empty tables, and return the number of documents."""
    database = Database(url, kinds=KINDS)
    if database.server is None:

        def load(transaction: Transaction) -> None:
            for table in TABLES:
                for block in _read_blocks(folder / f"{table}.rows"):
                    placeholders = ", ".join("?" * len(block[0]))
                    transaction.exec_driver_sql(f"INSERT INTO {table} VALUES ({placeholders})", block)

        database.write(load)
    else:
        with psycopg.connect(url) as connection:
            for table in TABLES:
                with (
                    (folder / f"{table}.rows").open("rb") as file,
                    connection.cursor().copy(f"COPY {table} FROM STDIN (FORMAT BINARY)") as copy,
                ):
                    while data := file.read(1 << 18):
                        copy.write(data)
    with database.read() as transaction:
        documents = transaction.scalar(text("SELECT count(*) FROM document"))
    database.close()
    return int(documents)


def _read_blocks(path: Path) -> Iterator[list[tuple[Any, ...]]]:
    """Yield the blocks of rows in a file of `save_rows` for SQLite."""
    with path.open("rb") as file:
        while True:
            try:
                yield pickle.load(file)
            except EOFError:
                return


def run_side(act: str, fresh: Callable[[], Any], path: Path) -> Run:
    """Run a side on a new database, in its own process."""
    with fresh() as url:
        return _run_in_process(act, url, path)


def _run_in_process(act: str, url: str, path: Path) -> Run:
    command = [sys.executable, "-m", "bench.ingest", "--act", act, "--url", url, "--path", str(path)]
    process = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return Run(**json.loads(process.stdout))


def _perform(act: str, url: str, path: Path) -> None:
    """Run a side in this process, and print the run as JSON."""
    work = {"read in": ingest_source, "bulk load": load_rows}[act]
    run = timed(lambda: work(url, path))
    print(json.dumps(asdict(Run(run.units, run.seconds, {"peak_mb": round(peak_mb(), 1)}))))


def measure_status(url: str) -> dict[str, float]:
    """Return the seconds of the command `docmill status`, and of its query alone in this process: medians of five."""
    command = [DOCMILL, "status", "1"]
    environment = {"DOCMILL_DATABASE_URL": url, "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
    command_s = [
        timed(lambda: subprocess.run(command, env=environment, capture_output=True, check=True).returncode).seconds
        for _ in range(5)
    ]
    database = Database(url, kinds=KINDS)
    read_status(database, 1)
    query_s = [timed(lambda: read_status(database, 1).id).seconds for _ in range(5)]
    database.close()
    return {
        "status_s": round(statistics.median(command_s), 3),
        "status_aim_s": STATUS_AIM_S,
        "query_s": round(statistics.median(query_s), 4),
        "query_aim_s": QUERY_AIM_S,
    }


def finish_job(url: str) -> None:
    """Store a result for every text and mark the job as done, as if a model had computed it."""
    database = Database(url, kinds=KINDS)
    results = (
        "INSERT INTO outcome (spec_id, content_id, status, flags, tokens_in, tokens_out, created_at) "
        "SELECT spec.id, content.id, 'done', '[]', 0, 0, 0 FROM spec, content"
    )

    def store(transaction: Transaction) -> None:
        for statement in (results, "UPDATE shard SET state = 'done'", "UPDATE job SET state = 'done'"):
            transaction.execute(text(statement))

    database.write(store)
    database.close()


def ingest_again(url: str, source: Path) -> dict[str, float]:
    """Measure a second ingest of a source whose texts are all computed, and check that it plans no work."""
    finish_job(url)
    run = _run_in_process("read in", url, source)
    database = Database(url, kinds=KINDS)
    with database.read() as transaction:
        planned = transaction.scalar(text("SELECT count(*) FROM shard WHERE state <> 'done'"))
        jobs = transaction.scalar(text("SELECT count(*) FROM job"))
    assert (planned, jobs) == (0, 2)
    status = read_status(database, 2)
    assert (status.state, status.pending) == ("done", 0)
    database.close()
    return {
        "again_s": round(run.seconds, 1),
        "again_documents_per_s": round(run.rate, 1),
        "again_peak_mb": run.more["peak_mb"],
    }


def measure_size(fresh: Callable[[], Any], folder: Path, documents: int) -> dict[str, float]:
    """Measure one ingest of `documents` documents: rate, peak memory, `docmill status`, and a second ingest."""
    source = folder / f"{documents}.jsonl"
    write_source(source, documents)
    with fresh() as url:
        run = _run_in_process("read in", url, source)
        facts = {"documents": documents, "documents_per_s": round(run.rate, 1), **run.more, **measure_status(url)}
        facts |= ingest_again(url, source)
    source.unlink()
    return facts


def compare(store: str, fresh: Callable[[], Any], folder: Path, documents: int, pairs: int) -> Comparison:
    """Compare docmill's ingest with the bulk load of the same rows."""
    source, rows = folder / "source.jsonl", folder / f"{store} rows"
    write_source(source, documents)
    rows.mkdir()
    with fresh() as url:
        ingest_source(url, source)
        save_rows(url, rows)
    sides = {
        f"docmill, {store}": partial(run_side, "read in", fresh, source),
        f"bulk load, {store}": partial(run_side, "bulk load", fresh, rows),
    }
    return interleave(f"ingest of {documents:,} documents into {store}", "docs", sides, pairs=pairs, warm_up=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1_000_000, help="documents of each compared run")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument(
        "--large", type=int, default=1_000_000, help="documents of the one run for memory and status; 0: no run"
    )
    parser.add_argument("--stores", nargs="+", choices=["postgres", "sqlite"], default=["postgres", "sqlite"])
    parser.add_argument("--act", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that databases are dropped
    if options.act:
        return _perform(options.act, options.url, options.path)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stores: dict[str, Callable[[], Any]] = {"postgres": fresh_postgres, "sqlite": partial(fresh_sqlite, folder)}
        chosen = {name: stores[name] for name in options.stores}
        comparisons = [
            compare(name, fresh, folder, options.documents, options.pairs) for name, fresh in chosen.items()
        ]
        claims = [[Claim("ingest ÷ bulk load", f"docmill, {name}", f"bulk load, {name}", 0.5)] for name in chosen]
        began = time.monotonic()
        sizes = [options.large // 10, options.large] if options.large else []
        alone = {name: [measure_size(fresh, folder, n) for n in sizes] for name, fresh in list(chosen.items())[:1]}
        print(json.dumps(alone, indent=1), f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    write("ingest", comparisons, claims, alone=alone)
    return None


if __name__ == "__main__":
    main()
