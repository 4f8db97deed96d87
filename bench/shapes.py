"""Measure the CPU time per token of linear layers of MiniLM's size, with batches of many sizes.

A library that generates code for each new number of rows is slow when it meets a number for the first time. If there
are more numbers than its cache holds, it is slow every time. Rounding the rows up to a multiple of a step leaves few
numbers.
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


def make_linear(n_outputs: int, n_inputs: int, dtype: torch.dtype) -> OneDnnLinear:
    return OneDnnLinear((torch.randn(n_outputs, n_inputs).to(dtype) * 0.02, torch.zeros(n_outputs, dtype=dtype)))


class Encoder:
    """The four matrix products of each layer, without attention and norms. All layers share their weights."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._query_key_value, self._attention_output = make_linear(3 * DIM, DIM, dtype), make_linear(DIM, DIM, dtype)
        self._inner, self._outer = make_linear(INNER, DIM, dtype), make_linear(DIM, INNER, dtype)

    def measure_us_per_token(self, sizes: Sequence[int], step: int = 1) -> float:
        """Return the CPU time in µs per row, for batches of these sizes. Each is rounded up to a multiple of `step`.

        The rows that rounding adds take time but are not counted.
        """
        began = time.process_time()
        for size in sizes:
            states = torch.zeros(size + -size % step, DIM, dtype=self._dtype)
            for _ in range(LAYERS):
                projected = self._query_key_value(states)
                states = self._attention_output.added_to(states, projected[:, :DIM].contiguous())
                states = self._outer.added_to(states, self._inner(states, ("gelu", "none")))
        return round((time.process_time() - began) / sum(sizes) * 1e6, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", type=int, default=200)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator = random.Random(1)
    encoder = Encoder(getattr(torch, options.dtype))
    times: list[tuple[str, float, float]] = []
    with torch.inference_mode():
        steps = {"as they are": 1, **{f"rounded up to {step}": step for step in STEPS}}
        for name, step in steps.items():
            sizes = generator.sample(range(SMALLEST, LARGEST + 1), options.sizes)
            first_us = encoder.measure_us_per_token(sizes, step)
            times.append((name, first_us, encoder.measure_us_per_token(sizes, step)))
        equal_sizes = [LARGEST] * options.sizes
        first_us = encoder.measure_us_per_token(equal_sizes)
        times.append((f"all {LARGEST}", first_us, encoder.measure_us_per_token(equal_sizes)))
    facts = {"machine": machine(), "dtype": options.dtype, "sizes": options.sizes, "us_per_token": times}
    (RESULTS / "shapes.json").write_text(json.dumps(facts, indent=1) + "\n")
    lines = [
        "# shapes",
        "",
        described(machine()),
        "",
        f"µs of CPU time a token, {options.sizes} sizes in {options.dtype}:",
        "",
        "| sizes | first time | second time |",
        "| --- | --: | --: |",
        *(f"| {name} | {first_us} | {second_us} |" for name, first_us, second_us in times),
    ]
    (RESULTS / "shapes.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
