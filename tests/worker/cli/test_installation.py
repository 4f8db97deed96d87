"""Commands about an installation: completion in shells, and the store's schema."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from docmill.storage.core import invariants
from docmill.storage.core.transaction import Transaction
from tests.test_imports import loaded_after
from tests.worker.conftest import Call
from tests.worker.harness import DOCMILL, Docmill, kill_group

WITHIN_S = 30.0
ERASE_LINE = "\x15"


class Bash:
    """An interactive bash that has sourced the completion script."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal

    def shows(self, typed: str, expected: str) -> None:
        """Type, and wait until the terminal shows a text."""
        os.write(self._terminal, typed.encode())
        screen, deadline = "", time.monotonic() + WITHIN_S
        while expected not in screen:
            left_s = deadline - time.monotonic()
            assert left_s > 0, f"{expected!r} never came; the terminal shows {screen!r}"
            if select.select([self._terminal], [], [], left_s)[0]:
                screen += os.read(self._terminal, 4096).decode(errors="replace")


@contextmanager
def bash(docmill: Docmill) -> Iterator[Bash]:
    ours, its = pty.openpty()
    environment = docmill.environment | {
        "PATH": f"{Path(DOCMILL).parent}:{os.environ['PATH']}",
        "PS1": "$ ",
        "TERM": "dumb",
        "INPUTRC": os.devnull,
    }
    command = ["bash", "--norc", "--noprofile", "-i"]
    process = subprocess.Popen(
        command, stdin=its, stdout=its, stderr=its, cwd=docmill.folder, env=environment, start_new_session=True
    )
    os.close(its)
    try:
        shell = Bash(ours)
        shell.shows("source <(docmill completion bash) && echo rea''dy\n", "ready")
        yield shell
    finally:
        kill_group(process)
        os.close(ours)


def test_a_bash_completes_commands_options_choices_models_and_files(embedded: Docmill) -> None:
    (embedded.folder / "descriptions of it.jsonl").touch()
    with bash(embedded) as shell:
        shell.shows("docmill pau\t", "pause ")
        shell.shows(f"{ERASE_LINE}docmill corpus tr\t", "trace ")
        shell.shows(f"{ERASE_LINE}docmill run tra\t", "translate ")
        shell.shows("--model mar\t", "marian-ddtp ")
        shell.shows("desc\t", r"descriptions\ of\ it.jsonl ")


@pytest.mark.parametrize("words", ["docmill ", "docmill run embed --model "])
def test_completing_loads_neither_models_nor_the_store_nor_the_queue(words: str) -> None:
    asks = {"_DOCMILL_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    code = "from docmill.worker.cli import docmill\ntry:\n    docmill([], 'docmill')\nexcept SystemExit:\n    pass"
    loaded = loaded_after(code, **asks)
    assert "click.shell_completion" in loaded
    # pydantic's models declare the options of `run`; nothing that is slower to import is needed for them.
    assert not loaded & {"torch", "transformers", "numpy", "sqlalchemy", "celery", "redis", "rich"}
    assert words.startswith("docmill run") or "pydantic" not in loaded


def test_wrong_counts_are_corrected_and_reported(embedded: Docmill, write_corpus: Callable[..., Path]) -> None:
    write_corpus([{"id": f"{n}", "text": f"text {n}"} for n in range(3)])
    embedded("run", "embed", "corpus.jsonl", "--model", "null")
    assert "are right." in embedded("db", "recount").stderr
    [(jobs,)] = embedded.sql("SELECT count(*) FROM shard_count WHERE n > 0")
    embedded.sql(
        "UPDATE shard_count SET n = 2 * n",
        "INSERT INTO work_count (name, lane, label, n) VALUES ('flags', 'embed', 'empty', 2)",
        "INSERT INTO work_count (name, lane, label, n) VALUES ('failures', 'embed', 'document', 1)",
    )
    stderr = embedded("db", "recount").stderr
    assert f"{jobs} count{'s' * (jobs != 1)} of shards, 2 of failures and flags" in stderr
    assert embedded.json("db", "recount") == {"corrected": {"shards": 0, "outcomes": 0}}


def test_doctor_names_the_invariants_that_a_store_breaks_and_prints_their_queries(
    embedded: Docmill, write_corpus: Callable[..., Path]
) -> None:
    write_corpus([{"id": f"{n}", "text": f"text {n}"} for n in range(3)])
    embedded("run", "embed", "corpus.jsonl", "--model", "null")
    checks = embedded.json("doctor", "--invariants")
    assert len(checks) > 20
    assert not [check for check in checks if check["rows"]]
    queries = embedded("doctor", "--invariants", "--sql").stdout
    for query in queries.split(";\n")[:-1]:
        assert embedded.sql(query) == []
    embedded.sql("UPDATE corpus SET n_documents = 4")
    broken = embedded("doctor", "--invariants", code=1)
    assert [line.split()[1] for line in broken.stdout.splitlines() if line.startswith("BAD")] == ["corpus_counts"]
    assert "corpus_id=1 n_documents=4 documents=3" in broken.stdout
    assert f"{len(checks) - 1} of {len(checks)} invariants hold." in broken.stderr


def test_an_interrupted_check_of_the_invariants_shows_the_checks_before_and_names_its_own(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    call("db", "upgrade")
    read = invariants._read

    def read_until(transaction: Transaction, query: str) -> list[dict[str, Any]]:
        if "length(outcome.vector)" in query:
            raise KeyboardInterrupt
        return read(transaction, query)

    monkeypatch.setattr(invariants, "_read", read_until)
    shown = call("doctor", "--invariants", code=130)
    assert [line.split()[:2] for line in shown.out.splitlines()] == [
        ["ok", name] for name in ("references", "one_outcome", "outcome_status")
    ]
    assert "vector_lengths" in shown.err
