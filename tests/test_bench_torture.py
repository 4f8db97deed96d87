"""The torture table counts right, for docmill and for a plain script, on a small corpus."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench.torture import rows
from bench.torture.__main__ import PEERS, Table
from bench.torture.outputs import PARTS, Score, score, write_corpus
from bench.torture.programs import Peer
from bench.torture.rows import Extent, Result

N = 200
DOCMILL, SCRIPT = (next(peer for peer in PEERS if peer.key == name) for name in ("docmill", "script"))
# In the environment of the tests.
HERE = Peer(SCRIPT.name, SCRIPT.program)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    return Table(tmp_path_factory.mktemp("torture"), N, N)


def counts(result: Result) -> tuple[int | None, int | None]:
    return result.lost, result.doubled


@pytest.mark.long
def test_a_killed_run_goes_on_and_a_plain_script_begins_anew(table: Table) -> None:
    resumed = rows.killed_at_half(table.site(DOCMILL), Extent(0, 0))
    assert counts(resumed) == (0, 0)
    anew = rows.killed_at_half(table.site(HERE), Extent(0, 0))
    assert counts(anew) == (0, 0)
    for result in (resumed, anew):
        assert (result.exit_codes, result.actions) == ([-9, 0], [rows.AGAIN]) or rows.MISSED in result.note
    assert anew.recomputed is not None
    assert anew.recomputed >= N // 2 or rows.MISSED in anew.note


@pytest.mark.long
@pytest.mark.timeout(900)
def test_docmill_loses_no_text_in_any_row_and_a_plain_script_does(table: Table) -> None:
    ours = dict(table.measure(DOCMILL, rows.ROWS))
    for row, result in ours.items():
        if result.lost is not None:  # only root fills disks
            assert counts(result) == (0, 0), row
    assert [ours[row].recomputed for row in (*rows.FIRST_THREE, rows.EQUAL)] == [0, 0, 0, 0]
    theirs = dict(table.measure(HERE, [rows.FIRST_THREE[1], "a deadly document", "a malformed record"]))
    assert (theirs["again, unchanged"].recomputed, theirs["1 % of texts changed"].recomputed) == (N, N - 1)
    assert (theirs["a deadly document"].lost, theirs["a malformed record"].lost) == (N, N)


def test_a_score_counts_missing_stale_cut_and_doubled_rows(tmp_path: Path) -> None:
    corpus = {"1": "one", "2": "two", "3": "three", "4": "four"}
    vectors = dict(zip(corpus.values(), np.eye(4, dtype=np.float32), strict=True))
    lines = [json.dumps({"id": key, "vector": vectors[text].tolist()}) for key, text in corpus.items()]
    stale = json.dumps({"id": "file.jsonl#3", "vector": vectors["one"].tolist()})
    (tmp_path / "out.jsonl").write_text("\n".join([lines[0], lines[0], lines[1], stale, lines[3][:-9]]))
    assert score(tmp_path, corpus, vectors) == Score(lost=2, doubled=1)


def test_a_corpus_has_each_text_in_one_of_its_files(tmp_path: Path) -> None:
    write_corpus(tmp_path, {str(number): "text" for number in range(50)}, inserted="cut\n")
    lines = "".join(path.read_text() for path in sorted(tmp_path.iterdir())).splitlines()
    assert len(list(tmp_path.iterdir())) == PARTS
    assert lines.count("cut") == 1
    assert [json.loads(line)["id"] for line in lines if line != "cut"] == [str(number) for number in range(50)]
