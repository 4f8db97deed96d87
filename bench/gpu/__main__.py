"""Run all parts for which there is time, and write the results after each."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

import bench.gpu
from bench import random_models
from bench.gpu.settings import DTYPES, SIZES, Bench, Proof, Report
from bench.gpu.speeds import measure_classification, measure_embedding, measure_generation, measure_translation
from bench.limits import peak
from bench.pairs import RESULTS, machine
from docmill.tasks.backends import accelerator


def collect_facts(bench: Bench) -> dict[str, Any]:
    """Return the machine, the device, and the speed of its matrix products in operations per second."""
    native = accelerator.dtype_for("native", bench.device)
    facts: dict[str, Any] = {
        "machine": machine(),
        "precision": str(accelerator.dtype_for(bench.quality, bench.device)),
    }
    if bench.on_gpu:
        properties = torch.cuda.get_device_properties(bench.device)
        facts["gpu"] = {"name": properties.name, "memory_gib": round(properties.total_memory / 2**30, 1)}
    facts["flops"] = {
        name: round(peak(dtype, bench.device))
        for name, dtype in DTYPES.items()
        if name != "float16" or bench.device != "cpu"
    }
    facts["peak_flops"] = facts["flops"][str(native).removeprefix("torch.")]
    return facts


def list_parts(bench: Bench, report: Report) -> dict[str, Callable[[], None]]:
    """Return the parts by name, in the order in which they run."""
    sizes = bench.sizes
    parts: dict[str, Callable[[], None]] = {}
    for number in range(max(len(sizes.encoders), len(sizes.decoders))):
        for size in sizes.encoders[number : number + 1]:
            parts[f"embed, {size.name}"] = partial(measure_embedding, bench, report, size)
            parts[f"classify, {size.name}"] = partial(measure_classification, bench, report, size)
        for size in sizes.decoders[number : number + 1]:
            parts[f"generate, {size.name}"] = partial(measure_generation, bench, report, size)
        for beams in (1, 4)[number : number + 1]:
            parts[f"translate, {beams} beams"] = partial(measure_translation, bench, report, beams)
    return parts


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all parts for which there is time, write the results, and return 0 if all proofs hold."""
    parser = argparse.ArgumentParser(prog="bench.gpu", description=str(bench.gpu.__doc__).partition("\n")[0])
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", choices=SIZES, help="small tries the benchmark itself [default: full on a GPU]")
    parser.add_argument("--dtype", default="auto", choices=["auto", *DTYPES])
    parser.add_argument("--minutes", type=float, default=8.0, help="skip parts that would probably end later")
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu.json")
    options = parser.parse_args(arguments)
    deadline = time.monotonic() + 60 * options.minutes
    sizes = SIZES[options.size or ("full" if options.device.startswith("cuda") else "small")]
    random_models.seeded()
    with tempfile.TemporaryDirectory() as name, accelerator.quiet():
        bench_settings = Bench(options.device, options.dtype, sizes, Path(name))
        report = Report(options.device, collect_facts(bench_settings))
        slowest_s = 0.0
        for part, run_part in list_parts(bench_settings, report).items():
            began = time.monotonic()
            if began + slowest_s > deadline:
                report.skipped.append(part)
                continue
            try:
                run_part()
            except Exception as error:  # a failure must not cost the other parts' results
                report.proofs.append(Proof(part, False, 0.0, 0.0, f"{type(error).__name__}: {str(error)[:300]}"))
            slowest_s = max(slowest_s, time.monotonic() - began)
            report.write(options.out)
    report.write(options.out)
    for line in format_lines(report):
        print(line)
    return 0 if all(proof.holds for proof in report.proofs) else 1


def format_lines(report: Report) -> Iterator[str]:
    """Yield the results as lines for people."""
    for proof in report.proofs:
        word = "holds" if proof.holds else "FAILS"
        yield f"{word}  {proof.what}: {proof.figure:.2g} (bound {proof.bound:g}) {proof.why}".rstrip()
    for facts in report.measured:
        speeds = ", ".join(f"{side} {rate:,.0f} {facts['unit']}" for side, rate in facts["medians"].items())
        share = f", {facts['share_of_peak']:.0%} of peak" if "share_of_peak" in facts else ""
        yield f"{facts['ratio']:5.2f}  {facts['what']}: {speeds}{share}"
    for part in report.skipped:
        yield f"skipped for lack of time: {part}"


if __name__ == "__main__":
    sys.exit(main())
