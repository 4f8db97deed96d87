"""Few-shot demonstrations for base models (Brown et al. 2020, section 2).

A model that only goes on with a text often writes nothing, or its own last words again and again, after a pattern
that it sees once. Gemma 3 270M (4-bit weights, 24 paragraphs from each of Spanish and French into English) had a chrF
of 1 and 3 without demonstrations and left 11 of 24 outputs empty; with two short sentences 20 and 23; with all three
39 and 39; whole documents in hard-wrapped French it often copied all the same. Of 12 summaries it left 4 empty after
"TL;DR:" (chrF 3), none after one demonstration (25).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from tasks.languages import language_codes

# The same three sentences in each language: short, with a condition, and as texts that inform are. A line has the
# language's code and its sentences.
_SENTENCES = Path(__file__).with_name("demonstrations.tsv")
SUMMARIZED = (
    "The museum was founded in 1912 by two brothers who collected clocks. It has more than four hundred of them, the "
    "oldest from 1640, and is open every day except Mondays.",
    "A museum with more than four hundred old clocks, open every day except Mondays.",
)


def translated(source: str, target: str) -> tuple[tuple[str, str], ...]:
    """Return sentences in both languages (by any of their codes); none where there are none in one of them."""
    sides = [_sentences().get(language_codes.short_code(language) or "", ()) for language in (source, target)]
    return tuple(zip(*sides, strict=True)) if all(sides) else ()


@cache
def _sentences() -> dict[str, tuple[str, ...]]:
    rows = [line.split("\t") for line in _SENTENCES.read_text(encoding="utf-8").splitlines()]
    found = {code: tuple(sentences) for code, *sentences in rows}
    return {**found, "no": found["nb"]}
