"""`docmill report`: the command, on a job of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from docmill import Error, connect
from docmill.features.reports.api import report
from tests.worker.harness import Docmill


@pytest.fixture
def docmill(tmp_path: Path) -> Docmill:
    docmill = Docmill(tmp_path, {})
    docmill.loads_models = False
    return docmill


def test_a_report_is_one_file_about_a_job(docmill: Docmill, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": "x", "text": "Mail to anna@example.org <script>1</script>"}\n')
    docmill("run", "redact", tmp_path / "a.jsonl")
    result = docmill("report", 1)
    assert "Wrote the report on job 1 to report-1.html." in result.stderr
    written = (docmill.folder / "report-1.html").read_text()
    assert "&lt;script&gt;" in written
    assert "<mark>EMAIL</mark>" in written
    with connect(store=docmill.folder / "home", device="cpu") as mill:
        report(mill.job(1), tmp_path / "c.html")
        assert "<mark>EMAIL</mark>" in (tmp_path / "c.html").read_text()
        with pytest.raises(Error, match=r"cannot write .*nowhere/report\.html: No such file"):
            report(mill.job(1), tmp_path / "nowhere" / "report.html")
    assert not docmill("report", 1, "--no-text", "--out", tmp_path / "b.html").stdout
    assert "anna" not in (tmp_path / "b.html").read_text()
    assert "--out: a report needs a file; name one" in docmill("report", 1, "--out", "-", code=2).stderr
    assert not (docmill.folder / "-").exists()
