"""`docmill serve` on the null model: requests a second in and out, memory, and the time of an answer while many poll.

`docmill batch` reads the same file, computes it and writes the answers by itself, in a store of its own.
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
class Measured:
    """Seconds of each part of a batch, requests a second by server and command, memory, and times of answers."""

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
    """Write a file of requests, each with its own text of about 40 words."""
    words = ["the river that runs past the old mill carries leaves and light down to the sea in autumn"]
    with path.open("w") as file:
        for number in range(n):
            said = " ".join([f"{name} {number}", *words, *words])
            body = {"model": "null", "messages": [{"role": "user", "content": said}], "temperature": 0}
            line = {"custom_id": f"r{number}", "method": "POST", "url": ENDPOINT, "body": body}
            file.write(json.dumps(line) + "\n")


@contextmanager
def started(home: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Run a command of docmill for the length of the block; its process, and the file of what it says."""
    log = home / f"{arguments[0]}.log"
    with log.open("wb") as out:
        process = subprocess.Popen([DOCMILL, *arguments], env=environment(home), stdout=out, stderr=out)
    try:
        yield process, log
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "DOCMILL_HOME": str(home), "HF_HUB_OFFLINE": "1"}


def until(condition: Callable[[], Any]) -> Any:
    """Wait for the first true value of a condition."""
    deadline = time.monotonic() + LONGEST_S
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.25)
    raise TimeoutError


def memory_mb(pid: int, name: str) -> float:
    """Return a size of a process's memory: VmRSS now, or VmHWM at most so far."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1_000


class Polling:
    """Clients that ask for a batch once a second, each on a connection of its own."""

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
            time.sleep(1 / len(self._threads))  # spread over the second
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def create(client: openai.OpenAI, requests: Path) -> Batch:
    """Upload a file, and make a batch of it."""
    with requests.open("rb") as file:
        uploaded = client.files.create(file=file, purpose="batch")
    return client.batches.create(input_file_id=uploaded.id, endpoint=ENDPOINT, completion_window="24h")


def reached(client: openai.OpenAI, batch: Batch, *statuses: str) -> Batch | None:
    """Return the batch if it has one of these statuses."""
    now = client.batches.retrieve(batch.id)
    assert now.status not in {"failed", "expired"}, now
    return now if now.status in statuses else None


def measure(folder: Path, n: int, clients: int) -> Measured:
    """Return the figures of one batch by the server, and of the same file by the command."""
    requests, few, home = folder / "requests.jsonl", folder / "few.jsonl", folder / "home"
    home.mkdir()
    write_requests(requests, n, "request")
    write_requests(few, n // 5, "another")
    key = subprocess.run(
        [DOCMILL, "keys", "add", "bench"], env=environment(home), capture_output=True, text=True, check=True
    ).stdout.strip()
    with ExitStack() as stack:
        limits = ("--max-lines", "1000000", "--max-mb", "2000")
        server, log = stack.enter_context(started(home, "serve", "--model", "null", "--port", "0", *limits))
        url = until(lambda: log.read_text().partition("Batch API: ")[2].partition(" ")[0])
        stack.enter_context(started(home, "worker"))
        client = openai.OpenAI(base_url=url, api_key=key, max_retries=2, timeout=LONGEST_S)
        client.models.list()
        until(lambda: "Worker on" in (home / "worker.log").read_text())
        idle_mb = memory_mb(server.pid, "VmRSS")
        began = time.monotonic()
        batch = create(client, requests)
        upload_s = time.monotonic() - began
        until(lambda: reached(client, batch, "in_progress", "finalizing", "completed"))
        validating_s = time.monotonic() - began - upload_s
        done = until(lambda: reached(client, batch, "completed"))
        until_completed_s = time.monotonic() - began
        began = time.monotonic()
        n_answers = sum(1 for line in client.files.content(done.output_file_id).iter_lines() if line)
        download_s = time.monotonic() - began
        assert n_answers == n, n_answers
        peak_mb = memory_mb(server.pid, "VmHWM")
        polled = create(client, few)
        with Polling(client, polled.id, clients) as polling:
            until(lambda: reached(client, polled, "completed"))
    began = time.monotonic()
    command = [DOCMILL, "batch", str(requests), "--model", "null", "--out", str(folder / "out.jsonl")]
    (folder / "alone").mkdir()
    subprocess.run(command, env=environment(folder / "alone"), capture_output=True, check=True)
    command_s = time.monotonic() - began
    times = sorted(polling.times_ms)
    return Measured(
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
        polls=len(times),
        poll_median_ms=round(statistics.median(times), 1),
        poll_p99_ms=round(times[int(len(times) * 0.99)], 1),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=50_000)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--dry", action="store_true", help="print the figures, and write no file")
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        found = measure(Path(folder), given.requests, given.clients)
    print(json.dumps(asdict(found), indent=1))
    if not given.dry:
        facts = {"machine": machine(), **asdict(found)}
        (RESULTS / "batch-server.json").write_text(json.dumps(facts, indent=1) + "\n")
        print(described(machine()))


if __name__ == "__main__":
    main()
