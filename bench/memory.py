"""Compare the peak memory of docmill's worker with that of libraries called directly.

Every side has its own processes. The peak is the most resident memory that a process ever had (VmHWM). docmill's peak
is the sum of its supervisor's and its device process's. Its first worker also tries backends and converts the model.
Later workers reuse the results. The processes of the libraries import what they use and no more, and the models of
OpenVINO, ONNX Runtime and CTranslate2 are converted before. The store and the queue are not counted, since they serve
any number of workers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import converters
from bench.fleet import fleet
from bench.manpages import paragraphs
from bench.memory_sides import CTRANSLATE2, EMBEDDING, OPENVINO, TRANSLATION
from bench.pairs import RESULTS, described, machine
from bench.translate import TOKENIZERS, convert_for_ctranslate2, make_base_model
from docmill.tasks.backends.accelerator import dtype_for, quiet
from docmill.tasks.models.weights import ModelFolders
from docmill.tasks.specs import pinning

MODEL = "minilm"
FIRST, LATER = "docmill's first worker", "docmill's later workers"
Peaks = dict[str, list[float]]


def measure_library(side: str, model: Path, converted: Path, count: int) -> float:
    """Return the peak memory, in MB, of a process that runs one side."""
    command = [sys.executable, "-m", "bench.memory_sides", side, str(model), str(converted), str(count)]
    process = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return float(process.stdout.split()[-1])


def measure_docmill(folder: Path, task: str, model: str, count: int, cache: Path, **options: Any) -> float:
    """Return the peak memory, in MB, of a new worker that computes one job."""
    with fleet(folder, lane=task, cache=cache) as installation:
        installation.run(paragraphs(count), task, model, **options)
        return installation.worker_peak_mb()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=2000, help="to embed")
    parser.add_argument("--translations", type=int, default=320)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, quiet():
        measure(Path(name), options.texts, options.translations, options.runs)


def measure(folder: Path, texts: int, translations: int, runs: int) -> None:
    """Measure the peaks of every side in each run, and write them as JSON and as tables."""
    folders = ModelFolders(None, folder)
    pinned = pinning.pin(MODEL, folders)
    minilm = pinning.locate(pinned, folders)
    marian = make_base_model(folder / "marian-base", TOKENIZERS["translate"])
    convert_models(minilm, marian, folder)
    native = str(dtype_for("native", "cpu")).removeprefix("torch.")
    embedding = [side for side in EMBEDDING if "float32" in side or native in side]
    peaks_by_question: dict[str, Peaks] = {}
    for question, task, model, count, libraries in (
        (f"embedding {texts:,} texts with MiniLM", "embed", minilm, texts, embedding),
        (f"{translations:,} translations, Marian of base size", "translate", marian, translations, [*TRANSLATION]),
    ):
        task_options: dict[str, Any] = {"beams": 1, "dtype": "int8"} if task == "translate" else {}
        model_name = MODEL if task == "embed" else str(model)
        peaks: Peaks = peaks_by_question.setdefault(question, {})
        for number in range(runs):
            cache = folder / f"{task}-cache-{number}"
            for side in (FIRST, LATER):
                home = folder / f"{task}-{number}-{'first' if side == FIRST else 'later'}"
                _add(peaks, side, measure_docmill(home, task, model_name, count, cache, **task_options))
            for side in libraries:
                _add(peaks, side, measure_library(side, model, folder, count))
    write(peaks_by_question)


def convert_models(minilm: Path, marian: Path, folder: Path) -> None:
    """Convert the models for the libraries that need it, into files in a folder."""
    import openvino

    openvino.save_model(converters.to_openvino(minilm), folder / OPENVINO, compress_to_fp16=False)
    converters.to_onnx(minilm, folder / "model.onnx")
    (folder / CTRANSLATE2).symlink_to(convert_for_ctranslate2(marian, folder))


def _add(peaks: Peaks, side: str, megabytes: float) -> None:
    peaks.setdefault(side, []).append(round(megabytes, 1))
    sys.stderr.write(f"{side}: {peaks[side][-1]:,.0f} MB\n")


def write(peaks_by_question: Mapping[str, Peaks]) -> None:
    """Write `results/memory.json` with every run, and `results/memory.md` with medians."""
    facts = {
        "machine": machine(),
        "measured_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%MZ}",
        "peak_mb": peaks_by_question,
    }
    (RESULTS / "memory.json").write_text(json.dumps(facts, indent=1) + "\n")
    lines = ["# memory", "", described(machine())]
    for question, peaks in peaks_by_question.items():
        lines += ["", f"## {question}", "", "| | most memory, MB (median) | range |", "| --- | --: | --: |"]
        lines += [_row(side, runs) for side, runs in peaks.items()]
    (RESULTS / "memory.md").write_text("\n".join(lines) + "\n")
    sys.stdout.write("\n".join(lines) + "\n")


def _row(side: str, runs: Sequence[float]) -> str:
    return f"| {side} | {statistics.median(runs):,.0f} | {min(runs):,.0f} – {max(runs):,.0f} |"


if __name__ == "__main__":
    main()
