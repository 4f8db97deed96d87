"""Samples of results in a terminal of 80 columns, for every type of output."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from docmill.storage.outputs.base import OutputType
from docmill.storage.outputs.output_types import LABELS, OUTPUT_TYPES, RECORD, REDACTED, SPANS, TEXT, VECTOR, WEIGHTS
from docmill.worker.cli.show import samples_table

LONG = "a long word and another " * 40
OUTPUTS: dict[OutputType, tuple[dict[str, Any], str]] = {
    TEXT: ({"text": LONG}, "a long word and another"),
    VECTOR: ({"vector": np.ones((3, 768), np.float32)}, "3 windows × 768 numbers: +1.000"),
    LABELS: ({"labels": [{"label": f"label {n}", "score": 0.5} for n in range(50)]}, "label 0 0.500, label 1 0.500"),
    WEIGHTS: (
        {"weights": [{"token": "##ing", "token_id": n, "weight": 1.5} for n in range(50)]},
        "##ing 1.50, ##ing 1.50",
    ),
    SPANS: (
        {"spans": [{"label": "PER", "text": "Ada \x1b[31m", "start": 0, "end": 3, "score": 1.0}] * 50},
        "Ada \ufffd[31m (PER)",
    ),
    RECORD: ({"data": {"title": LONG, "price": 3}}, "title: a long word"),
    REDACTED: ({"text": LONG, "spans": []}, "a long word"),
}


@pytest.mark.parametrize("output", OUTPUT_TYPES, ids=repr)
def test_a_sample_of_every_type_of_output_fits_80_columns(output: OutputType) -> None:
    found, begins = OUTPUTS[output]
    console = Console(file=io.StringIO(), width=80)
    sample = {"id": "k" * 200, "task": "some-kind", "input": LONG, **found}
    console.print(samples_table([sample], 1_000, output))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert max(map(cell_len, lines)) <= 80
    assert len(lines) <= 12
    assert any(begins in line for line in lines)
