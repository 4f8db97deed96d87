"""The notebook and the page about Python run as they are written, with real models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pandas
import pytest

from tests.test_docs import NEEDS, fences
from tests.worker.harness import EXAMPLES, ROOT, forked_device_with_models, share_conversions
from worker.process import device_start

pytestmark = pytest.mark.slow

DOCUMENTS = 20
LINES = 10  # of the notebook's first cell, which does all the work


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with few of the examples' documents, and a store, which are those of this process meanwhile."""
    folder = tmp_path_factory.mktemp("notebook")
    share_conversions(folder / "home")
    with (EXAMPLES / "descriptions.jsonl").open() as lines:
        (folder / "descriptions.jsonl").write_text("".join(islice(lines, DOCUMENTS)))
    (folder / "examples").symlink_to(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DOCMILL_HOME", str(folder / "home"))
        patch.setenv("DOCMILL_DEVICE", "cpu")
        patch.setattr(device_start, "start_device", forked_device_with_models)
        yield folder
    shutil.rmtree(folder / "home")


def test_the_notebook_embeds_classifies_and_searches_in_fewer_than_ten_lines(folder: Path) -> None:
    cells = json.loads((EXAMPLES / "notebook.ipynb").read_text())["cells"]
    programs = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len([line for line in programs[0].splitlines() if line]) < LINES
    names: dict[str, Any] = {}
    for program in programs:
        exec(compile(program, "notebook.ipynb", "exec"), names)
    frame = names["frame"]
    assert isinstance(frame, pandas.DataFrame)
    assert len(frame) == DOCUMENTS
    assert {len(vector) for vector in frame["vector"]} == {384}
    assert frame["purpose"].notna().all()
    assert len(names["hits"]) == 3
    assert {hit.id for hit in names["hits"]} <= set(frame["id"])
    names["mill"].close()


def test_the_programs_of_the_page_about_python_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for fence in fences(ROOT / "docs" / "python.md"):
        if fence.language == "python" and not fence.title.startswith(NEEDS):
            exec(compile(fence.text, "python.md", "exec"), names)
    assert len(capsys.readouterr().out.splitlines()) == 4  # three hits and a job
    assert names["frame"]["purpose"].notna().all()
