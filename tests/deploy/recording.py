"""Record the open shards of a job from its enqueueing to its end: `python -m tests.deploy.recording`."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

from sqlalchemy import text as sql

from docmill.storage.core.database import Database
from tests.kinds import KINDS
from tests.worker.harness import DOCMILL

FILE = Path(__file__).parent / "backlog.json"
EVERY_S = 0.5
N_TEXTS = 24_000


def record(folder: Path) -> list[int]:
    """Return the number of open shards each `EVERY_S`, of a job that one worker does."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "DOCMILL_HOME": str(folder)}
    corpus = folder / "numbered.jsonl"
    corpus.write_text(
        "".join(f'{{"id": "k{n}", "text": "{n} is the number of this text"}}\n' for n in range(N_TEXTS))
    )
    subprocess.run([DOCMILL, "db", "upgrade"], env=environment, check=True)
    worker = subprocess.Popen([DOCMILL, "worker", "--device", "cpu"], env=environment)
    database = Database(f"sqlite:///{folder / 'docmill.db'}", kinds=KINDS)
    found: list[int] = []
    enqueue = subprocess.Popen(
        [DOCMILL, "enqueue", str(corpus), "--task", "embed", "--model", "null@4000"], env=environment
    )
    try:
        while enqueue.poll() is None or found[-1] > 0 or len(found) < 10:
            with database.read() as transaction:
                found.append(int(transaction.scalar(sql("SELECT count(*) FROM open_shards")) or 0))
            time.sleep(EVERY_S)
    finally:
        worker.terminate()
        worker.wait()
        database.close()
    return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        FILE.write_text(json.dumps({"every_s": EVERY_S, "open_shards": record(Path(folder))}) + "\n")
