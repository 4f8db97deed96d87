"""`docmill wait` has the exit code of the job, as docs/schedulers.md says."""

from __future__ import annotations

from pathlib import Path

from tests.worker.harness import Docmill


def test_the_exit_codes_of_wait_are_those_of_the_page(tmp_path: Path) -> None:
    docmill = Docmill(tmp_path, {"DOCMILL_REDIS_URL": "redis://127.0.0.1:9"})  # nothing here needs it to be up

    def enqueue(name: str, text: str) -> int:
        (tmp_path / name).write_text(text)
        return docmill.enqueue(tmp_path / name, "--task", "embed", "--model", "null")

    done = enqueue("done.jsonl", "")
    rejected = enqueue("rejected.jsonl", "no record\n")
    cancelled = enqueue("cancelled.jsonl", '{"id": "1", "text": "never done"}\n')
    assert docmill.json("status", cancelled)["ended"] is False
    docmill("cancel", cancelled)
    for job, code in ((done, 0), (rejected, 4), (cancelled, 1)):
        assert docmill.json("wait", job, code=code)["ended"] is True
    docmill("wait", 99, code=2)
    docmill.environment["DOCMILL_DATABASE_URL"] = "postgresql://nobody@127.0.0.1:9/none"
    docmill("wait", done, code=3)
