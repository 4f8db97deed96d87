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
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from bench import peers, translate
from bench.fleet import fleet
from bench.manpages import paragraphs
from bench.pairs import RESULTS, described, machine, peak_mb
from docmill.tasks.backends.accelerator import quiet
from docmill.tasks.models.weights import ModelFolders
from docmill.tasks.specs import pinning

MODEL = "minilm"
FIRST, LATER = "docmill's first worker", "docmill's later workers"
Peaks = dict[str, list[float]]



def _with_sentence_transformers(model: Path, precision: str) -> peers.Embed:
    import torch

    return peers.sentence_transformers(model, getattr(torch, precision))


def _with_openvino(model: Path, precision: str) -> peers.Embed:
    return peers.openvino(model, precision, converted=model.parent / _OPENVINO)


_OPENVINO = "openvino.xml"  # beside the model's folder
EMBEDDING: Mapping[str, Callable[[Path], peers.Embed]] = {
    "sentence-transformers, torch float32": partial(_with_sentence_transformers, precision="float32"),
    "sentence-transformers, torch bfloat16": partial(_with_sentence_transformers, precision="bfloat16"),
    "OpenVINO float32": partial(_with_openvino, precision="f32"),
    "OpenVINO bfloat16": partial(_with_openvino, precision="bf16"),
    "ONNX Runtime float32": lambda model: peers.onnx_runtime(model, model.parent, int8=False),
}
TRANSLATION = (translate.DIRECT_INT8, translate.PEER)


def run_embedding(side: str, model: Path, count: int, work: Path) -> None:
    """Embed `count` texts on a side, in this process."""
    EMBEDDING[side](model, work)(paragraphs(count), 32)


def run_translation(side: str, model: Path, count: int) -> None:
    """Translate `count` texts on a side, in this process."""
    texts = translate.Texts(paragraphs(count // translate.SIDES[side]))
    tokenizer = AutoTokenizer.from_pretrained(model)
    if side == translate.PEER:
        translate.run_transformers(translate.load_seq2seq(model, "float32"), tokenizer, 1, texts, side)
    else:  # the parent process has already converted the model in this folder
        translator = translate.load_translator(model, "int8", model.parent)
        translate.run_ctranslate2(translator, tokenizer, 1, 32, texts, side)


def measure_library(task: str, side: str, model: Path, count: int) -> float:
    """Return the peak memory, in MB, of a process that runs one side."""
    command = [sys.executable, "-m", "bench.memory", "--act", task, "--side", side, "--model", str(model)]
    process = subprocess.run([*command, "--texts", str(count)], stdout=subprocess.PIPE, check=True)
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
    parser.add_argument("--act", choices=["embed", "translate"], help=argparse.SUPPRESS)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, quiet():
        if options.act:
            if options.act == "embed":
                run_embedding(options.side, options.model, options.texts, Path(name))
            else:
                run_translation(options.side, options.model, options.texts)
            print(round(peak_mb(), 1))
            return
        measure(Path(name), options.texts, options.translations, options.runs)


def measure(folder: Path, texts: int, translations: int, runs: int) -> None:
    """Measure the peaks of every side in each run, and write them as JSON and as tables."""
    folders = ModelFolders(None, folder)
    pinned = pinning.pin(MODEL, folders)
    minilm = pinning.locate(pinned, folders)
    marian = translate.make_base_model(folder / "marian-base", translate.TOKENIZERS["translate"])
    translate.load_translator(marian, "int8", folder)
    peaks_by_question: dict[str, Peaks] = {}
    for question, task, model, count, libraries in (
        (f"embedding {texts:,} texts with MiniLM", "embed", minilm, texts, tuple(EMBEDDING)),
        (f"{translations:,} translations, Marian of base size", "translate", marian, translations, TRANSLATION),
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
                _add(peaks, side, measure_library(task, side, model, count))
    write(peaks_by_question)


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
