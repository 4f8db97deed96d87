"""Compare three ways to read results as an Arrow table: `Job.to_arrow`, an ADBC driver, and one row at a time.

The ADBC driver runs the same SQL statement and returns rows as Arrow batches. The benchmark then gives its columns
the types of `to_arrow`: it casts the bytes of vectors to lists of fixed size, and parses the JSON of labels, flags
and metadata. "rows" builds the table from a dictionary for each result. All tables must be equal in every column.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import json as arrow_json

from bench.pairs import Claim, Comparison, Run, interleave, timed, write
from bench.stores import fresh_postgres, fresh_sqlite
from docmill.storage.core.database import Database
from docmill.storage.core.specs import Outcome, Spec
from docmill.storage.ingest import ingest
from docmill.storage.ingest.chunks import ChunkBuilder
from docmill.storage.leases import dispatch, shards
from docmill.storage.outputs.columns import Form
from docmill.storage.outputs.output_types import CONFIDENCE, LABELS, Output
from docmill.storage.results.columnar import query_of
from docmill.storage.results.results import columns, results
from docmill.storage.steps import jobs
from docmill.storage.steps.jobs import JobRequest
from docmill.storage.steps.steps import StepRequest, read_steps
from docmill.storage.writers import arrow
from docmill.tasks.kinds import STORED_KINDS as KINDS
from docmill.worker.api.job import Job
from docmill.worker.settings import load_settings

DIM, CHUNK = 384, 8_000
PREDICTED = {"embed": 1.4, "classify": 1.3, "summarize": 1.2}
WANTED = 1.3
MakeOutput = Callable[[random.Random], Output]


def make_vector(generator: random.Random) -> Output:
    """Return a vector with as many dimensions as a small encoder's."""
    return Output(vector=np.random.default_rng(generator.getrandbits(32)).random(DIM, np.float32).tobytes())


def make_labels(generator: random.Random) -> Output:
    """Return seven labels with scores."""
    return LABELS.stored([(f"label {n}", generator.random()) for n in range(7)])


def make_text(generator: random.Random) -> Output:
    """Return a text of 80 words."""
    return Output(text=" ".join(f"word{generator.randrange(5_000)}" for _ in range(80)))


OUTPUTS: dict[str, MakeOutput] = {"embed": make_vector, "classify": make_labels, "summarize": make_text}


def store_job(database: Database, kind: str, documents: int) -> int:
    """Store a job over so many documents, with a result for each. Return the job's number."""
    spec = Spec(kind, "model", "sha256:1")
    job = jobs.open_job(database, JobRequest("bench", "bench.jsonl", (StepRequest(kind, spec),)))
    total = ingest.Counts()
    for first in range(0, documents, CHUNK):
        builder = ChunkBuilder()
        for n in range(first, min(documents, first + CHUNK)):
            builder.put(f"document-{n:07}", f"the text of document {n}", {"section": "science", "year": n}, (), n)
        total += ingest.add(database, job, builder.chunk())
    ingest.end(database, job, total)
    generator = random.Random(documents)
    while shard_ids := [
        shard_id for lane in dispatch.lanes(database) for ids in dispatch.take(database, lane) for shard_id in ids
    ]:
        for shard_id in shard_ids:
            head = shards.look(database, shard_id)
            assert head is not None
            claim = shards.claim(database, head, "bench")
            assert claim is not None
            outcomes = [
                Outcome.done(content_id, OUTPUTS[kind](generator), tokens_in=9) for content_id, _ in claim.texts
            ]
            shards.commit(database, claim, outcomes, None)
    jobs.finish(database, job.id)
    return job.id


def build_statement(database: Database, job_id: int) -> str:
    """Return the SQL statement by which `to_arrow` reads a job's results."""
    row = jobs.require(database, job_id)
    with database.read() as transaction:
        query = query_of(row, read_steps(transaction, job_id))
    return str(query.compile(database.engine, compile_kwargs={"literal_binds": True}))


def read_by_adbc(url: str, sql: str, kind: str) -> pa.Table:
    """Read results with an ADBC driver. Return them as a table with the column types of `to_arrow`."""
    if url.startswith("sqlite"):
        from adbc_driver_sqlite import dbapi
    else:
        from adbc_driver_postgresql import dbapi
    with dbapi.connect(url.removeprefix("sqlite:///")) as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        table = cursor.fetch_arrow_table()
    arrays = {"id": table["key"], "task": pa.array([kind] * len(table))}
    if kind == "embed":
        blobs = table["vector"].combine_chunks().cast(pa.binary(4 * DIM))
        values = pa.Array.from_buffers(pa.float32(), len(table) * DIM, [None, blobs.buffers()[1]])
        arrays["vector"] = pa.FixedSizeListArray.from_arrays(values, DIM)
    elif kind == "classify":
        labels = parse_json(table["data"], pa.schema({"labels": Form.LABELS.arrow()}))["labels"]
        best = pc.list_element(labels, 0)
        arrays |= {"label": pc.struct_field(best, "label"), "score": pc.struct_field(best, "score"), "labels": labels}
    else:
        arrays["text"] = table["text"]
    arrays |= {name: table[name] for name in ("tokens_in", "tokens_out")}
    encoded_flags = [*zip(table["document_flags"].to_pylist(), table["flags"].to_pylist(), strict=True)]
    # Most results share their flags with others, so each combination is parsed once.
    flags = {encoded: [*orjson.loads(encoded[0]), *orjson.loads(encoded[1])] for encoded in {*encoded_flags}}
    arrays["flags"] = pa.array([flags[encoded] for encoded in encoded_flags], Form.TEXTS.arrow())
    metadata = [orjson.dumps(orjson.loads(encoded)).decode() for encoded in table["meta"].to_pylist()]
    arrays["meta"] = pa.array(metadata, pa.json_())
    confidences = CONFIDENCE if kind == "summarize" else CONFIDENCE[:1] if kind == "classify" else ()
    arrays |= {name: table[name].cast(pa.float64()) for name in confidences}
    return pa.table(arrays)


def parse_json(objects: pa.ChunkedArray, schema: pa.Schema) -> pa.Table:
    """Return a table of JSON objects, one in each row."""
    lines = pa.py_buffer("\n".join(objects.cast(pa.string()).to_pylist()).encode())
    return arrow_json.read_json(
        pa.BufferReader(lines),
        parse_options=arrow_json.ParseOptions(explicit_schema=schema),
    )


def read_by_rows(database: Database, job_id: int) -> pa.Table:
    """Return a table that is built from a dictionary for each result."""
    return arrow.table(columns(database, job_id), list(results(database, job_id)))


def prepare_sides(database: Database, url: str, job_id: int, kind: str) -> dict[str, Callable[[], Run]]:
    """Return the sides of a comparison. Raises AssertionError if their tables differ."""
    sql, job = build_statement(database, job_id), Job(load_settings(), database, job_id)
    readers: dict[str, Callable[[], pa.Table]] = {
        "to_arrow": job.to_arrow,
        "ADBC": partial(read_by_adbc, url, sql, kind),
        "rows": partial(read_by_rows, database, job_id),
    }
    expected = job.to_arrow().combine_chunks()
    for side, read_table in readers.items():
        table = read_table().combine_chunks()
        assert table.schema == expected.schema, (side, table.schema)
        for name in expected.column_names:
            assert table[name].equals(expected[name]), (side, name)
    return {side: partial(time_reader, read_table) for side, read_table in readers.items()}


def time_reader(read_table: Callable[[], pa.Table]) -> Run:
    """Read a table. Return a run whose units are the table's rows."""
    return timed(lambda: len(read_table()))


def compare(documents: int, pairs: int) -> Iterator[Comparison]:
    """Yield a comparison for each store and each kind of task."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for open_store in (partial(fresh_sqlite, folder), fresh_postgres):
            for kind in OUTPUTS:
                url = stack.enter_context(open_store())
                database = Database(url, kinds=KINDS)
                job_id = store_job(database, kind, documents)
                name = f"{documents:,} results of {kind}, {url.partition(':')[0]}"
                yield interleave(name, "results", prepare_sides(database, url, job_id, kind), pairs=pairs)
                database.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--pairs", type=int, default=3)
    options: Any = parser.parse_args(arguments)
    comparisons = list(compare(options.documents, options.pairs))
    claims = [
        Claim("ADBC is worth an extra", "ADBC", "to_arrow", WANTED),
        Claim("a table is not made row by row", "to_arrow", "rows", 1.0),
    ]
    write("arrow", comparisons, [claims for _ in comparisons], predicted=PREDICTED)


if __name__ == "__main__":
    main()
