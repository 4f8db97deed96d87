"""Each alert of `deploy/prometheus` fires after its fault, and clears after the remedy of the runbook.

Workers, exporter, Prometheus, PostgreSQL and Redis are real and the test's own. Prometheus looks each second, and
`for`, ranges and bounds in the rules are seconds in place of minutes (`quick_rules`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from celery import Celery
from sqlalchemy import update

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Ingest, PipelineRow, Refusal, db_now
from tests.fault_points import FAULT, MARKER
from tests.faults.fleet import Fleet, numbered
from tests.faults.servers import HOST, PostgresCluster, RedisServer, Server, free_port, missing
from tests.faults.test_models import TRANSLATE
from tests.faults.test_unexpected_errors import close, reopen
from tests.worker.harness import EXAMPLES, ROOT, Running, device_pids, kill_group, until

pytestmark = [pytest.mark.alerts, pytest.mark.timeout(900)]

RULES = ROOT / "deploy" / "prometheus" / "docmill.rules.yml"
PATIENCE = "2s"  # in place of each `for`
RANGES = {"[30m]": "[120s]"}
SECONDS = {"> 900": "> 2"}
ALERTS = [rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
WITHIN_S = 150.0
DAY_S = 86_400.0


@dataclass
class Watched:
    """A fleet with an exporter and a Prometheus."""

    fleet: Fleet
    redis: RedisServer
    cluster: PostgresCluster
    prometheus: Prometheus
    exporter_port: int
    worker_port: int
    exporter: Running

    def fires(self, alert: str) -> None:
        until(lambda: alert in self.prometheus.firing(), f"{alert} fires", WITHIN_S, 0.5)

    def clears(self, alert: str) -> None:
        until(lambda: alert not in self.prometheus.firing(), f"{alert} clears", WITHIN_S, 0.5)

    def sees(self, query: str) -> None:
        until(lambda: self.prometheus.knows(query), f"Prometheus sees {query}", WITHIN_S, 0.5)

    def export(self) -> None:
        """Start the exporter, always at the same port."""
        self.exporter = self.fleet.start("metrics", "--port", self.exporter_port)

    @contextmanager
    def worker(self, *options: str, fault: str | None = None) -> Iterator[Running]:
        with self.fleet.worker(*options, fault=fault, metrics_port=self.worker_port) as process:
            yield process


@pytest.fixture
def watched(
    tmp_path: Path, restartable: Database, own_postgres: PostgresCluster, own_redis: RedisServer
) -> Iterator[Watched]:
    fleet = Fleet(tmp_path, restartable, own_redis.url)
    ports = free_port(), free_port()
    with Prometheus(tmp_path / "prometheus", {"docmill": ports[0], "docmill-workers": ports[1]}) as prometheus:
        watched = Watched(
            fleet, own_redis, own_postgres, prometheus, *ports, fleet.start("metrics", "--port", ports[0])
        )
        try:
            watched.sees("docmill_build_info")
            yield watched
        finally:
            kill_group(watched.exporter)


Trial = Callable[[Watched], None]
TRIALS: dict[str, Trial] = {}


def trial(act: Trial) -> Trial:
    """Register the trial of the alert that the function is named for."""
    TRIALS["".join(part.capitalize() for part in f"docmill_{act.__name__}".split("_"))] = act
    return act


def test_each_alert_has_its_trial() -> None:
    assert {*TRIALS} == {*ALERTS}


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_fires_by_its_fault_and_clears_by_its_remedy(alert: str, watched: Watched) -> None:
    watched.clears(alert)  # the exporter may have started slower than the quick clock allows
    TRIALS[alert](watched)
    watched.clears(alert)


@trial
def metrics_missing(watched: Watched) -> None:
    kill_group(watched.exporter)
    watched.fires("DocmillMetricsMissing")
    watched.export()


@trial
def database_away(watched: Watched) -> None:
    watched.cluster.interrupt()
    try:
        watched.fires("DocmillDatabaseAway")
        kill_group(watched.exporter)
        watched.clears("DocmillDatabaseAway")
        watched.export()  # an exporter that starts meanwhile says it, too
        watched.fires("DocmillDatabaseAway")
    finally:
        watched.cluster.start()


@trial
def queue_away(watched: Watched) -> None:
    watched.redis.kill()
    watched.fires("DocmillQueueAway")
    watched.redis.start()


@trial
def no_worker(watched: Watched) -> None:
    job = watched.fleet.give(numbered(8))
    watched.fires("DocmillNoWorker")
    with watched.worker():
        watched.fleet.finish(job)
        watched.clears("DocmillNoWorker")


@trial
def no_progress(watched: Watched) -> None:
    slow = watched.fleet.give(numbered(64), model="null@1")
    with watched.worker():
        watched.fires("DocmillNoProgress")
        watched.fleet("cancel", slow)
        watched.clears("DocmillNoProgress")


@trial
def store_refuses(watched: Watched) -> None:
    close(watched.fleet.database, "results")
    job = watched.fleet.give(numbered(64))
    with watched.worker():
        watched.fires("DocmillStoreRefuses")
        reopen(watched.fleet.database, "results")
        watched.fleet.finish(job, WITHIN_S)
        watched.clears("DocmillStoreRefuses")


@contextmanager
def lost_gpu(fleet: Fleet) -> Iterator[None]:
    """Let the driver's tool list a GPU that torch does not see, for processes that start within the block."""
    tool = fleet.folder / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho 'GPU 0: lost (UUID: GPU-0)'\n")
    tool.chmod(0o755)
    path = f"{tool.parent}{os.pathsep}{fleet.environment['PATH']}"
    with fleet.variables(PATH=path, CUDA_VISIBLE_DEVICES="999"):
        yield


@trial
def device_unusable(watched: Watched) -> None:
    job = watched.fleet.enqueue(*TRANSLATE)
    with ExitStack() as stack:
        with lost_gpu(watched.fleet):
            stack.enter_context(watched.worker())
        watched.fires("DocmillDeviceUnusable")
        assert "the worker on cuda:0 can compute nothing: " in watched.fleet("doctor", "--workers", code=1).stderr
        with watched.fleet.worker("--device", "cpu"):
            watched.fleet.finish(job, WITHIN_S)  # another worker does its work
            assert "DocmillDeviceUnusable" in watched.prometheus.firing()
    with watched.worker():
        until(watched.fleet.live, "the worker that was restarted is on the list")
        watched.clears("DocmillDeviceUnusable")


@trial
def refused(watched: Watched) -> None:
    model = watched.fleet.folder / "models" / "mine"
    shutil.copytree(EXAMPLES / "models" / "marian-ddtp", model)
    watched.fleet.environment["DOCMILL_MODELS_DIR"] = str(model.parent)
    job = watched.fleet.enqueue(*TRANSLATE, "--model", "mine")
    model.rename(model.with_name("elsewhere"))
    with watched.worker():
        watched.fires("DocmillRefused")
        model.with_name("elsewhere").rename(model)
        refusals = update(Refusal).values(refused_at=0.0)  # they hold for half a minute: moved, not waited for
        watched.fleet.database.execute(refusals)
        watched.fleet.finish(job, WITHIN_S)
        watched.clears("DocmillRefused")


@trial
def many_fail(watched: Watched) -> None:
    watched.fleet.give([f"{MARKER} {n}" for n in range(8)])
    with watched.worker(fault="text:error"):
        watched.fires("DocmillManyFail")
        assert watched.fleet.outcomes()["failed"] == 8
        good = watched.fleet.give(numbered(1_000), model="null@50000")
        watched.fleet.finish(good, WITHIN_S)
        watched.clears("DocmillManyFail")


@trial
def reading_stopped(watched: Watched) -> None:
    source = watched.fleet.corpus(numbered(20_000))
    command = ("enqueue", "translate", source, "--model", "null@50000")
    with watched.fleet.variables(**{FAULT: "enqueue:kill"}):
        assert watched.fleet.start(*command).wait(60) != 0
    silent = update(Ingest).values(seen_at=db_now() - 60)  # half a minute of silence: moved, not waited for
    watched.fleet.database.execute(silent)
    watched.fires("DocmillReadingStopped")
    watched.fleet(*command)


@trial
def orders_wait(watched: Watched) -> None:
    source = watched.fleet.corpus(numbered(8))
    watched.fleet.environment["DOCMILL_ORDER_ROOTS"] = str(source.parent)
    scheduler = Celery(broker=watched.redis.url, set_as_current=False)
    order = {"source": str(source), "task": "translate", "model": "null"}
    scheduler.send_task("docmill.enqueue", kwargs=order, queue="docmill:v1:enqueue")
    scheduler.close()
    watched.fires("DocmillOrdersWait")
    with watched.worker("--lanes", "translate,enqueue"):
        watched.clears("DocmillOrdersWait")


def pipeline(watched: Watched, source: Path, schedule: str = "") -> Path:
    file = watched.fleet.folder / "nightly.toml"
    step = '[[step]]\nname = "fr"\ntask = "translate"\nmodel = "null@50000"\n'
    file.write_text(f'name = "nightly"\n{schedule}[corpus]\nsource = "{source}"\n{step}')
    return file


@trial
def pipeline_late(watched: Watched) -> None:
    file = pipeline(watched, watched.fleet.corpus(numbered(8)), '[schedule]\ncron = "* * * * *"\n')
    watched.fleet("pipeline", "add", file)
    watched.fires("DocmillPipelineLate")
    with watched.worker():
        watched.clears("DocmillPipelineLate")
        watched.fleet("pipeline", "rm", "nightly", "--yes")


@trial
def pipeline_failed(watched: Watched) -> None:
    source = watched.fleet.corpus(numbered(8))
    away = source.with_name("elsewhere.jsonl")
    file = pipeline(watched, source, '[schedule]\ncron = "0 3 * * *"\n')
    watched.fleet("pipeline", "add", file)
    source.rename(away)
    night = update(PipelineRow).values(looked_at=db_now() - DAY_S)  # the night is moved, not waited for
    watched.fleet.database.execute(night)
    with watched.worker():
        watched.fires("DocmillPipelineFailed")
        [run] = watched.fleet.json("pipeline", "history", "nightly")
        assert (run["state"], str(source) in run["reason"]) == ("failed", True)
        away.rename(source)
        watched.fleet("pipeline", "run", file)
        watched.clears("DocmillPipelineFailed")


def kill_device(fleet: Fleet, process: Running) -> None:
    """Kill the device process of a worker with SIGKILL, once it has signed on."""
    [device] = until(lambda: {*device_pids(process)} & {*fleet.live().values()}, "a device process has signed on")
    os.kill(device, signal.SIGKILL)
    until(lambda: device not in device_pids(process), "it is dead")


@trial
def device_process_dies(watched: Watched) -> None:
    with watched.worker() as process:
        watched.sees('docmill_worker_deaths_total{device="cpu"} == 0')  # Prometheus counts what it sees grow
        for _ in range(6):
            kill_device(watched.fleet, process)
        watched.fires("DocmillDeviceProcessDies")
        job = watched.fleet.give(numbered(8))
        watched.fleet.finish(job)
        watched.clears("DocmillDeviceProcessDies")


def quick_rules() -> str:
    """Return the rules with `for`, ranges and bounds in seconds made short. Nothing else is changed."""
    rules = yaml.safe_load(RULES.read_text())
    for group in rules["groups"]:
        group["interval"] = "1s"
        for rule in group["rules"]:
            if "for" in rule:
                rule["for"] = PATIENCE
            for text, replacement in (RANGES | SECONDS).items():
                rule["expr"] = rule["expr"].replace(text, replacement)
            assert not re.search(r"\[\d+m\]", rule["expr"])
    return yaml.safe_dump(rules)


class Prometheus(Server):
    """A Prometheus with a folder and a port of its own."""

    def __init__(self, folder: Path, targets: Mapping[str, int]) -> None:
        """`targets` are the ports to scrape, by the names of jobs."""
        program = shutil.which("prometheus")
        if program is None:
            missing("there is no prometheus")
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder, [])
        (folder / "docmill.rules.yml").write_text(quick_rules())
        scraped = [
            {"job_name": name, "static_configs": [{"targets": [f"{HOST}:{port}"]}]} for name, port in targets.items()
        ]
        every = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        config = {"global": every, "rule_files": ["docmill.rules.yml"], "scrape_configs": scraped}
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self._command = [
            program,
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={HOST}:{self.port}",
        ]

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self.port}/-/ready", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire now."""
        return {
            alert["labels"]["alertname"] for alert in self._query("alerts")["alerts"] if alert["state"] == "firing"
        }

    def knows(self, query: str) -> bool:
        """Return True if a query has an answer now."""
        return bool(self._query(f"query?{urllib.parse.urlencode({'query': query})}")["result"])

    def _query(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://{HOST}:{self.port}/api/v1/{path}", timeout=10) as answer:
            return json.loads(answer.read())["data"]
