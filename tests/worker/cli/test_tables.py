"""Tables at 80 columns: one line a row, long names without their middle, reasons below."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from docmill.storage.core.database import Database
from docmill.storage.outputs.output_types import (
    LABELS,
    OUTPUT_TYPES,
    RECORD,
    REDACTED,
    SPANS,
    TEXT,
    VECTOR,
    WEIGHTS,
    OutputType,
)
from docmill.storage.results.job_counts import count_flags
from docmill.storage.results.status import read_status
from docmill.worker.consoles import cut_middle, samples_table, steps_table
from tests.storage.steps.test_flag_conditions import Flagger


@given(st.text(st.characters(exclude_categories=["Cs", "Cc", "Mn", "Me", "Cf"]), max_size=60), st.integers(1, 40))
def test_a_shortened_name_fits_and_keeps_its_ends(name: str, width: int) -> None:
    short = cut_middle(name, width)
    assert cell_len(short) <= width
    if cell_len(name) <= width:
        assert short == name
    else:
        begin, _, end = short.partition("…") if "…" not in name else ("", "", "")
        assert name.startswith(begin)
        assert name.endswith(end)


def test_the_table_of_steps_counts_the_documents_that_a_condition_left_out(database: Database) -> None:
    job = Flagger(database).run()
    console = Console(file=io.StringIO(), width=80)
    status, flags = read_status(database, job.id), count_flags(database, job.id)
    console.print(steps_table(status, flags))
    console.print(steps_table(status, {}))
    with_it, without = console.file.getvalue().split("step ")[1:]  # type: ignore[attr-defined]
    assert "not selected" in with_it
    rows = [line.split() for line in with_it.splitlines()[1:]]
    assert {row[0]: row[5] for row in rows} == {"english": "0", "again": "4", "vector": "0", "good": "2"}
    assert "selected" not in without


WORDS = "a long word and another " * 40
OUTPUTS: dict[OutputType, tuple[dict[str, Any], str]] = {
    TEXT: ({"text": WORDS}, "a long word and another"),
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
    RECORD: ({"data": {"title": WORDS, "price": 3}}, "title: a long word"),
    REDACTED: ({"text": WORDS, "spans": []}, "a long word"),
}


@pytest.mark.parametrize("output", OUTPUT_TYPES, ids=repr)
def test_a_sample_of_every_type_of_output_fits_80_columns(output: OutputType) -> None:
    values, begins = OUTPUTS[output]
    console = Console(file=io.StringIO(), width=80)
    sample = {"id": "k" * 200, "task": "some-kind", "input": WORDS, **values}
    console.print(samples_table([sample], 1_000, output, {}))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert max(map(cell_len, lines)) <= 80
    assert len(lines) <= 12
    assert any(begins in line for line in lines)


def test_the_title_over_a_short_sample_stays_on_one_line() -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(samples_table([{"id": "a", "task": "redact", "input": "b", "text": "b"}], 1, TEXT, {}))
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines()[0].strip() == "redact: 1 of 1 document"
