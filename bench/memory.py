"""The most memory that each way to do it ever has: docmill's worker beside what is called directly.

Every side has processes of its own, which are asked for the most that they had resident (VmHWM); docmill's are its
supervisor and its device process, whose sum is given. Its first worker also tries backends and converts the model;
later ones find that done. What the store and the queue need is not in it: they serve any number of workers.
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
from functools import partial
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

EMBEDDING: Mapping[str, Callable[[Path, Path], peers.Embed]] = {
    "sentence-transformers, torch float32": lambda model, _: peers.sentence_transformers(model, torch.float32),
    "sentence-transformers, torch bfloat16": lambda model, _: peers.sentence_transformers(model, torch.bfloat16),
    "OpenVINO bfloat16": lambda model, _: peers.openvino(model, "bf16"),
    "ONNX Runtime float32": lambda model, work: peers.onnx_runtime(model, work, int8=False),
}
TRANSLATING = (translate.DIRECT_INT8, translate.PEER)


def embed(side: str, model: Path, count: int, work: Path) -> None:
    EMBEDDING[side](model, work)(paragraphs(count), 32)


def translated(side: str, model: Path, count: int) -> None:
    texts = translate.Texts(paragraphs(count // translate.SIDES[side]))
    tokenizer = AutoTokenizer.from_pretrained(model)
    if side == translate.PEER:
        translate.by_transformers(translate.seq2seq(model, "float32"), tokenizer, 1, texts, side)
    else:  # converted in the folder before, by the process that asks
        translator = translate.translator_of(model, "int8", model.parent)
        translate.by_ctranslate2(translator, tokenizer, 1, 32, texts, side)


def directly(task: str, side: str, model: Path, count: int) -> float:
    """The peak of a process that does one side's work, in MB."""
    command = [sys.executable, "-m", "bench.memory", "--act", task, "--side", side, "--model", str(model)]
    done = subprocess.run([*command, "--texts", str(count)], stdout=subprocess.PIPE, check=True)
    return float(done.stdout.split()[-1])


def by_docmill(folder: Path, task: str, model: str, count: int, cache: Path, **options: Any) -> float:
    """The peak of a fresh worker that does one job, in MB."""
    with fleet(folder, lane=task, cache=cache) as through:
        through.run(paragraphs(count), task, model, **options)
        return through.worker_peak_mb()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=2000, help="to embed")
    parser.add_argument("--translations", type=int, default=320)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--act", choices=["embed", "translate"], help=argparse.SUPPRESS)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, quiet():
        if asked.act:
            if asked.act == "embed":
                embed(asked.side, asked.model, asked.texts, Path(name))
            else:
                translated(asked.side, asked.model, asked.texts)
            print(round(peak_mb(), 1))
            return
        measured(Path(name), asked.texts, asked.translations, asked.runs)


def measured(folder: Path, texts: int, translations: int, runs: int) -> None:
    """Every side's peaks, run after run, as JSON and as a table."""
    folders = ModelFolders(None, folder)
    pinned = pinning.pin(MODEL, folders)
    small = pinning.locate(pinned, folders)
    base = translate.base_model(folder / "marian-base", translate.TOKENIZERS["translate"])
    translate.translator_of(base, "int8", folder)
    found: dict[str, Peaks] = {}
    for question, task, model, count, direct in (
        (f"embedding {texts:,} texts with MiniLM", "embed", small, texts, tuple(EMBEDDING)),
        (f"{translations:,} translations, Marian of base size", "translate", base, translations, TRANSLATING),
    ):
        options: dict[str, Any] = {"beams": 1, "dtype": "int8"} if task == "translate" else {}
        asked_for = MODEL if task == "embed" else str(model)
        peaks: Peaks = found.setdefault(question, {})
        for number in range(runs):
            cache = folder / f"{task}-cache-{number}"
            for side in (FIRST, LATER):
                at = folder / f"{task}-{number}-{'first' if side == FIRST else 'later'}"
                sides = {side: partial(by_docmill, at, task, asked_for, count, cache, **options)}
                _take(peaks, sides)
            _take(peaks, {side: partial(directly, task, side, model, count) for side in direct})
    write(found)


def _take(peaks: Peaks, sides: Mapping[str, Callable[[], float]]) -> None:
    for side, peak in sides.items():
        peaks.setdefault(side, []).append(round(peak(), 1))
        sys.stderr.write(f"{side}: {peaks[side][-1]:,.0f} MB\n")


def write(found: Mapping[str, Peaks]) -> None:
    """`results/memory.json` with every run, `results/memory.md` with medians."""
    facts = {"machine": machine(), "measured_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%MZ}", "peak_mb": found}
    (RESULTS / "memory.json").write_text(json.dumps(facts, indent=1) + "\n")
    lines = ["# memory", "", described(machine())]
    for question, peaks in found.items():
        lines += ["", f"## {question}", "", "| | most memory, MB (median) | range |", "| --- | --: | --: |"]
        lines += [_row(side, runs) for side, runs in peaks.items()]
    (RESULTS / "memory.md").write_text("\n".join(lines) + "\n")
    sys.stdout.write("\n".join(lines) + "\n")


def _row(side: str, runs: Sequence[float]) -> str:
    return f"| {side} | {statistics.median(runs):,.0f} | {min(runs):,.0f} – {max(runs):,.0f} |"


if __name__ == "__main__":
    main()
