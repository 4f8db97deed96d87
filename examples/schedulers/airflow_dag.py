"""An Airflow DAG: enqueue a source, wait for its job, write the results."""

from __future__ import annotations

import json
import logging
import os
import subprocess
from typing import Any

from airflow.sdk import PokeReturnValue, dag, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException

log = logging.getLogger(__name__)
DOCMILL = os.environ.get("DOCMILL", "docmill")  # the command in docmill's own environment
RETRIES = {"retries": 3, "retry_delay": 60}


def docmill(*arguments: Any, allowed: tuple[int, ...] = ()) -> str:
    """Run a command of docmill and return its output. Raises AirflowFailException for what a retry cannot change."""
    done = subprocess.run([DOCMILL, *map(str, arguments)], capture_output=True, text=True, check=False)
    log.info(done.stderr)
    if done.returncode in {0, *allowed}:
        return done.stdout
    message = f"exit code {done.returncode}: {done.stderr.strip()[-1000:]}"
    raise AirflowFailException(message) if done.returncode in {1, 2} else RuntimeError(message)


@dag(schedule=None, params={"source": "/data/articles.jsonl", "out": "/data/vectors.jsonl"})
def docmill_embed() -> None:
    @task(**RETRIES)
    def enqueue() -> int:
        context = get_current_context()
        key = f"{context['dag'].dag_id} {context['run_id']}"  # the same when the task is tried again or cleared
        said = docmill("enqueue", "embed", context["params"]["source"], "--idempotency-key", key, "--json")
        job: int = json.loads(said)["id"]
        return job

    @task.sensor(mode="reschedule", poke_interval=30, timeout=24 * 3600, **RETRIES)  # it holds no slot meanwhile
    def wait(job: int) -> PokeReturnValue:
        status = json.loads(docmill("status", job, "--json"))
        if not status["ended"] and status["state"] != "blocked":  # blocked: every worker refuses the job
            return PokeReturnValue(is_done=False)
        docmill("status", job, "--wait", allowed=(4,))  # its exit code is the job's; 4: some records were rejected
        return PokeReturnValue(is_done=True)

    @task(**RETRIES)
    def results(job: int) -> str:
        out: str = get_current_context()["params"]["out"]
        docmill("results", job, "--out", out)
        return out

    job = enqueue()
    wait(job) >> results(job)


docmill_embed()
