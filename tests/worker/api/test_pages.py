"""The notebook and the page about Python run as they are written, with real models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from docmill.worker.process import device_start
from docs.outputs import programs
from tests.worker.fork_servers import WITH_MODELS
from tests.worker.harness import EXAMPLES, ROOT, forked_device, share_conversions

pytestmark = pytest.mark.slow

DOCUMENTS = 20
OUTPUTS = 20  # of the notebook's first cell, which does all the work: messages, and the last state of each bar
TRACEBACK_LINES = 12  # of an error that is no bug, as a notebook shows it
FACTS = """import json
print(json.dumps({
    "vectors": [len(vector) for vector in frame["vector"]],
    "purposes": list(frame["purpose"]),
    "ids": list(frame["id"]),
    "hits": [hit.id for hit in hits],
}))"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a few of the examples' documents and a store, which this process uses for the module's tests."""
    folder = tmp_path_factory.mktemp("notebook")
    share_conversions(folder / "home")
    with (EXAMPLES / "descriptions.jsonl").open() as lines:
        (folder / "descriptions.jsonl").write_text("".join(islice(lines, DOCUMENTS)))
    (folder / "examples").symlink_to(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DOCMILL_HOME", str(folder / "home"))
        patch.setenv("DOCMILL_DEVICE", "cpu")
        patch.setattr(device_start, "start_device", partial(forked_device, WITH_MODELS))
        yield folder
    shutil.rmtree(folder / "home")


def test_the_notebook_embeds_classifies_and_searches_with_few_outputs(folder: Path) -> None:
    notebook = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    notebook.cells += map(nbformat.v4.new_code_cell, [FACTS, "mill.run(['a text'], 'translatte')"])
    NotebookClient(notebook, timeout=600, allow_errors=True).execute()
    assert len(first.outputs) < OUTPUTS
    assert "\x1b" not in "".join(output.text for output in first.outputs)
    *_, facts, refused = notebook.cells
    frame = json.loads(facts.outputs[0].text)
    assert frame["vectors"] == [384] * DOCUMENTS
    assert all(frame["purposes"])
    assert len(frame["hits"]) == 3
    assert set(frame["hits"]) <= set(frame["ids"])
    assert refused.outputs[0].ename == "Error"
    assert sum(len(part.splitlines()) for part in refused.outputs[0].traceback) < TRACEBACK_LINES


def test_the_programs_of_the_page_about_python_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for program in programs(ROOT / "docs" / "python.md"):
        exec(compile(program, "python.md", "exec"), names)
    assert len(capsys.readouterr().out.splitlines()) == 4  # three hits and a job
    assert {len(vector) for vector in names["frame"]["vector"]} == {384}
