"""Messages of `--prune` and its options: at the end of a command, in `status`, and in a pipeline's history."""

from __future__ import annotations

from pathlib import Path

import pytest

from docmill.tasks.errors import BadOption
from docmill.worker.settings import Settings
from docmill.worker.submit.options import Request
from docmill.worker.submit.request import prepare
from tests.worker.harness import Docmill

TRANSLATE = ("--model", "null")


def test_files_that_left_their_folder_are_counted_and_named_with_what_to_do(embedded: Docmill) -> None:
    folder = embedded.folder / "letters"
    folder.mkdir()
    for n in range(6):
        (folder / f"{n}.txt").write_text(f"letter {n}")
    assert "no longer has" not in embedded("run", "translate", folder, *TRANSLATE).stderr
    (folder / "1.txt").unlink()
    (folder / "2.txt").write_text("another letter")
    message = "1 document that the source no longer has stays in the corpus (1.txt): read it with --prune to mark it"
    assert message in embedded("run", "translate", folder, *TRANSLATE).stderr
    for n in (2, 3, 4):
        (folder / f"{n}.txt").unlink()
    stderr = embedded("run", "translate", folder, *TRANSLATE).stderr
    assert "4 documents that the source no longer has stay in the corpus (1.txt, 3.txt, 4.txt and 1 more)" in stderr
    assert embedded.json("status", 3)["not_pruned"].startswith("4 documents that the source no longer has")
    assert "4 vanished" in embedded("run", "translate", folder, *TRANSLATE, "--prune", "--prune-max", "90").stderr
    assert "no longer has" not in embedded("run", "translate", folder, *TRANSLATE).stderr


@pytest.mark.parametrize("option", [{"prune_max": 10}, {"prune_rejected": "keep"}])
def test_an_option_of_pruning_without_pruning_is_refused(tmp_path: Path, option: dict[str, object]) -> None:
    request = Request(source="a.jsonl", task="embed", **option)  # type: ignore[arg-type]
    with pytest.raises(BadOption, match=r"--prune-.* says how --prune works: give --prune too"):
        prepare(Settings(home=tmp_path), request)
