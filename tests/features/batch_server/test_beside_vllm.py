"""One batch file through docmill and through vLLM's own runner, with a real model (`make test-vllm`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import batch_files, models
from tests.faults.servers import missing

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore")]


def test_chats_have_the_answers_of_vllms_runner(tmp_path: Path) -> None:
    try:
        folder = models.fetched(models.SMOLLM2)
    except models.NotFetched as error:
        missing(str(error))
    requests = batch_files.make_chat_requests(8, 12)
    file = batch_files.write_requests(tmp_path / "requests.jsonl", requests)
    ours = batch_files.run_docmill(file, folder, tmp_path / "ours.jsonl")
    theirs = batch_files.run_vllm(file, folder, tmp_path / "theirs.jsonl", "--max-model-len", "512")
    assert [*ours] == [*theirs] == [request["custom_id"] for request in requests]
    assert {line["response"]["status_code"] for line in (*ours.values(), *theirs.values())} == {200}
    differences = batch_files.find_differences(requests, ours, theirs, folder)
    assert all(difference.is_near_tie for difference in differences), differences
