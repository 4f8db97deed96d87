"""Compare `docmill serve` and a worker on vLLM with vLLM's own runner: time, and answers lost by kill -9 at half.

Both sides compute the same batch file, decode greedily and use the same weights in float32. Times include the start
of all programs.
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
from bench.batch_server import DOCMILL, create_batch, make_environment, retrieve_if, wait_for
from bench.pairs import RESULTS, described, machine

_RUNNER_OPTIONS = ("--dtype", "float32", "--enforce-eager", "--max-model-len", "2048")
_PROGRESS = re.compile(r"\b(\d+)/\d+ ")  # in the runner's progress bar


@dataclass(frozen=True)
class KilledRun:
    """The answers of a run when it was killed, the answers that it kept, and the time of the run after it."""

    answered: int
    kept: int
    until_last_answer_s: float  # since the second start

    @property
    def lost(self) -> int:
        return max(0, self.answered - self.kept)  # answers may be stored that nobody was told of


@contextmanager
def run_service(home: Path, folder: Path) -> Iterator[tuple[openai.OpenAI, list[subprocess.Popen[bytes]]]]:
    """Run the server and a worker until the block ends. Yield a client, and both processes."""
    environment = {**make_environment(home), **batch_files.VLLM}
    environment |= {"DOCMILL_BACKEND": "vllm", "DOCMILL_DTYPE": "float32"}
    key = home / "key"
    if not key.exists():
        key.write_text(subprocess.check_output([DOCMILL, "keys", "add", "bench"], env=environment, text=True).strip())
    log = home / f"serve-{time.monotonic_ns()}.log"
    commands = (("serve", "--model", f"{batch_files.MODEL_NAME}={folder}", "--port", "0"), ("worker",))
    with log.open("wb") as server_out, (home / "worker.log").open("ab") as worker_out:
        processes = [
            subprocess.Popen([DOCMILL, *command], env=environment, stdout=out, stderr=out)
            for command, out in zip(commands, (server_out, worker_out), strict=True)
        ]
        try:
            url = wait_for(lambda: log.read_text().partition("Batch API: ")[2].partition(" ")[0])
            yield openai.OpenAI(base_url=url, api_key=key.read_text(), max_retries=5), processes
        finally:
            for process in processes:
                process.terminate()
                process.wait(60)


def kill_all(processes: list[subprocess.Popen[bytes]]) -> None:
    """Kill processes and their descendants at once, as kill -9 does."""
    pids = [pid for process in processes for pid in _list_with_descendants(process.pid)]
    for kill_signal in (signal.SIGSTOP, signal.SIGKILL):  # stopped first, so that no child sees its parent die
        for pid in pids:
            os.kill(pid, kill_signal)
    for process in processes:
        process.wait()


def _list_with_descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(descendant for child in children for descendant in _list_with_descendants(int(child)))]


def count_results(home: Path) -> int:
    """Return the number of results in a store."""
    with closing(sqlite3.connect(home / "docmill.db")) as connection:
        return int(connection.execute("SELECT count(*) FROM outcome").fetchone()[0])


def serve_to_the_end(home: Path, folder: Path, file: Path) -> float:
    """Compute a batch. Return the seconds from the start of server and worker to the download of the answers."""
    began = time.monotonic()
    with run_service(home, folder) as (client, _):
        wait_for_answers(client, create_batch(client, file), file)
        return time.monotonic() - began


def wait_for_answers(client: openai.OpenAI, batch: Batch, file: Path) -> None:
    """Wait until a batch is completed. Raises SystemExit unless its answers are those of all requests, in order."""
    completed = wait_for(lambda: retrieve_if(client, batch, "completed"))
    answers = client.files.content(completed.output_file_id).text.splitlines()
    ids = [json.loads(line)["custom_id"] for lines in (answers, file.read_text().splitlines()) for line in lines]
    if ids[: len(answers)] != ids[len(answers) :]:
        raise SystemExit(f"the {len(answers)} answers are not one for each request")


def serve_and_kill(home: Path, folder: Path, file: Path, half: int) -> KilledRun:
    """Kill server and worker once half of the results are stored, and start both again."""
    with run_service(home, folder) as (client, processes):
        batch = create_batch(client, file)
        wait_for(lambda: count_results(home) >= half)
        counts = client.batches.retrieve(batch.id).request_counts
        kill_all(processes)
    assert counts is not None
    kept, began = count_results(home), time.monotonic()
    with run_service(home, folder) as (client, _):
        wait_for_answers(client, batch, file)
        return KilledRun(counts.completed, kept, round(time.monotonic() - began, 1))


def start_runner(folder: Path, file: Path, out: Path) -> subprocess.Popen[bytes]:
    """Start vLLM's runner. Its log is beside its output."""
    command = [sys.executable, "-m", "vllm.entrypoints.launchers.run_batch", "-i", str(file), "-o", str(out)]
    model = ["--model", str(folder), "--served-model-name", batch_files.MODEL_NAME, *_RUNNER_OPTIONS]
    with out.with_suffix(".log").open("wb") as log:
        environment = {**os.environ, **batch_files.VLLM}
        return subprocess.Popen([*command, *model], env=environment, cwd=out.parent, stdout=log, stderr=log)


def run_to_the_end(folder: Path, file: Path, out: Path) -> float:
    """Run vLLM's runner. Return its seconds. Raises SystemExit unless each request has an answer."""
    began = time.monotonic()
    status = start_runner(folder, file, out).wait()
    if status or len(batch_files.read_answers(out)) != len(file.read_text().splitlines()):
        raise SystemExit(out.with_suffix(".log").read_text()[-4_000:])
    return time.monotonic() - began


def run_and_kill(folder: Path, file: Path, out: Path, half: int) -> KilledRun:
    """Kill vLLM's runner once its progress bar shows half, and start it again."""
    process, log = start_runner(folder, file, out), out.with_suffix(".log")

    def count_answered() -> int:
        if process.poll() is not None:
            raise SystemExit(log.read_text()[-4_000:])
        return max(map(int, _PROGRESS.findall(log.read_text(errors="replace"))), default=0)

    wait_for(lambda: count_answered() >= half)
    answered = count_answered()
    kill_all([process])
    kept = len(batch_files.read_answers(out)) if out.exists() else 0
    return KilledRun(answered, kept, round(run_to_the_end(folder, file, out), 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=192)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--dry", action="store_true", help="print the figures, and write no file")
    options = parser.parse_args()
    folder, figures = models.fetched(models.SMOLLM2), dict[str, object]()
    with ExitStack() as stack:
        work = Path(stack.enter_context(TemporaryDirectory()))
        requests = batch_files.make_chat_requests(options.requests, options.tokens)
        file = batch_files.write_requests(work / "chats.jsonl", requests)
        for name in ("whole", "killed"):
            (work / name).mkdir()
        figures["docmill_s"] = round(serve_to_the_end(work / "whole", folder, file), 1)
        figures["run_batch_s"] = round(run_to_the_end(folder, file, work / "whole.jsonl"), 1)
        half = options.requests // 2
        killed = serve_and_kill(work / "killed", folder, file, half)
        figures["docmill_killed"] = {**asdict(killed), "lost": killed.lost}
        killed = run_and_kill(folder, file, work / "killed.jsonl", half)
        figures["run_batch_killed"] = {**asdict(killed), "lost": killed.lost}
    facts = {"machine": machine(), "requests": options.requests, "tokens": options.tokens, **figures}
    print(json.dumps(facts, indent=1))
    if not options.dry:
        (RESULTS / "batch-kill.json").write_text(json.dumps(facts, indent=1) + "\n")
        print(described(machine()))


if __name__ == "__main__":
    main()
