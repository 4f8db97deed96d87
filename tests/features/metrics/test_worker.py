"""The metrics of a worker: counters add up over its device processes and never fall; memory is of living ones."""

from __future__ import annotations

import re

from prometheus_client.parser import text_string_to_metric_families

from docmill.features.metrics.serving import WorkerCollector, write_exposition
from docmill.storage.core.specs import Outcome, Reason, Status
from docmill.tasks.backends.devices import Memory
from docmill.tasks.engine.engine import Counters
from docmill.worker.process.counts import COUNTERS, DeviceCounter, WorkByDevice, of_device, of_memory
from tests.worker.harness import ROOT

PAGE = ROOT / "docs" / "monitoring.md"
ORDER = ("device", "kind", "status", "reason", "flag", "end", "direction")


def read_samples(work: WorkByDevice) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *(sample.labels[label] for label in ORDER if label in sample.labels)): sample.value
        for family in text_string_to_metric_families(write_exposition(WorkerCollector(work)))
        for sample in family.samples
    }


def test_outcomes_count_by_status_reason_and_flag() -> None:
    tally = DeviceCounter()
    outcomes = [
        Outcome(1, Status.DONE, text="a", flags=("repetition", "truncated")),
        Outcome(2, Status.DONE, text="b", flags=("repetition",)),
        Outcome(3, Status.FAILED, reason="too long", reason_class=Reason.DOCUMENT),
    ]
    tally.committed("translate", outcomes)
    tally.committed("translate", outcomes[:1])
    tally.add("leases_lost")
    work = WorkByDevice()
    work.report("cpu", tally.counts(), {})
    values = read_samples(work)
    assert values["docmill_worker_texts_total", "cpu", "translate", "done"] == 3
    assert values["docmill_worker_texts_total", "cpu", "translate", "failed"] == 1
    assert values["docmill_worker_failures_total", "cpu", "translate", "document"] == 1
    assert values["docmill_worker_flags_total", "cpu", "translate", "repetition"] == 3
    assert values["docmill_worker_leases_lost_total", "cpu"] == 1


def test_a_counter_goes_on_when_another_process_takes_the_place_of_one_that_died() -> None:
    work = WorkByDevice()
    counters = Counters(busy_s=2.5, batches=4, tokens_in=100, padded_tokens=120, tokens_out=7)
    work.report("cuda:0", of_device(counters, 3.0), {})
    work.report("cuda:1", of_device(Counters(batches=1), 1.0), {})
    work.ended("cuda:0")
    assert read_samples(work)["docmill_worker_batches_total", "cuda:0"] == 4
    work.report("cuda:0", of_device(Counters(batches=2, tokens_in=50), 1.0), {})
    values = read_samples(work)
    assert values["docmill_worker_batches_total", "cuda:0"] == 6
    assert values["docmill_worker_tokens_total", "cuda:0", "in"] == 150
    assert values["docmill_worker_padded_tokens_total", "cuda:0"] == 120
    assert values["docmill_worker_device_busy_seconds_total", "cuda:0"] == 2.5
    assert values["docmill_worker_working_seconds_total", "cuda:0"] == 4.0
    assert values["docmill_worker_deaths_total", "cuda:0"] == 1
    assert values["docmill_worker_batches_total", "cuda:1"] == 1


def test_the_memory_of_a_device_process_is_told_until_it_ends() -> None:
    work = WorkByDevice()
    work.report("cpu", {}, of_memory(Memory(used=3_000, reserved=None, resident=3_000)))
    work.report("cuda:0", {}, of_memory(Memory(used=500, reserved=800, resident=2_000)))
    values = read_samples(work)
    assert values["docmill_worker_device_memory_used_bytes", "cpu"] == 3_000
    assert ("docmill_worker_device_memory_reserved_bytes", "cpu") not in values
    assert values["docmill_worker_device_memory_used_bytes", "cuda:0"] == 500
    assert values["docmill_worker_device_memory_reserved_bytes", "cuda:0"] == 800
    assert values["docmill_worker_resident_memory_bytes", "cuda:0"] == 2_000
    work.ended("cuda:0")
    assert {key for key in read_samples(work) if key[0].endswith("_bytes")} == {
        ("docmill_worker_device_memory_used_bytes", "cpu"),
        ("docmill_worker_resident_memory_bytes", "cpu"),
    }


def test_the_page_has_each_counter_with_its_labels() -> None:
    rows = re.findall(r"^\| `(docmill_worker_\w+_total)` \| ([^|]*)\|", PAGE.read_text(), re.MULTILINE)
    written = {name: re.findall(r"`(\w+)`", labels) for name, labels in rows}
    declared = {f"docmill_worker_{name}_total": list(labels) for name, (_, labels) in COUNTERS.items()}
    assert written == declared | {"docmill_worker_deaths_total": []}
