"""Measure the cost of a JSON Schema: tokens per second with a mask over the logits, and without it.

Both sides are the same backend with SmolLM2-135M. They read the same prompts and write the same number of tokens: the
schema requires a list of objects that is too long to end, and the model's end token is removed. The benchmark
compares the CPU time of this process on one thread, as `bench.inference` does.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from bench.generate import texts
from bench.inference import assignment, computing
from bench.models import SMOLLM2, endless, fetched
from bench.pairs import Claim, Comparison, Run, interleave, write
from docmill.tasks.backends import Assignment
from docmill.tasks.backends.decoder_only.causal import CausalBackend
from docmill.tasks.outputs import Head

# An object has a value of each kind, so that masks are as varied as those of users' schemas.
ITEM = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 30},
        "kind": {"enum": ["library", "program", "data", "documentation", "other"]},
        "size": {"type": "integer", "minimum": 0, "maximum": 10_000},
        "share": {"type": "number"},
        "free": {"type": ["boolean", "null"]},
        "note": {"type": "string"},
    },
    "required": ["name", "kind", "size", "share", "free"],
}
SCHEMA = {
    "type": "object",
    "properties": {"packages": {"type": "array", "items": ITEM, "minItems": 500}},
    "required": ["packages"],
}
WITH, WITHOUT = "with the schema", "without it"
WANTED = 0.85
PREDICTED = 0.96  # written down before the first measurement


def open_backend(extract_assignment: Assignment, *, constrained: bool) -> CausalBackend:
    backend = CausalBackend(extract_assignment)
    if not constrained:
        backend._constraint = None
    return backend


def make_side(backend: CausalBackend, prompts: list[str], tokens: int) -> Any:
    """Return a side of the comparison. The units of its runs are tokens."""
    compute = computing(backend, prompts)

    def run_once() -> Run:
        run = compute()
        return Run(run.units * tokens, run.seconds)

    return run_once


def compare(dtype: str, model: Path, cache_dir: Path, rows: int, tokens: int, pairs: int) -> Comparison:
    """Compare outputs of so many tokens with and without the schema. `rows` outputs are written at a time."""
    extract_assignment = assignment(
        "extract", str(model), cache_dir, Head.CAUSAL_TEXT, json_schema=SCHEMA, max_new_tokens=tokens, dtype=dtype
    )
    backends = {name: open_backend(extract_assignment, constrained=name == WITH) for name in (WITH, WITHOUT)}
    prompts = texts(0, rows)
    comparison = interleave(
        f"SmolLM2-135M in {dtype}, {rows} rows at a time",
        "tokens",
        {name: make_side(backend, prompts, tokens) for name, backend in backends.items()},
        pairs=pairs,
    )
    for backend in backends.values():
        backend.close()
    return comparison


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=64, help="in each output")
    parser.add_argument("--rows", default="1,16,64", help="numbers of outputs that are written at a time")
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        model = endless(fetched(SMOLLM2), Path(work) / "endless")
        comparisons = [
            compare("auto", model, Path(work) / "cache", int(rows), options.tokens, options.pairs)
            for rows in options.rows.split(",")
        ]
    claims = [[Claim(f"{WITH} ÷ {WITHOUT}", WITH, WITHOUT, WANTED)] for _ in comparisons]
    write("extract", comparisons, claims, predicted=PREDICTED, seconds="of CPU time", schema=json.dumps(SCHEMA))


if __name__ == "__main__":
    main()
