"""A Dagster job: enqueue a source, wait for its job, write the results."""

import json
import os
import subprocess
from typing import Any

import dagster as dg

DOCMILL = os.environ.get("DOCMILL", "docmill")  # the command in docmill's own environment
RETRIES = dg.RetryPolicy(max_retries=3, delay=60)


class Files(dg.Config):
    source: str = "/data/articles.jsonl"
    out: str = "/data/vectors.jsonl"


def docmill(context: dg.OpExecutionContext, *arguments: Any, allowed: tuple[int, ...] = ()) -> str:
    """Run a command of docmill and return its output. Raises Failure; a retry cannot change exit codes 1 and 2."""
    done = subprocess.run([DOCMILL, *map(str, arguments)], capture_output=True, text=True, check=False)
    context.log.info(done.stderr)
    if done.returncode in {0, *allowed}:
        return done.stdout
    message = f"exit code {done.returncode}: {done.stderr.strip()[-1000:]}"
    raise dg.Failure(message, allow_retries=done.returncode not in {1, 2})


@dg.op(retry_policy=RETRIES)
def enqueue(context: dg.OpExecutionContext, config: Files) -> int:
    run = context.run.root_run_id or context.run_id  # a run that was retried has the id of the first one as its root
    key = f"{context.job_name} {run}"
    said = docmill(context, "enqueue", "embed", config.source, "--idempotency-key", key, "--json")
    job: int = json.loads(said)["id"]
    return job


@dg.op(retry_policy=RETRIES)
def wait(context: dg.OpExecutionContext, job: int) -> int:
    docmill(context, "status", job, "--wait", allowed=(4,))  # 4: some records were rejected
    return job


@dg.op(retry_policy=RETRIES)
def results(context: dg.OpExecutionContext, config: Files, job: int) -> str:
    docmill(context, "results", job, "--out", config.out)
    return config.out


@dg.job
def docmill_embed() -> None:
    results(wait(enqueue()))


definitions = dg.Definitions(jobs=[docmill_embed])
