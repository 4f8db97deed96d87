"""A document of a hundred thousand words through each task."""

from __future__ import annotations

from typing import Any

import pytest

from storage.outcomes import Status
from tests.tasks.conftest import Bench

WORDS = 100_000


def long_text(texts: list[str]) -> str:
    parts: list[str] = []
    words = 0
    while words < WORDS:
        parts.append(texts[len(parts) % len(texts)])
        words += len(parts[-1].split())
    return "\n\n".join(parts)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "model", "options"),
    [
        ("embed", "minilm", {}),
        ("summarize", "synopsis-ddtp", {"beams": 1}),
        ("translate", "marian-ddtp", {"beams": 1, "max_new_tokens": 12}),
    ],
)
def test_a_hundred_thousand_words_have_one_outcome(
    bench: Bench, descriptions: list[str], french: list[str], kind: str, model: str, options: dict[str, Any]
) -> None:
    text = long_text(french if kind == "translate" else descriptions)
    (outcome,) = bench.run(bench.spec(kind, model, dtype="auto", **options), [text])
    assert outcome.status is Status.DONE
    assert outcome.tokens_in > WORDS
    if kind == "embed":
        assert len(outcome.vector or b"") == 4 * 384
        assert outcome.flags == ("windowed",)
    elif kind == "summarize":
        assert outcome.flags == ("reduced",)
        assert 0 < len(outcome.text or "") < 500
    else:
        assert "output_truncated" in outcome.flags
        assert (outcome.text or "").count("\n\n") == text.count("\n\n")
