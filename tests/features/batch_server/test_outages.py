"""kill -9 of the database and of the queue in the middle of a batch: each line has one answer in the end."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import httpx2
import openai
import psycopg
import pytest
from openai.types import Batch
from sqlalchemy import select

from docmill.features.batch_server.stored_files import OUTPUT, ApiFile, FileWriter
from docmill.storage.core.database import Database
from docmill.storage.core.schema import Job, OutcomeRow
from tests.faults.fleet import Fleet
from tests.faults.servers import PostgresCluster
from tests.features.batch_server.api import chat, client, put, read, start, wait
from tests.storage.builders import count_rows
from tests.worker.harness import kill_group, until

# Both files have several blocks of a megabyte, and the job several chunks and shards.
LINES = [chat(f"r{n}", f"{n} {'word ' * 200}", max_tokens=1_000) for n in range(1_300)]
LARGEST_SEND_BUFFER = 2**22  # of a socket, by Linux's default
LOCK = 815
# The first statement that inserts into a table passes, and every other one waits for the lock of the test.
HOLD = """
CREATE SEQUENCE passed;
CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('passed') > 1 THEN PERFORM pg_advisory_xact_lock({lock}); END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER hold BEFORE INSERT ON {table} EXECUTE FUNCTION hold();
"""
WAITS = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = %s AND NOT granted"
MIDDLES = pytest.mark.parametrize(
    ("status", "table"), [("validating", "document"), ("in_progress", "outcome"), ("finalizing", "api_file_block")]
)


@contextmanager
def serve(fleet: Fleet) -> Iterator[openai.OpenAI]:
    """Run `docmill serve` for the length of the block, and give a client with a key of its own."""
    key = fleet("keys", "add", "alice").stdout.strip()
    process = fleet.start("serve", "--model", "hosted=null", "--port", "0")
    try:
        url = until(lambda: fleet.log("serve").partition("Batch API: ")[2].partition(" ")[0], "the address")
        with client(url, key) as alice:  # closed, since its connections outlive a server that is killed
            yield alice
    finally:
        kill_group(process)


@contextmanager
def in_the_middle(fleet: Fleet, alice: openai.OpenAI, file_id: str, status: str, table: str) -> Iterator[Batch]:
    """Start a batch, and hold it with this status while a table has some of what it gets, until the block ends."""
    database = fleet.database
    url = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with closing(psycopg.connect(url, autocommit=True)) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", [LOCK])
        connection.execute(HOLD.format(lock=LOCK, table=table))
        batch = start(alice, file_id, extra_headers={"Idempotency-Key": "one"})
        until(lambda: connection.execute(WAITS, [LOCK]).fetchall(), "somebody waits for the lock")
        until(lambda: alice.batches.retrieve(batch.id).status == status, f"the batch is {status}")
        yield batch


class Polling:
    """A client that asks for a batch all the time and tries nothing again, and what it gets."""

    def __init__(self, client: openai.OpenAI, batch: Batch) -> None:
        self.batches: list[Batch] = []
        self.errors: list[openai.OpenAIError] = []
        self._client, self._batch_id = client.with_options(max_retries=0, timeout=20.0), batch.id
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll)

    def _poll(self) -> None:
        while not self._stop.wait(0.02):
            try:
                self.batches.append(self._client.batches.retrieve(self._batch_id))
            except openai.OpenAIError as error:
                self.errors.append(error)

    def __enter__(self) -> Polling:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def check_answers(fleet: Fleet, alice: openai.OpenAI, batch: Batch) -> None:
    """Each line has one answer, in one file, and was computed once."""
    assert batch.error_file_id is None
    answers = read(alice, batch.output_file_id)
    assert [line["custom_id"] for line in answers] == [line["custom_id"] for line in LINES]
    for answer, line in zip(answers, LINES, strict=True):
        [choice] = answer["response"]["body"]["choices"]
        assert line["body"]["messages"][0]["content"].strip() in choice["message"]["content"]
    assert [count_rows(fleet.database, table) for table in (Job, OutcomeRow)] == [1, len(LINES)]
    with fleet.database.read() as transaction:
        shown = transaction.scalars(select(ApiFile.id).where(ApiFile.is_whole)).all()
    assert {*shown} == {batch.input_file_id, batch.output_file_id}
    fleet("doctor", "--invariants")


@MIDDLES
@pytest.mark.parametrize("for_long", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_database_that_is_killed_in_the_middle_of_a_batch_costs_no_answer(
    own_postgres: PostgresCluster,
    restartable: Database,
    redis_url: str,
    tmp_path: Path,
    status: str,
    table: str,
    for_long: bool,
) -> None:
    """Its clients get errors that OpenAI's client tries again. In a long outage the server gives up for a while."""
    fleet = Fleet(tmp_path, restartable, redis_url)
    with serve(fleet) as alice, fleet.worker(), ThreadPoolExecutor() as pool:
        patient, file_id = alice.with_options(max_retries=20), put(alice, *LINES)
        with in_the_middle(fleet, alice, file_id, status, table) as batch, Polling(alice, batch) as polling:
            own_postgres.kill()
            until(lambda: polling.errors, "an error")
            retrieval = pool.submit(patient.batches.retrieve, batch.id)
            creation = pool.submit(start, patient, file_id, extra_headers={"Idempotency-Key": "one"})
            if for_long:
                log, waits = ("worker", "commit_waits") if status == "in_progress" else ("serve", "batch_failed")
                until(lambda: waits in fleet.log(log), f"{waits} in the log")
            own_postgres.start()
            assert retrieval.result().id == creation.result().id == batch.id
        done = wait(patient, batch)
        check_answers(fleet, alice, done)
    for error in polling.errors:
        assert isinstance(error, openai.InternalServerError), repr(error)
        assert (error.status_code, error.type, error.code) == (503, "server_error", "store_away")
        assert error.response.headers["content-type"] == "application/json"


def test_a_download_breaks_off_when_the_database_is_killed_and_the_next_one_has_all(
    own_postgres: PostgresCluster, restartable: Database, redis_url: str, tmp_path: Path
) -> None:
    fleet = Fleet(tmp_path, restartable, redis_url)
    content = random.Random(1).randbytes(4 * LARGEST_SEND_BUFFER)
    with serve(fleet) as alice:
        output = FileWriter(fleet.database, "alice", "out.jsonl", OUTPUT, 3600.0)
        output.write(content)
        output.flush()
        fleet.database.write(output.publish)
        # So most of the file is still in the database when the client has its first bytes.
        transport = httpx2.HTTPTransport(socket_options=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)])
        with (
            httpx2.Client(transport=transport) as slow,
            alice.with_options(http_client=slow).files.with_streaming_response.content(output.id) as response,
        ):
            chunks = response.iter_bytes(1_000)
            received = [next(chunks)]
            own_postgres.kill()
            with pytest.raises(httpx2.RemoteProtocolError):
                received.extend(chunks)
        assert response.headers["content-length"] == str(len(content))
        assert content.startswith(received[0])
        own_postgres.start()
        assert alice.with_options(max_retries=20).files.content(output.id).read() == content
