"""What is read of a source goes into the store in chunks, the first of which lets a device begin."""

from __future__ import annotations

import json
from pathlib import Path

from storage.intake.ingest import CHUNK_RECORDS
from storage.readers import SourceOptions, open_source
from worker.enqueue import FIRST_CHUNK_RECORDS, _chunks


def test_the_first_chunk_is_small_and_the_others_are_large(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    rows = FIRST_CHUNK_RECORDS + CHUNK_RECORDS + 7
    lines = [json.dumps({"id": number, "text": "x"}) if number else "[]" for number in range(rows)]
    path.write_text("\n".join(lines))
    chunks = list(_chunks(open_source(str(path), SourceOptions())))
    sizes = [chunk.n_records + len(rejected) for chunk, rejected in chunks]
    assert sizes == [FIRST_CHUNK_RECORDS, CHUNK_RECORDS, 7]
    assert [seq for chunk, _ in chunks for seq in chunk.seqs] == list(range(1, rows))
