"""Results as an Arrow table: `Job.to_arrow`, beside the same statement by a driver of ADBC, and beside row by row.

The driver gives rows as Arrow batches. Its side then does what is needed for the types of `to_arrow`: it casts the
bytes of vectors to lists of fixed size, and parses the JSON of labels, flags and metadata. "rows" makes the table
from a dictionary for each result. All tables must be equal in every column.
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
Outputs = Callable[[random.Random], Output]


def vector(chance: random.Random) -> Output:
    """Return a vector of the size of a small encoder's."""
    return Output(vector=np.random.default_rng(chance.getrandbits(32)).random(DIM, np.float32).tobytes())


def labels(chance: random.Random) -> Output:
    """Return seven labels with scores."""
    return LABELS.stored([(f"label {n}", chance.random()) for n in range(7)])


def text(chance: random.Random) -> Output:
    """Return a text of 80 words."""
    return Output(text=" ".join(f"word{chance.randrange(5_000)}" for _ in range(80)))


OUTPUTS: dict[str, Outputs] = {"embed": vector, "classify": labels, "summarize": text}


def fill(database: Database, kind: str, documents: int) -> int:
    """Store a job of these documents with a result for each. Return the job's number."""
    spec = Spec(kind, "model", "sha256:1")
    job = jobs.open_job(database, JobRequest("bench", "bench.jsonl", (StepRequest(kind, spec),)))
    total = ingest.Counts()
    for first in range(0, documents, CHUNK):
        builder = ChunkBuilder()
        for n in range(first, min(documents, first + CHUNK)):
            builder.put(f"document-{n:07}", f"the text of document {n}", {"section": "science", "year": n}, (), n)
        total += ingest.add(database, job, builder.chunk())
    ingest.end(database, job, total)
    chance = random.Random(documents)
    while taken := [one for lane in dispatch.lanes(database) for ids in dispatch.take(database, lane) for one in ids]:
        for shard_id in taken:
            head = shards.look(database, shard_id)
            assert head is not None
            claim = shards.claim(database, head, "bench")
            assert claim is not None
            found = [Outcome.done(one, OUTPUTS[kind](chance), tokens_in=9) for one, _ in claim.texts]
            shards.commit(database, claim, found, None)
    jobs.finish(database, job.id)
    return job.id


def statement(database: Database, job_id: int) -> str:
    """Return the SQL by which `to_arrow` reads a job's results."""
    row = jobs.require(database, job_id)
    with database.read() as transaction:
        query = query_of(row, read_steps(transaction, job_id))
    return str(query.compile(database.engine, compile_kwargs={"literal_binds": True}))


def by_adbc(url: str, sql: str, kind: str) -> pa.Table:
    """Read by ADBC, and give the columns the types of `to_arrow`."""
    if url.startswith("sqlite"):
        from adbc_driver_sqlite import dbapi
    else:
        from adbc_driver_postgresql import dbapi
    with dbapi.connect(url.removeprefix("sqlite:///")) as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        table = cursor.fetch_arrow_table()
    found = {"id": table["key"], "task": pa.array([kind] * len(table))}
    if kind == "embed":
        blobs = table["vector"].combine_chunks().cast(pa.binary(4 * DIM))
        values = pa.Array.from_buffers(pa.float32(), len(table) * DIM, [None, blobs.buffers()[1]])
        found["vector"] = pa.FixedSizeListArray.from_arrays(values, DIM)
    elif kind == "classify":
        parsed = parse(table["data"], pa.schema({"labels": Form.LABELS.arrow()}))["labels"]
        best = pc.list_element(parsed, 0)
        found |= {"label": pc.struct_field(best, "label"), "score": pc.struct_field(best, "score"), "labels": parsed}
    else:
        found["text"] = table["text"]
    found |= {name: table[name] for name in ("tokens_in", "tokens_out")}
    pairs = [*zip(table["document_flags"].to_pylist(), table["flags"].to_pylist(), strict=True)]
    read = {pair: [*orjson.loads(pair[0]), *orjson.loads(pair[1])] for pair in {*pairs}}
    found["flags"] = pa.array([read[pair] for pair in pairs], Form.TEXTS.arrow())
    metas = [orjson.dumps(orjson.loads(one)).decode() for one in table["meta"].to_pylist()]
    found["meta"] = pa.array(metas, pa.json_())
    confidences = CONFIDENCE if kind == "summarize" else CONFIDENCE[:1] if kind == "classify" else ()
    found |= {name: table[name].cast(pa.float64()) for name in confidences}
    return pa.table(found)


def parse(texts: pa.ChunkedArray, schema: pa.Schema) -> pa.Table:
    """Parse objects in JSON, one for each row."""
    lines = pa.py_buffer("\n".join(texts.cast(pa.string()).to_pylist()).encode())
    return arrow_json.read_json(
        pa.BufferReader(lines),
        parse_options=arrow_json.ParseOptions(explicit_schema=schema),
    )


def by_rows(database: Database, job_id: int) -> pa.Table:
    """Return the table by a dictionary for each result."""
    return arrow.table(columns(database, job_id), list(results(database, job_id)))


def sides(database: Database, url: str, job_id: int, kind: str) -> dict[str, Callable[[], Run]]:
    """Return the sides. Raises AssertionError unless their tables are equal."""
    sql, job = statement(database, job_id), Job(load_settings(), database, job_id)
    tables: dict[str, Callable[[], pa.Table]] = {
        "to_arrow": job.to_arrow,
        "ADBC": partial(by_adbc, url, sql, kind),
        "rows": partial(by_rows, database, job_id),
    }
    expected = job.to_arrow().combine_chunks()
    for side, table in tables.items():
        found = table().combine_chunks()
        assert found.schema == expected.schema, (side, found.schema)
        for name in expected.column_names:
            assert found[name].equals(expected[name]), (side, name)
    return {side: partial(counted, table) for side, table in tables.items()}


def counted(table: Callable[[], pa.Table]) -> Run:
    """Return a run that makes a table."""
    return timed(lambda: len(table()))


def compared(documents: int, pairs: int) -> Iterator[Comparison]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for store in (partial(fresh_sqlite, folder), fresh_postgres):
            for kind in OUTPUTS:
                url = stack.enter_context(store())
                database = Database(url, kinds=KINDS)
                job_id = fill(database, kind, documents)
                name = f"{documents:,} results of {kind}, {url.partition(':')[0]}"
                yield interleave(name, "results", sides(database, url, job_id, kind), pairs=pairs)
                database.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--pairs", type=int, default=3)
    given: Any = parser.parse_args(arguments)
    found = list(compared(given.documents, given.pairs))
    claimed = [
        Claim("ADBC is worth an extra", "ADBC", "to_arrow", WANTED),
        Claim("a table is not made row by row", "to_arrow", "rows", 1.0),
    ]
    claims = [claimed for _ in found]
    write("arrow", found, claims, predicted=PREDICTED)


if __name__ == "__main__":
    main()
