"""Compare the first `docmill run` of a model with scripts on other libraries, net of the time to start.

Each run is a new process, and docmill's home is empty. The time of another new process that embeds eight texts is
subtracted, so imports, the conversion of the model and its first batch do not count. The scripts use the best
settings that `bench.embed` found. `--settings` names its results.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from bench import peers
from bench.embed import MODEL
from bench.manpages import paragraphs
from bench.pairs import RESULTS, Claim, Run, interleave, write
from docmill.tasks.backends.accelerator import dtype_for
from docmill.tasks.models.weights import ModelFolders
from docmill.tasks.specs import pinning

FEW = 8
OURS = "docmill run"
MakePeer = Callable[[Path, Path, int], peers.Embed]  # from the model, a folder for files, and threads


def _with_torch(dtype: torch.dtype) -> MakePeer:
    return lambda model, _, threads: peers.sentence_transformers(model, dtype, threads)


def _with_openvino(precision: str) -> MakePeer:
    return lambda model, _, threads: peers.openvino(model, precision, threads)


PEERS: dict[str, MakePeer] = {
    "sentence-transformers, torch float32": _with_torch(torch.float32),
    "sentence-transformers, torch bfloat16": _with_torch(torch.bfloat16),
    "OpenVINO float32": _with_openvino("f32"),
    "OpenVINO bfloat16": _with_openvino("bf16"),
    "ONNX Runtime float32": partial(peers.onnx_runtime, int8=False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--texts", type=int, default=5000)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--settings", default="embed", help="results of bench.embed")
    parser.add_argument("--name", default="first-run", help="of the results' files")
    parser.add_argument("--script", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.script:
        run_script(*options.script)
        return
    settings = json.loads((RESULTS / f"{options.settings}.json").read_bytes())["side_by_side_and_batch"]
    texts = paragraphs(options.texts)
    with tempfile.TemporaryDirectory() as folder:
        programs: dict[str, Callable[[Path, Path], list[str]]] = {OURS: make_docmill_command}
        native = str(dtype_for("native", "cpu")).removeprefix("torch.")
        programs |= {name: partial(make_script_command, name, settings[name]) for name in PEERS if native in name}
        numbers = itertools.count()
        sides = {
            name: partial(run_net, Path(folder), make_command, texts, numbers)
            for name, make_command in programs.items()
        }
        comparison = interleave("a first run, net of its start", "docs", sides, pairs=options.pairs, warm_up=0)
    best = comparison.best(*(name for name in programs if name != OURS))
    claims = [Claim(f"docmill run ÷ the best script ({best})", OURS, best, 1.5)]
    write(options.name, [comparison], [claims], texts=len(texts), side_by_side_and_batch=settings)


def make_docmill_command(source: Path, target: Path) -> list[str]:
    return ["docmill", "run", "embed", str(source), "--model", MODEL, "--out", str(target)]


def make_script_command(name: str, settings: Sequence[int], source: Path, target: Path) -> list[str]:
    return ["python", "-m", "bench.first_run", "--script", name, json.dumps(settings), str(source), str(target)]


def run_net(
    folder: Path, make_command: Callable[[Path, Path], list[str]], texts: Sequence[str], numbers: itertools.count[int]
) -> Run:
    """Run a program on eight texts, and again on all texts. Return a run with the difference of both times."""
    start_s = _time_program(folder / str(next(numbers)), make_command, texts[:FEW])
    whole_s = _time_program(folder / str(next(numbers)), make_command, texts)
    return Run(len(texts) - FEW, whole_s - start_s, {"start_s": start_s, "whole_s": whole_s})


def _time_program(folder: Path, make_command: Callable[[Path, Path], list[str]], texts: Sequence[str]) -> float:
    """Return the seconds of a program in a new process. Raises SystemExit unless it embedded every text."""
    folder.mkdir()
    source = folder / "texts.jsonl"
    source.write_text("".join(json.dumps({"id": str(n), "text": text}) + "\n" for n, text in enumerate(texts)))
    program, *arguments = make_command(source, folder / "out.jsonl")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DOCMILL_")}
    environment |= {"DOCMILL_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}
    began = time.perf_counter()
    subprocess.run(
        [Path(sys.executable).parent / program, *arguments], check=True, env=environment, capture_output=True
    )
    seconds = time.perf_counter() - began
    if sum(1 for _ in (folder / "out.jsonl").open()) != len(texts):
        raise SystemExit(f"{program} did not embed every text")
    return seconds


def run_script(name: str, settings: str, source: str, target: str) -> None:
    """Read a file, embed its texts, and write a file, as a user's script would."""
    workers, batch = json.loads(settings)
    folders = ModelFolders(None, Path(target).parent)
    pinned = pinning.pin(MODEL, folders)
    model = pinning.locate(pinned, folders)
    records = [json.loads(line) for line in Path(source).read_text().splitlines()]
    embed = peers.side_by_side(partial(PEERS[name], model, Path(target).parent), workers)
    vectors = embed([record["text"] for record in records], batch)
    with Path(target).open("w") as file:
        for record, vector in zip(records, np.asarray(vectors), strict=True):
            file.write(json.dumps(record | {"vector": vector.tolist()}) + "\n")


if __name__ == "__main__":
    main()
