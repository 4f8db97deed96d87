"""The linear layers of an encoder of MiniLM's size on batches of many sizes: CPU time of one thread for each token.

A library that generates code for each new number of rows takes longer the first time, and every time once there are
more numbers than its cache holds. Rounding the rows up to a multiple of a step leaves few numbers.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence

import torch

from bench.pairs import RESULTS, described, machine
from docmill.tasks.backends.encoder.packed import OneDnnLinear

DIM, INNER, LAYERS = 384, 1536, 6
SMALLEST, LARGEST = 1200, 2048  # rows of a batch
STEPS = (64, 128)


def linear(outputs: int, inputs: int, dtype: torch.dtype) -> OneDnnLinear:
    return OneDnnLinear((torch.randn(outputs, inputs).to(dtype) * 0.02, torch.zeros(outputs, dtype=dtype)))


class Encoder:
    """The four products of each layer, without attention and norms."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._projections, self._mixed = linear(3 * DIM, DIM, dtype), linear(DIM, DIM, dtype)
        self._inner, self._outer = linear(INNER, DIM, dtype), linear(DIM, INNER, dtype)

    def us_per_token(self, sizes: Sequence[int], step: int = 1) -> float:
        """Microseconds of CPU time for each row of batches of these sizes, rounded up to the step."""
        began = time.process_time()
        for size in sizes:
            states = torch.zeros(size + -size % step, DIM, dtype=self._dtype)
            for _ in range(LAYERS):
                projected = self._projections(states)
                states = self._mixed.added_to(states, projected[:, :DIM].contiguous())
                states = self._outer.added_to(states, self._inner(states, ("gelu", "none")))
        return round((time.process_time() - began) / sum(sizes) * 1e6, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", type=int, default=200)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    draw = random.Random(1)
    encoder = Encoder(getattr(torch, asked.dtype))
    rows: list[tuple[str, float, float]] = []
    with torch.inference_mode():
        sets = {"as they are": 1, **{f"rounded up to {step}": step for step in STEPS}}
        for name, step in sets.items():
            sizes = draw.sample(range(SMALLEST, LARGEST + 1), asked.sizes)
            rows.append((name, encoder.us_per_token(sizes, step), encoder.us_per_token(sizes, step)))
        same = [LARGEST] * asked.sizes
        rows.append((f"all {LARGEST}", encoder.us_per_token(same), encoder.us_per_token(same)))
    facts = {"machine": machine(), "dtype": asked.dtype, "sizes": asked.sizes, "us_per_token": rows}
    (RESULTS / "shapes.json").write_text(json.dumps(facts, indent=1) + "\n")
    lines = [
        "# shapes",
        "",
        described(machine()),
        "",
        f"µs of CPU time a token, {asked.sizes} sizes in {asked.dtype}:",
        "",
        "| sizes | first time | second time |",
        "| --- | --: | --: |",
        *(f"| {name} | {first} | {second} |" for name, first, second in rows),
    ]
    (RESULTS / "shapes.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
