"""One batch file by `docmill serve` with a worker on vLLM, and by vLLM's own runner: the time to the last answer, and
what is left of each after kill -9 at half.

Both sides write greedily with the same weights in float32. Times have the start of all programs in them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import openai
from openai.types import Batch

from bench import batch_files, models
from bench.batch_server import DOCMILL, create, environment, reached, until
from bench.pairs import RESULTS, described, machine

_OF_RUNNER = ("--dtype", "float32", "--enforce-eager", "--max-model-len", "2048")
_DONE = re.compile(r"\b(\d+)/\d+ ")  # of the runner's progress bar


@dataclass(frozen=True)
class Killed:
    """The answers of a run that was killed at half, those that were kept, and the time of the run after it."""

    answered: int
    kept: int
    until_last_answer_s: float  # from the second start

    @property
    def lost(self) -> int:
        return self.answered - self.kept


@contextmanager
def service(home: Path, folder: Path) -> Iterator[tuple[openai.OpenAI, list[subprocess.Popen[bytes]]]]:
    """Run the server and a worker; a client, and their processes."""
    given = {**environment(home), **batch_files.VLLM, "DOCMILL_BACKEND": "vllm", "DOCMILL_DTYPE": "float32"}
    key = home / "key"
    if not key.exists():
        key.write_text(subprocess.check_output([DOCMILL, "keys", "add", "bench"], env=given, text=True).strip())
    log = home / f"serve-{time.monotonic_ns()}.log"
    commands = (("serve", "--model", f"{batch_files.NAME}={folder}", "--port", "0"), ("worker",))
    with log.open("wb") as out, (home / "worker.log").open("ab") as err:
        processes = [
            subprocess.Popen([DOCMILL, *command], env=given, stdout=file, stderr=file)
            for command, file in zip(commands, (out, err), strict=True)
        ]
        try:
            url = until(lambda: log.read_text().partition("Batch API: ")[2].partition(" ")[0])
            yield openai.OpenAI(base_url=url, api_key=key.read_text(), max_retries=5), processes
        finally:
            for process in processes:
                process.terminate()
                process.wait(60)


def kill_all(processes: list[subprocess.Popen[bytes]]) -> None:
    """kill -9 of processes and their children, at once."""
    pids = [pid for process in processes for pid in _family(process.pid)]
    for number in (signal.SIGSTOP, signal.SIGKILL):  # else a child sees that its parent is dead
        for pid in pids:
            os.kill(pid, number)
    for process in processes:
        process.wait()


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in _family(int(child)))]


def n_stored(home: Path) -> int:
    """Return the number of results in a store."""
    with closing(sqlite3.connect(home / "docmill.db")) as connection:
        return int(connection.execute("SELECT count(*) FROM outcome").fetchone()[0])


def serve_to_the_end(home: Path, folder: Path, file: Path) -> float:
    """Return the seconds from the start of server and worker until the last answer is here."""
    began = time.monotonic()
    with service(home, folder) as (client, _):
        check(client, create(client, file), file)
        return time.monotonic() - began


def check(client: openai.OpenAI, batch: Batch, file: Path) -> None:
    """Wait for the end of a batch. Raises SystemExit unless each request has its answer."""
    done = until(lambda: reached(client, batch, "completed"))
    answers = client.files.content(done.output_file_id).text.splitlines()
    ids = [json.loads(line)["custom_id"] for lines in (answers, file.read_text().splitlines()) for line in lines]
    if ids[: len(answers)] != ids[len(answers) :]:
        raise SystemExit(f"{len(answers)} answers, and not one for each request")


def serve_and_kill(home: Path, folder: Path, file: Path, half: int) -> Killed:
    """Kill server and worker once half of the results are stored, and start both again."""
    with service(home, folder) as (client, processes):
        batch = create(client, file)
        until(lambda: n_stored(home) >= half)
        kill_all(processes)
    kept, began = n_stored(home), time.monotonic()
    with service(home, folder) as (client, _):
        check(client, batch, file)
        return Killed(kept, kept, round(time.monotonic() - began, 1))


def runner(folder: Path, file: Path, out: Path) -> subprocess.Popen[bytes]:
    """Start vLLM's runner, with its log beside its output."""
    command = [sys.executable, "-m", "vllm.entrypoints.launchers.run_batch", "-i", str(file), "-o", str(out)]
    model = ["--model", str(folder), "--served-model-name", batch_files.NAME, *_OF_RUNNER]
    with out.with_suffix(".log").open("wb") as log:
        given = {**os.environ, **batch_files.VLLM}
        return subprocess.Popen([*command, *model], env=given, cwd=out.parent, stdout=log, stderr=log)


def run_to_the_end(folder: Path, file: Path, out: Path) -> float:
    """Return the seconds of vLLM's runner. Raises SystemExit unless each request has its answer."""
    began = time.monotonic()
    if runner(folder, file, out).wait() or len(batch_files.read(out)) != len(file.read_text().splitlines()):
        raise SystemExit(out.with_suffix(".log").read_text()[-4_000:])
    return time.monotonic() - began


def run_and_kill(folder: Path, file: Path, out: Path, half: int) -> Killed:
    """Kill vLLM's runner once its progress bar shows half, and start it again."""
    process, log = runner(folder, file, out), out.with_suffix(".log")

    def answered() -> int:
        if process.poll() is not None:
            raise SystemExit(log.read_text()[-4_000:])
        return max(map(int, _DONE.findall(log.read_text(errors="replace"))), default=0)

    until(lambda: answered() >= half)
    n = answered()
    kill_all([process])
    kept = len(batch_files.read(out)) if out.exists() else 0
    return Killed(n, kept, round(run_to_the_end(folder, file, out), 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=192)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--dry", action="store_true", help="print the figures, and write no file")
    given = parser.parse_args()
    folder, found = models.fetched(models.SMOLLM2), dict[str, object]()
    with ExitStack() as stack:
        work = Path(stack.enter_context(TemporaryDirectory()))
        file = batch_files.put(work / "chats.jsonl", batch_files.chats(given.requests, given.tokens))
        for name in ("whole", "killed"):
            (work / name).mkdir()
        found["docmill_s"] = round(serve_to_the_end(work / "whole", folder, file), 1)
        found["run_batch_s"] = round(run_to_the_end(folder, file, work / "whole.jsonl"), 1)
        half = given.requests // 2
        killed = serve_and_kill(work / "killed", folder, file, half)
        found["docmill_killed"] = {**asdict(killed), "lost": killed.lost}
        killed = run_and_kill(folder, file, work / "killed.jsonl", half)
        found["run_batch_killed"] = {**asdict(killed), "lost": killed.lost}
    facts = {"machine": machine(), "requests": given.requests, "tokens": given.tokens, **found}
    print(json.dumps(facts, indent=1))
    if not given.dry:
        (RESULTS / "batch-kill.json").write_text(json.dumps(facts, indent=1) + "\n")
        print(described(machine()))


if __name__ == "__main__":
    main()
