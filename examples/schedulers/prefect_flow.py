"""A Prefect flow: enqueue a source, wait for its job, write the results."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.runtime import flow_run

DOCMILL = os.environ.get("DOCMILL", "docmill")  # the command in docmill's own environment


class CommandFailed(Exception):
    """A command of docmill ended with another exit code than 0."""


class PermanentFailure(CommandFailed):
    """A retry cannot change the exit codes 1 (documents failed) and 2 (bad input)."""


def docmill(*arguments: Any, allowed: tuple[int, ...] = ()) -> str:
    """Run a command of docmill and return its output. Raises CommandFailed."""
    done = subprocess.run([DOCMILL, *map(str, arguments)], capture_output=True, text=True, check=False)
    get_run_logger().info(done.stderr)
    if done.returncode in {0, *allowed}:
        return done.stdout
    message = f"exit code {done.returncode}: {done.stderr.strip()[-1000:]}"
    raise PermanentFailure(message) if done.returncode in {1, 2} else CommandFailed(message)


def may_pass(_task: Any, _run: Any, state: Any) -> bool:
    """Return True if a retry may help."""
    return not isinstance(state.result(raise_on_failure=False), PermanentFailure)


RETRIES: dict[str, Any] = {"retries": 3, "retry_delay_seconds": 60, "retry_condition_fn": may_pass}


@task(**RETRIES)
def enqueue(source: str) -> int:
    key = f"{flow_run.flow_name} {flow_run.id}"  # the same when the flow or the task is tried again
    job: int = json.loads(docmill("enqueue", "embed", source, "--idempotency-key", key, "--json"))["id"]
    return job


@task(**RETRIES)
def wait(job: int) -> None:
    docmill("status", job, "--wait", allowed=(4,))  # 4: some records were rejected


@task(**RETRIES)
def results(job: int, out: str) -> None:
    docmill("results", job, "--out", out)


@flow
def docmill_embed(source: str = "/data/articles.jsonl", out: str = "/data/vectors.jsonl") -> str:
    job = enqueue(source)
    wait(job)
    results(job, out)
    return out


if __name__ == "__main__":
    docmill_embed()
