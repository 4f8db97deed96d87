"""A writer is one module and one line: all else that knows of formats follows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from docmill.storage import writers
from docmill.storage.outputs.columns import Column, Form
from docmill.storage.outputs.output_types import TEXT, VECTOR
from docmill.storage.writers import Target, write_stream
from docmill.storage.writers.base import FormatUnfit
from docmill.storage.writers.parts_manifest import is_begun, is_part

TABLE = [Column.of("id", Form.TEXT), Column.of("text", Form.TEXT)]
PIPELINE = 'name = "p"\n[corpus]\nsource = "a.jsonl"\n[[step]]\nname = "s"\ntask = "summarize"\n[output]\n'


TSV = '''
"""Tab-separated values."""

from collections.abc import Iterable, Sequence
from typing import BinaryIO

from docmill.storage.outputs.columns import Column
from docmill.storage.writers.base import Row, Writer


def write(rows: Iterable[Row], columns: Sequence[Column], file: BinaryIO) -> int:
    """Write the results, and return how many there were."""
    n = 0
    for row in rows:
        file.write("\\t".join(str(column.value(row)) for column in columns).encode() + b"\\n")
        n += 1
    return n


WRITER = Writer("tsv", ".tsv", write, title="tab-separated values", lines=True, note="has tabs")
'''
IMPORT = "from docmill.storage.writers import tsv"
LINE = "tsv.WRITER"


def _with_the_line(folder: Path) -> str:
    """Return a program that adds the module, from this folder, and its line to the writers of docmill."""
    (folder / "tsv.py").write_text(TSV.lstrip(), encoding="utf-8")
    added = f"writers.__path__.append({str(folder)!r})\n{IMPORT}\nwriters.WRITERS += ({LINE},)\n"
    return f"from docmill.storage import writers\n{added}"


@pytest.fixture(autouse=True)
def _tsv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(writers, "__path__", [*writers.__path__])
    monkeypatch.setattr(writers, "WRITERS", writers.WRITERS)
    exec(_with_the_line(tmp_path))
    yield
    sys.modules.pop("docmill.storage.writers.tsv")
    del writers.tsv  # type: ignore[attr-defined]


def test_a_file_of_that_name_is_written(tmp_path: Path) -> None:
    target = Target.of(tmp_path / "out.tsv")
    assert target.write([{"id": "a", "text": "b"}], TABLE) == 1
    assert (tmp_path / "out.tsv").read_bytes() == b"a\tb\n"
    assert str(Target.of(Path("out"), "tsv")) == "out (tab-separated values)"
    assert Target.of(Path("out.tsv.gz")).compression == ".gz"
    with pytest.raises(FormatUnfit, match="name of another format than tsv"):
        Target.of(Path("out.csv"), "tsv")


def test_it_is_written_to_stdout_and_in_parts(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        assert write_stream([{"id": "a", "text": "b"}], file, "tsv", TABLE) == 1
    assert (tmp_path / "out").read_bytes() == b"a\tb\n"
    part = Target.of(Path("parts.tsv.zst")).part(7).path.name
    assert part == "part-00007.tsv.zst"
    assert is_part(part)
    assert is_begun(f".{part}.x1.part")
    assert not is_part("part-00007.ods")


def test_messages_name_it() -> None:
    with pytest.raises(FormatUnfit, match=r"ends in \.jsonl, \.csv, \.parquet, \.xlsx, \.npy or \.tsv"):
        Target.of(Path("out.ods"))
    with pytest.raises(FormatUnfit, match="it writes jsonl, csv, csv-excel, parquet, xlsx, npy, openai-batch, tsv"):
        Target.of(Path("out"), "ods")


# What a process says that starts with the module and the line.
SAID = f"""
from pathlib import Path
from docmill.worker.cli.options import FORMAT
from docmill.worker.pipelines.file import PipelineInvalid, parse
print(*FORMAT(lambda: None).__click_params__[0].type.choices)
print(FORMAT(lambda: None).__click_params__[0].help)
for output in ('file = "out.tsv"', 'format = "tsv"', 'file = "out.npy"', 'format = "npy"'):
    try:
        print(parse({PIPELINE!r} + output, Path("p.toml")).output.format)
    except PipelineInvalid as error:
        print(error)
"""


def test_options_and_pipelines_take_it(tmp_path: Path) -> None:
    program = _with_the_line(tmp_path) + SAID
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    choices, about, *found = ended.stdout.splitlines()
    assert choices == "jsonl csv csv-excel parquet xlsx npy openai-batch tsv"
    assert "(.csv, .parquet, .xlsx, .npy, .tsv;" in about
    assert about.endswith("tsv has tabs.")
    assert found[:2] == ["None", "tsv"]
    assert found[2].endswith(
        "only vectors are written as .npy, of one step; choose .jsonl, .csv, .parquet, .xlsx or .tsv"
    )
    assert found[3].endswith("format must be jsonl, csv, csv-excel, parquet, xlsx or tsv, not 'npy'")


def test_a_writer_of_some_outputs_refuses_others_and_several_steps() -> None:
    npy = writers.writer_of("npy")
    npy.check_takes([VECTOR])
    for outputs in ([TEXT], [VECTOR, VECTOR], []):
        with pytest.raises(FormatUnfit, match=r"only vectors are written as \.npy, of one step"):
            npy.check_takes(outputs)
    writers.writer_of("tsv").check_takes([TEXT, VECTOR])
