"""Run all parts within the time, and write the results after each."""

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
from bench.gpu.speeds import classification, embedding, generation, translation
from bench.limits import peak
from bench.pairs import RESULTS, machine
from docmill.tasks.backends import accelerator


def facts(bench: Bench) -> dict[str, Any]:
    """Return the machine, the device and its fastest matrix products in operations a second."""
    native = accelerator.dtype_for("native", bench.device)
    found: dict[str, Any] = {
        "machine": machine(),
        "precision": str(accelerator.dtype_for(bench.quality, bench.device)),
    }
    if bench.on_gpu:
        properties = torch.cuda.get_device_properties(bench.device)
        found["gpu"] = {"name": properties.name, "memory_gib": round(properties.total_memory / 2**30, 1)}
    found["flops"] = {
        name: round(peak(dtype, bench.device))
        for name, dtype in DTYPES.items()
        if name != "float16" or bench.device != "cpu"
    }
    found["peak_flops"] = found["flops"][str(native).removeprefix("torch.")]
    return found


def parts(bench: Bench, report: Report) -> dict[str, Callable[[], None]]:
    """Return the parts in their order, by name."""
    sizes = bench.sizes
    found: dict[str, Callable[[], None]] = {}
    for number in range(max(len(sizes.encoders), len(sizes.decoders))):
        for size in sizes.encoders[number : number + 1]:
            found[f"embed, {size.name}"] = partial(embedding, bench, report, size)
            found[f"classify, {size.name}"] = partial(classification, bench, report, size)
        for size in sizes.decoders[number : number + 1]:
            found[f"generate, {size.name}"] = partial(generation, bench, report, size)
        beams = (1, 4)[number : number + 1]
        found |= {f"translate, {one} beams": partial(translation, bench, report, one) for one in beams}
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all parts within the time, write the results, and return 0 if all proofs hold."""
    parser = argparse.ArgumentParser(prog="bench.gpu", description=str(bench.gpu.__doc__).partition("\n")[0])
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", choices=SIZES, help="small to try the benchmark itself [default: full on a GPU]")
    parser.add_argument("--dtype", default="auto", choices=["auto", *DTYPES])
    parser.add_argument("--minutes", type=float, default=8.0, help="parts that would begin later are skipped")
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu.json")
    asked = parser.parse_args(arguments)
    ends = time.monotonic() + 60 * asked.minutes
    sizes = SIZES[asked.size or ("full" if asked.device.startswith("cuda") else "small")]
    random_models.seeded()
    with tempfile.TemporaryDirectory() as name, accelerator.quiet():
        settings = Bench(asked.device, asked.dtype, sizes, Path(name))
        report = Report(asked.device, facts(settings))
        slowest = 0.0
        for part, work in parts(settings, report).items():
            began = time.monotonic()
            if began + slowest > ends:
                report.skipped.append(part)
                continue
            try:
                work()
            except Exception as error:  # a part must not take the others' results with it
                report.proofs.append(Proof(part, False, 0.0, 0.0, f"{type(error).__name__}: {str(error)[:300]}"))
            slowest = max(slowest, time.monotonic() - began)
            report.write(asked.out)
    report.write(asked.out)
    for line in lines(report):
        print(line)
    return 0 if all(one.holds for one in report.proofs) else 1


def lines(report: Report) -> Iterator[str]:
    """Yield the results as lines for people."""
    for proof in report.proofs:
        word = "holds" if proof.holds else "FAILS"
        yield f"{word}  {proof.what}: {proof.figure:.2g} (bound {proof.bound:g}) {proof.why}".rstrip()
    for one in report.measured:
        speeds = ", ".join(f"{side} {rate:,.0f} {one['unit']}" for side, rate in one["medians"].items())
        share = f", {one['share_of_peak']:.0%} of peak" if "share_of_peak" in one else ""
        yield f"{one['ratio']:5.2f}  {one['what']}: {speeds}{share}"
    for part in report.skipped:
        yield f"skipped for want of time: {part}"


if __name__ == "__main__":
    sys.exit(main())
