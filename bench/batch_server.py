"""Measure `docmill serve` with the null model: requests a second, memory, and response times while clients poll.

For comparison, `docmill batch` computes the same file without a server, in a store of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import openai
from openai.types import Batch

from bench.pairs import RESULTS, described, machine

DOCMILL = str(Path(sys.executable).with_name("docmill"))
ENDPOINT: Final = "/v1/chat/completions"
LONGEST_S = 600.0


@dataclass(frozen=True)
class Measurement:
    """The seconds of each phase of a batch, requests a second by server and command, memory, and response times."""

    requests: int
    upload_s: float
    validating_s: float
    until_completed_s: float
    download_s: float
    server_per_s: float
    command_per_s: float
    idle_mb: float
    peak_above_idle_mb: float
    clients: int
    polls: int
    poll_median_ms: float
    poll_p99_ms: float


def write_requests(path: Path, n: int, name: str) -> None:
    """Write a file of `n` requests, each with a text of its own of about 40 words."""
    sentence = "the river that runs past the old mill carries leaves and light down to the sea in autumn"
    with path.open("w") as file:
        for number in range(n):
            text = f"{name} {number} {sentence} {sentence}"
            body = {"model": "null", "messages": [{"role": "user", "content": text}], "temperature": 0}
            line = {"custom_id": f"r{number}", "method": "POST", "url": ENDPOINT, "body": body}
            file.write(json.dumps(line) + "\n")


@contextmanager
def run_command(home: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Run a command of docmill until the block ends. Yield its process and the file with its output."""
    log = home / f"{arguments[0]}.log"
    with log.open("wb") as out:
        process = subprocess.Popen([DOCMILL, *arguments], env=make_environment(home), stdout=out, stderr=out)
    try:
        yield process, log
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def make_environment(home: Path) -> dict[str, str]:
    return {**os.environ, "DOCMILL_HOME": str(home), "HF_HUB_OFFLINE": "1"}


def wait_for(condition: Callable[[], Any]) -> Any:
    """Call `condition` until its value is true, and return that value. Raises TimeoutError."""
    deadline = time.monotonic() + LONGEST_S
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.25)
    raise TimeoutError


def read_memory_mb(pid: int, field: str) -> float:
    """Return the memory of a process: its present size in VmRSS, or its peak in VmHWM."""
    match = re.search(rf"{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match is not None
    return int(match[1]) * 1024 / 1e6


class Polling:
    """Clients that retrieve a batch once a second, each in its own thread."""

    def __init__(self, client: openai.OpenAI, batch_id: str, clients: int) -> None:
        self.times_ms: list[float] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._poll, args=(client, batch_id)) for _ in range(clients)]

    def _poll(self, client: openai.OpenAI, batch_id: str) -> None:
        while not self._stop.is_set():
            began = time.perf_counter()
            client.batches.retrieve(batch_id)
            self.times_ms.append((time.perf_counter() - began) * 1_000)
            self._stop.wait(1.0)

    def __enter__(self) -> Polling:
        for thread in self._threads:
            thread.start()
            time.sleep(1 / len(self._threads))  # spreads the requests over the second
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def create_batch(client: openai.OpenAI, requests: Path) -> Batch:
    """Upload a file of requests, and create a batch from it."""
    with requests.open("rb") as file:
        uploaded = client.files.create(file=file, purpose="batch")
    return client.batches.create(input_file_id=uploaded.id, endpoint=ENDPOINT, completion_window="24h")


def retrieve_if(client: openai.OpenAI, batch: Batch, *statuses: str) -> Batch | None:
    """Retrieve a batch. Return it if it has one of these statuses, and None otherwise."""
    current = client.batches.retrieve(batch.id)
    assert current.status not in {"failed", "expired"}, current
    return current if current.status in statuses else None


def measure(folder: Path, n: int, clients: int) -> Measurement:
    """Compute a batch of `n` requests with the server, and the same file with the command."""
    requests, polled_requests, home = folder / "requests.jsonl", folder / "few.jsonl", folder / "home"
    home.mkdir()
    write_requests(requests, n, "request")
    write_requests(polled_requests, n // 5, "another")
    key = subprocess.run(
        [DOCMILL, "keys", "add", "bench"], env=make_environment(home), capture_output=True, text=True, check=True
    ).stdout.strip()
    with ExitStack() as stack:
        limits = ("--max-lines", "1000000", "--max-mb", "2000")
        server, log = stack.enter_context(run_command(home, "serve", "--model", "null", "--port", "0", *limits))
        url = wait_for(lambda: log.read_text().partition("Batch API: ")[2].partition(" ")[0])
        stack.enter_context(run_command(home, "worker"))
        client = openai.OpenAI(base_url=url, api_key=key, max_retries=2, timeout=LONGEST_S)
        client.models.list()
        wait_for(lambda: "Worker on" in (home / "worker.log").read_text())
        idle_mb = read_memory_mb(server.pid, "VmRSS")
        began = time.monotonic()
        batch = create_batch(client, requests)
        upload_s = time.monotonic() - began
        wait_for(lambda: retrieve_if(client, batch, "in_progress", "finalizing", "completed"))
        validating_s = time.monotonic() - began - upload_s
        completed = wait_for(lambda: retrieve_if(client, batch, "completed"))
        until_completed_s = time.monotonic() - began
        began = time.monotonic()
        n_answers = sum(1 for line in client.files.content(completed.output_file_id).iter_lines() if line)
        download_s = time.monotonic() - began
        assert n_answers == n, n_answers
        peak_mb = read_memory_mb(server.pid, "VmHWM")
        polled_batch = create_batch(client, polled_requests)
        with Polling(client, polled_batch.id, clients) as polling:
            wait_for(lambda: retrieve_if(client, polled_batch, "completed"))
    began = time.monotonic()
    command = [DOCMILL, "batch", str(requests), "--model", "null", "--out", str(folder / "out.jsonl")]
    (folder / "alone").mkdir()
    subprocess.run(command, env=make_environment(folder / "alone"), capture_output=True, check=True)
    command_s = time.monotonic() - began
    times_ms = sorted(polling.times_ms)
    return Measurement(
        requests=n,
        upload_s=round(upload_s, 2),
        validating_s=round(validating_s, 1),
        until_completed_s=round(until_completed_s, 1),
        download_s=round(download_s, 2),
        server_per_s=round(n / (until_completed_s + download_s)),
        command_per_s=round(n / command_s),
        idle_mb=round(idle_mb),
        peak_above_idle_mb=round(peak_mb - idle_mb),
        clients=clients,
        polls=len(times_ms),
        poll_median_ms=round(statistics.median(times_ms), 1),
        poll_p99_ms=round(times_ms[int(len(times_ms) * 0.99)], 1),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=50_000)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--dry", action="store_true", help="print the figures, and write no file")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        measurement = measure(Path(folder), options.requests, options.clients)
    print(json.dumps(asdict(measurement), indent=1))
    if not options.dry:
        facts = {"machine": machine(), **asdict(measurement)}
        (RESULTS / "batch-server.json").write_text(json.dumps(facts, indent=1) + "\n")
        print(described(machine()))


if __name__ == "__main__":
    main()
