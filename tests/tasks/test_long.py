"""A document of very many words through each task, and one of fifty megabytes in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from docmill.storage.core.specs import Status
from tests.tasks.conftest import Bench

WORDS = (12_000, 100_000)
FIFTY_MEGABYTES = r"""
import json, re, sys
from pathlib import Path
from docmill.tasks import kinds
from docmill.tasks.engine.backend_factory import open_backend
from docmill.tasks.engine.engine import Engine
from docmill.tasks.specs import pinning
from docmill.tasks.specs.plan import build_spec

kind, text = "translate", "x" * 50_000_000
spec = build_spec(kind, pinning.pin("null", models_dir=None, cache_dir=Path("none")), kinds.options(kind), {})
engine = Engine(lambda spec: open_backend(spec, device="cpu", models_dir=None, cache_dir=Path("none")))
engine.start()
ticket = engine.submit(spec, [(1, text)])
assert ticket.wait(120)
engine.close()
outcome = ticket.finished()[0]
same = outcome.text == text
# Not getrusage: its maximum starts from that of the process which started this one.
peak_kib = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
print(json.dumps([outcome.status, same, peak_kib]))
"""


def long_text(texts: list[str], words: int) -> str:
    parts: list[str] = []
    while words > 0:
        parts.append(texts[len(parts) % len(texts)])
        words -= len(parts[-1].split())
    return "\n\n".join(parts)


@pytest.mark.slow
@pytest.mark.parametrize("words", [WORDS[0], pytest.param(WORDS[1], marks=pytest.mark.soak)])
@pytest.mark.parametrize(
    ("kind", "model", "options"),
    [
        ("embed", "minilm", {}),
        pytest.param("summarize", "synopsis-ddtp", {"beams": 1}, marks=pytest.mark.long),
        ("translate", "marian-ddtp", {"beams": 1, "max_new_tokens": 12}),
    ],
)
def test_a_long_document_has_one_outcome(
    bench: Bench,
    descriptions: list[str],
    french: list[str],
    kind: str,
    model: str,
    options: dict[str, Any],
    words: int,
) -> None:
    text = long_text(french if kind == "translate" else descriptions, words)
    (outcome,) = bench.run(bench.spec(kind, model, dtype="auto", **options), [text])
    assert outcome.status is Status.DONE
    assert outcome.tokens_in > words
    if kind == "embed":
        assert len(outcome.vector or b"") == 4 * 384
        assert outcome.flags == ("windowed",)
    elif kind == "summarize":
        assert outcome.flags == ("reduced",)
        assert 0 < len(outcome.text or "") < 500
    else:
        assert "output_truncated" in outcome.flags
        assert (outcome.text or "").count("\n\n") == text.count("\n\n")


@pytest.mark.slow
def test_fifty_megabytes_in_one_line_take_little_memory() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FIFTY_MEGABYTES],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    status, same, peak_kib = json.loads(done.stdout)
    assert status == Status.DONE
    assert same
    assert peak_kib < 1_000_000
