"""Measure this machine's throughput for a spec, on a few texts in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from docmill.storage.core.specs import Spec
from docmill.tasks.errors import ServerUnreachable
from docmill.worker.engines.engines import opener
from docmill.worker.errors import WorkerError
from docmill.worker.pids import command_of
from docmill.worker.settings import Settings


class SampleFailed(WorkerError):
    """The sample could not be computed."""


@dataclass(frozen=True)
class Sample:
    """A measurement: characters and tokens read, tokens written, seconds of computing and of loading."""

    chars: int
    tokens_in: int
    tokens_out: int
    seconds: float
    load_s: float


def measure(settings: Settings, device: str, spec: Spec, texts: Sequence[str]) -> Sample:
    """Compute `texts` under `spec` in a child process and time it.

    Raises SampleFailed with the reason, and ServerUnreachable if the model's server does not answer.
    """
    order = {
        "settings": settings.model_dump(mode="json"),
        "device": device,
        "spec": spec.to_json().decode(),
        "texts": list(texts),
    }
    done = run_child(json.dumps(order).encode())
    if done.returncode != 0:
        raise SampleFailed
    answer = json.loads(done.stdout.splitlines()[-1])
    if "error" in answer:
        raise (ServerUnreachable if answer["server_away"] else SampleFailed)(answer["error"])
    return Sample(**answer)


def run_child(order: bytes) -> subprocess.CompletedProcess[bytes]:
    """Have a process with the model libraries carry out an order."""
    return subprocess.run(
        command_of("docmill.worker.engines.throughput"), input=order, stdout=subprocess.PIPE, check=False
    )


def main() -> None:
    order = json.load(sys.stdin)
    try:
        answer: dict[str, Any] = asdict(_measure(order))
    except WorkerError as error:
        answer = {"error": str(error), "server_away": isinstance(error.__cause__, ServerUnreachable)}
    sys.stdout.write("\n" + json.dumps(answer) + "\n")
    sys.stdout.flush()
    os._exit(0)  # the device's thread would be torn down under the libraries' feet


def _measure(order: dict[str, Any]) -> Sample:
    from docmill.tasks.engine.engine import Engine
    from docmill.tasks.errors import CannotServe

    settings, spec = Settings.model_validate(order["settings"]), Spec.from_json(order["spec"])
    engine = Engine(opener(settings, order["device"], provisional=False))  # a long job's backend is what counts
    engine.start()
    began = time.perf_counter()
    try:
        engine.open(spec)
    except CannotServe as error:
        raise SampleFailed(str(error)) from error
    load_s = time.perf_counter() - began
    texts = list(enumerate(order["texts"]))
    engine.submit(spec, texts[:1]).wait()  # the first batch pays for allocations that the others do not
    began = time.perf_counter()
    ticket = engine.submit(spec, texts)
    ticket.wait()
    seconds = time.perf_counter() - began
    outcomes = ticket.finished()
    return Sample(
        chars=sum(len(text) for _, text in texts),
        tokens_in=sum(outcome.tokens_in for outcome in outcomes),
        tokens_out=sum(outcome.tokens_out for outcome in outcomes),
        seconds=seconds,
        load_s=load_s,
    )


if __name__ == "__main__":
    main()
