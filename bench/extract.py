"""Measure what a schema costs: tokens per second with the mask over the logits, and without it.

Both sides are the same backend with SmolLM2-135M, read the same prompts and write the same number of tokens. The
schema asks for a list of objects that is too long to end, and the model's ends are taken away. Sides are compared by
this process's CPU time on one thread, as in `bench.inference`.
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

# Of each kind of value one, so that masks are as varied as those of users.
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


def backend(asked: Assignment, *, constrained: bool) -> CausalBackend:
    made = CausalBackend(asked)
    if not constrained:
        made._constraint = None
    return made


def side(one: CausalBackend, batch: list[str], tokens: int) -> Any:
    """Return a side of the comparison, whose units are tokens."""
    work = computing(one, batch)

    def once() -> Run:
        run = work()
        return Run(run.units * tokens, run.seconds)

    return once


def compared(dtype: str, model: Path, cache: Path, rows: int, tokens: int, pairs: int) -> Comparison:
    asked = assignment(
        "extract", str(model), cache, Head.CAUSAL_TEXT, json_schema=SCHEMA, max_new_tokens=tokens, dtype=dtype
    )
    sides = {name: backend(asked, constrained=name == WITH) for name in (WITH, WITHOUT)}
    batch = texts(0, rows)
    found = interleave(
        f"SmolLM2-135M in {dtype}, {rows} rows at a time",
        "tokens",
        {name: side(one, batch, tokens) for name, one in sides.items()},
        pairs=pairs,
    )
    for one in sides.values():
        one.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=64, help="that each output has")
    parser.add_argument("--rows", default="1,16,64", help="that are written at a time")
    parser.add_argument("--pairs", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        model = endless(fetched(SMOLLM2), Path(work) / "endless")
        found = [
            compared("auto", model, Path(work) / "cache", int(rows), asked.tokens, asked.pairs)
            for rows in asked.rows.split(",")
        ]
    claims = [[Claim(f"{WITH} ÷ {WITHOUT}", WITH, WITHOUT, WANTED)] for _ in found]
    write("extract", found, claims, predicted=PREDICTED, seconds="of CPU time", schema=json.dumps(SCHEMA))


if __name__ == "__main__":
    main()
