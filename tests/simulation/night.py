"""A night in fast time: pipelines, jobs, people and faults by a seed, then peace, in which everything has to end.

`python -m tests.simulation.night SEED` repeats one night and prints its last events.
"""

from __future__ import annotations

import json
import logging
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from sqlalchemy import select

from docmill.storage.core.schema import Content, Document, Job
from docmill.storage.core.specs import ShardSize
from docmill.storage.deletion import gc, removal, retention
from docmill.storage.errors import JobStopped, StorageError
from docmill.storage.ingest import chunks
from docmill.storage.leases import policy
from docmill.storage.pipelines import pipelines
from docmill.storage.results.results import results
from docmill.storage.results.status import read_status
from docmill.storage.steps import jobs, lineage
from docmill.tasks.errors import TaskError
from docmill.worker.errors import WorkerError
from docmill.worker.pipelines.file import parse
from docmill.worker.pipelines.running import prepare_pipeline
from docmill.worker.settings import load_settings
from docmill.worker.submit import enqueue
from tests.kinds import sized
from tests.simulation.fleet import FAILS, HANGS, KILLS, RAISES, Fleet, on_virtual_time
from tests.simulation.scheduler import NightFailed, Scheduler, SimProcess
from tests.simulation.store import Store, expected

KINDS = sized(translate=ShardSize(3, 1_000), summarize=ShardSize(2, 1_000))
FAULTS_S = 400.0  # how long faults come
CALM_S = 2 * 3_600.0  # the time within which everything has to end
LOOK_S = 20.0
EVERY_MINUTES = 2
FIRST_STEP = """
name = "{name}"
[corpus]
source = "{name}.jsonl"
{prune}
[[step]]
name = "english"
task = "translate"
model = "null"
"""
SECOND_STEP = """
[[step]]
name = "line"
task = "summarize"
model = "null"
[output]
file = "{name}.out.jsonl"
"""
BAD = (KILLS, HANGS, FAILS, RAISES)
HANDS = ("left", "right")  # corpora of jobs that people start
ERRORS = (StorageError, WorkerError, TaskError, OSError)


@dataclass(frozen=True)
class Report:
    """A night that went well."""

    seed: int
    fingerprint: str
    events: int
    calm_after_s: float
    trace: list[str]


class Nights:
    """Nights that share a store and its compiled statements."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(folder, KINDS)

    def run(self, seed: int, only: str | None = None) -> Report:
        """Run a night, with all faults or one. Raises NightFailed, with the seed and the last events."""
        random.seed(seed)  # for the jitter of docmill's own code
        scheduler = Scheduler(seed)
        night = Night(scheduler, self.store, self.folder, only)
        with _small(), on_virtual_time(night.fleet):
            try:
                calm_after_s = night.run()
            except (AssertionError, *ERRORS) as error:
                trace = "\n".join(scheduler.trace)
                raise NightFailed(
                    f"night {seed} failed: {error}\n{trace}\n"
                    f"repeat it: .venv/bin/python -m tests.simulation.night {seed}"
                ) from error
            finally:
                night.end()
        return Report(seed, scheduler.fingerprint, scheduler.events, calm_after_s, list(scheduler.trace))


@contextmanager
def _small() -> Iterator[None]:
    """Give up soon, and read few records at a time."""
    with ExitStack() as stack:
        for name, value in {"MAX_ATTEMPTS": 2, "LAPSES_TOGETHER": 2, "MAX_LAPSES": 4}.items():
            stack.enter_context(mock.patch.object(policy, name, value))
        for name, value in {"FIRST_CHUNK_RECORDS": 2, "CHUNK_RECORDS": 4}.items():
            stack.enter_context(mock.patch.object(chunks, name, value))
        logging.disable(logging.CRITICAL)
        stack.callback(logging.disable, logging.NOTSET)
        yield


class Night:
    """The fleet, the people and the faults of one night."""

    def __init__(self, scheduler: Scheduler, store: Store, folder: Path, only: str | None) -> None:
        self.scheduler = scheduler
        self.rng = scheduler.rng
        self.store = store
        self.folder = folder
        self.only = only
        for old in folder.glob("*.jsonl"):
            old.unlink()
        store.begin(scheduler)
        settings = load_settings(
            database_url=f"sqlite:///{store.file}",
            redis_url="redis://simulated",
            lanes="translate,summarize",
            threads=self.rng.randint(1, 4),
            upkeep_s=20.0,
            lease_s=120.0,
            hang_s=120.0,
            batch_limit_s=240.0,
        )
        self.fleet = Fleet(scheduler, store, settings)
        self.hosts = [f"host{n}" for n in range(self.rng.choice([1, 2, 2, 3]))]
        self.n_devices = {host: self.rng.choice([1, 1, 2]) for host in self.hosts}
        self.has_faults = self.rng.random() < 0.9 or only is not None
        self.has_bad_texts = self.rng.random() < 0.5
        self.people = SimProcess(scheduler, "people", "desk")
        self.database = store.database_of(self.people)
        self.at_work: dict[str, SimProcess] = {}
        self.is_calm = False

    def run(self) -> float:
        """Return the seconds from the last fault until everything had ended."""
        self.write_corpus("nightly")
        overlap = self.rng.choice(["skip", "queue"])
        self.schedule({"cron": f"*/{EVERY_MINUTES} * * * *", "timezone": "UTC", "overlap": overlap})
        for host in self.hosts:
            self.fleet.boot(host, self.n_devices[host])
        busy = [self.people.start(self.act, name="life")]
        if self.has_faults:
            busy.append(self.people.start(self.break_things, name="faults"))
        self.scheduler.sleep(FAULTS_S)
        self.is_calm = True
        for task in busy:
            task.join()
        self.make_peace()
        began = self.scheduler.now
        self.wait_for_the_end()
        calm_after_s = self.scheduler.now - began
        self.check_results()
        return calm_after_s

    def end(self) -> None:
        """End all processes."""
        self.scheduler.end()

    # People

    def act(self) -> None:
        """Submit, change and remove jobs and documents until the faults are over."""
        acts = [self.submit] * 3 + [self.edit] * 2 + [self.change_a_job] * 3 + [self.tidy_up]
        while not self.is_calm:
            self.scheduler.sleep(self.rng.expovariate(1 / 40.0))
            act = self.rng.choice(acts)
            with suppress(*ERRORS):
                act()

    def write_corpus(self, name: str) -> None:
        """Write a corpus of some documents, which may have bad texts."""
        n = self.rng.randint(3, 12)
        lines = []
        for key in range(n):
            words = f"text {key} of {self.rng.randint(0, 2)}"
            if self.has_bad_texts and self.rng.random() < 0.06:
                words += " " + self.rng.choice(BAD)
            lines.append(json.dumps({"id": f"{name}{key}", "text": words}, ensure_ascii=False))
        if self.rng.random() < 0.2:
            lines.append("no JSON")
        (self.folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
        self.scheduler.note(f"{name} has {n} documents")

    def edit(self) -> None:
        """Change a corpus."""
        self.write_corpus(self.rng.choice(["nightly", *HANDS]))

    def schedule(self, when: dict[str, str] | None) -> None:
        prune = "prune = true\nprune-max = 100" if self.rng.random() < 0.3 else ""
        text = FIRST_STEP.format(name="nightly", prune=prune) + SECOND_STEP.format(name="nightly")
        pipelines.put(self.database, "nightly", str(self.folder / "nightly.toml"), text, when)

    def submit(self) -> None:
        """Start a command that reads a corpus into a job, and is repeated until it succeeds."""
        name = self.rng.choice(HANDS)
        if name in self.at_work:
            return
        self.write_corpus(name)
        self.at_work[name] = self.scheduler.spawn(f"enqueue {name}", "desk", self.enqueue, name)

    def enqueue(self, name: str) -> None:
        process = self.scheduler.current.process
        pipeline = parse(FIRST_STEP.format(name=name, prune=""), self.folder / f"{name}.toml")
        while True:
            try:
                prepared = prepare_pipeline(self.fleet.settings, pipeline)
                enqueue.enqueue(self.store.database_of(process), self.fleet.broker(process), prepared)
                break
            except JobStopped:
                break
            except ERRORS:
                self.scheduler.sleep(5.0)
        del self.at_work[name]

    def restart_command(self, name: str) -> None:
        self.at_work[name].kill()
        self.at_work[name] = self.scheduler.spawn(f"enqueue {name}", "desk", self.enqueue, name)

    def change_a_job(self) -> None:
        ids = sorted(self.store.laws.jobs)
        if not ids:
            return
        job_id = self.rng.choice(ids[-4:])
        acts: list[Callable[..., object]] = [jobs.cancel, jobs.pause, jobs.resume, jobs.retry, jobs.prioritize]
        act = self.rng.choice(acts)
        more = [self.rng.randint(-1, 2)] if act is jobs.prioritize else []
        self.scheduler.note(f"{act.__name__} job {job_id}")
        act(self.database, job_id, *more)

    def tidy_up(self) -> None:
        act = self.rng.choice(["gc", "retention", "corpus", "documents", "read"])
        self.scheduler.note(f"tidies up: {act}")
        if act == "gc":
            gc.collect(self.database)
        elif act == "retention":
            ages = dict.fromkeys([rule.name for rule in retention.every_rule()], self.rng.uniform(60.0, 600.0))
            retention.apply(self.database, ages)
        elif act == "corpus":
            removal.remove_corpus(self.database, self.rng.choice(HANDS))
        elif act == "documents":
            name = self.rng.choice(HANDS)
            removal.remove_documents(self.database, name, {f"{name}{self.rng.randint(0, 5)}"})
        else:
            for job_id in sorted(self.store.laws.jobs)[-3:]:
                read_status(self.database, job_id)
                list(results(self.database, job_id))

    # Faults

    def break_things(self) -> None:
        """Cause faults of some kinds until the night is calm."""
        faults = [
            *(self.kill_device, self.kill_device, self.kill_supervisor, self.suspend, self.drain, self.lose_power),
            *(self.break_queue, self.empty_queue, self.cut_off_store, self.disturb_store, self.refuse_models),
            *(self.kill_command, self.kill_device),
        ]
        chosen = [getattr(self, self.only)] if self.only else self.rng.sample(faults, self.rng.randint(1, 5))
        every_s = self.rng.choice([20.0, 60.0, 150.0])
        while not self.is_calm:
            self.scheduler.sleep(self.rng.expovariate(1 / every_s))
            if not self.is_calm:
                self.rng.choice(chosen)()

    def undo_later(self, end: Callable[[], object], longest_s: float = 150.0) -> None:
        """Undo a fault after a while."""

        def wait() -> None:
            self.scheduler.sleep(self.rng.uniform(1.0, longest_s))
            end()

        self.people.start(wait, name="end of a fault")

    def choose_process(self, part: str) -> SimProcess | None:
        """Return one of the living processes with this part in their names."""
        processes = [process for process in self.fleet.processes() if part in process.name]
        return self.rng.choice(processes) if processes else None

    def kill_device(self) -> None:
        if (process := self.choose_process("/device")) is not None:
            process.kill()

    def kill_supervisor(self) -> None:
        if (process := self.choose_process("/worker")) is not None:
            process.kill()
            self.boot_later(process.host)

    def lose_power(self) -> None:
        host = self.rng.choice(self.hosts)
        self.scheduler.note(f"{host} loses its power")
        for process in self.fleet.processes(host):
            process.kill()
        if len(self.hosts) == 1 or self.rng.random() < 0.5:  # otherwise it is down until peace
            self.boot_later(host)

    def boot_later(self, host: str) -> None:
        self.undo_later(lambda: None if self.fleet.is_alive(host) else self.fleet.boot(host, self.n_devices[host]))

    def suspend(self) -> None:
        """Suspend a process, or all processes of a host."""
        awake = [process for process in self.fleet.processes(self.rng.choice(self.hosts)) if not process.is_frozen]
        chosen = self.rng.choice([awake, awake[-1:]])
        for process in chosen:
            self.scheduler.note(f"{process.name} is suspended")
            process.freeze()

        def thaw() -> None:
            for process in chosen:
                process.thaw()

        self.undo_later(thaw, 300.0)

    def drain(self) -> None:
        host = self.rng.choice(self.hosts)
        if self.fleet.is_alive(host):
            self.scheduler.note(f"{host} drains")
            self.fleet.supervisors[host][1].drain(now=self.rng.random() < 0.3)
            self.boot_later(host)

    def kill_command(self) -> None:
        if self.at_work:
            self.restart_command(self.rng.choice(sorted(self.at_work)))

    def empty_queue(self) -> None:
        self.scheduler.note("the queue is emptied")
        self.fleet.queue.flush()

    def break_queue(self) -> None:
        """Let the queue lose, double and delay messages, or be unreachable for some hosts."""
        queue = self.fleet.queue
        if self.rng.random() < 0.5:
            queue.loses, queue.doubles, queue.delays = (self.rng.uniform(0.0, 0.5) for _ in range(3))
            return
        hosts = set(self.rng.sample([*self.hosts, "desk"], self.rng.randint(1, len(self.hosts))))
        self.scheduler.note(f"{sorted(hosts)} do not reach the queue")
        queue.away |= hosts
        self.undo_later(lambda: queue.away.difference_update(hosts))

    def cut_off_store(self) -> None:
        hosts = set(self.rng.sample([*self.hosts, "desk"], self.rng.randint(1, len(self.hosts))))
        self.scheduler.note(f"{sorted(hosts)} do not reach the store")
        self.store.away |= hosts
        self.undo_later(lambda: self.store.away.difference_update(hosts), 300.0)

    def disturb_store(self) -> None:
        self.store.busy, self.store.loses_answers = self.rng.uniform(0.0, 0.3), self.rng.uniform(0.0, 0.3)
        self.undo_later(self.steady_store)

    def steady_store(self) -> None:
        self.store.busy = self.store.loses_answers = 0.0

    def refuse_models(self) -> None:
        self.fleet.refuses = self.rng.uniform(0.0, 1.0)

    # Peace

    def make_peace(self) -> None:
        """Undo all faults, and let nothing new begin."""
        self.store.away.clear()
        self.steady_store()
        queue = self.fleet.queue
        queue.away.clear()
        queue.loses = queue.doubles = queue.delays = self.fleet.refuses = 0.0
        for process in self.fleet.processes():
            if process.is_frozen:
                process.thaw()
        self.scheduler.note("peace")
        self.schedule(None)
        while any(map(self.fleet.is_draining, self.hosts)):
            self.scheduler.sleep(LOOK_S)
        for host in self.hosts:
            if not self.fleet.is_alive(host) and self.rng.random() < 0.5:
                self.fleet.boot(host, 1)
        if not any(map(self.fleet.is_alive, self.hosts)):
            self.fleet.boot(self.hosts[0], 1)
        for job in list(self.store.laws.jobs.values()):
            if job.paused:
                jobs.resume(self.database, job.id)

    def wait_for_the_end(self) -> None:
        until = self.scheduler.now + CALM_S
        while unfinished := self.list_unfinished():
            assert self.scheduler.now < until, f"not over after {CALM_S:g} s: {unfinished}"
            self.scheduler.sleep(LOOK_S)

    def list_unfinished(self) -> list[Any]:
        """Return the jobs, runs, shards and commands that have not ended."""
        laws = self.store.laws
        going = [job for job in laws.jobs.values() if job.finished_at is None]
        runs = [run for run in laws.runs.values() if run.finished_at is None]
        held = [shard for shard in laws.shards.values() if shard.state == "running"]
        return [*going, *runs, *held, *self.at_work]

    def check_results(self) -> None:
        """Assert that a run on an undisturbed fleet exports the right result of each document."""
        self.had_bad_texts, self.has_bad_texts = self.has_bad_texts, False
        self.write_corpus("nightly")
        earlier = {*self.store.laws.runs}
        self.schedule({"cron": "* * * * *", "timezone": "UTC", "overlap": "skip"})
        while not (runs := {*self.store.laws.runs} - earlier):
            self.scheduler.sleep(LOOK_S)
        self.schedule(None)
        self.wait_for_the_end()
        self.store.laws.check_invariants()
        run = self.store.laws.runs[max(runs)]
        assert run.state == "done", f"the last run ended as {run}"
        assert run.job_id is not None
        rows = [json.loads(line) for line in (self.folder / "nightly.out.jsonl").read_text().splitlines()]
        assert len({row["id"] for row in rows}) == len(rows), f"documents are exported twice: {rows}"
        # A document whose last step failed is exported with the steps before it.
        written = {row["id"]: row["steps"]["line"]["text"] for row in rows if "line" in row["steps"]}
        with self.database.read() as transaction:
            job = Job.of(transaction.execute(select(Job).where(Job.id == run.job_id)).one())
            query = select(Document.key, Content.text).join(Content, Content.id == Document.content_id)
            texts = {row.key: row.text for row in transaction.execute(query.where(lineage.visible(job)))}
        wanted = {key: expected("summarize", expected("translate", text)) for key, text in texts.items()}
        failed = {(row.kind, row.text) for row in self.store.laws.outcomes.values() if row.status == "failed"}
        if not self.has_faults and not self.had_bad_texts:
            assert not failed, f"texts fail although nothing does: {failed}"
        for key, text in texts.items():
            if {("translate", text), ("summarize", expected("translate", text))} & failed:
                del wanted[key]
        assert written == wanted, (
            f"only in the output: {written.items() - wanted.items()}; not in it: {wanted.items() - written.items()}"
        )


def main() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        nights = Nights(Path(folder))
        for seed in map(int, sys.argv[1:]):
            report = nights.run(seed)
            print(*report.trace[-5:], sep="\n")
            print(f"night {seed}: {report.events} events, {report.calm_after_s:.0f} s, {report.fingerprint[:16]}")


if __name__ == "__main__":
    main()
