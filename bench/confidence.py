"""Measure how many outputs are bad among all, and among those that `low_confidence` flags.

An output is bad if its chrF against its reference is below 45 (translations) or 30 (summaries).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.checks import WAIT_S, read_rows, start_engine
from bench.pairs import RESULTS, described, machine
from docmill.storage.core.specs import LOW_CONFIDENCE, Outcome

# The shipped model of each kind, and the chrF below which its output is bad.
_KINDS = {"translate": ("marian-ddtp", 45.0), "summarize": ("synopsis-ddtp", 30.0)}
_COLUMNS = {
    "outputs": "outputs",
    "beams": "beams",
    "texts": "texts",
    "bad": "bad, of all",
    "flagged": "flagged",
    "bad_of_flagged": "bad, of the flagged",
    "found": "flagged, of the bad",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--source", type=Path, action="append", required=True)
    parser.add_argument("--skip", type=int, default=600, help="texts of each kind on which the bounds were chosen")
    parser.add_argument("--texts", type=int, default=800)
    options = parser.parse_args()
    rows = [row for source in options.source for row in read_rows(source) if row.get("split", "dev") == "dev"]
    shares = [
        measure_shares(name, kind, pairs[: options.texts // beams], beams)
        for beams in (1, 4)
        for name, kind, pairs in select_pairs(rows, options.skip)
    ]
    facts = machine()
    (RESULTS / "confidence.json").write_text(json.dumps({"machine": facts, "found": shares}, indent=1) + "\n")
    (RESULTS / "confidence.md").write_text(format_table(facts, shares))
    sys.stdout.write(format_table(facts, shares))


def select_pairs(rows: Sequence[Mapping[str, Any]], skip: int) -> Iterable[tuple[str, str, list[tuple[str, str]]]]:
    """Yield each kind of outputs: its name, the kind of task, and texts with their references.

    The first `skip` texts of each kind are left out, because the bounds were chosen on them.
    """
    translated = [row for row in rows if row.get("reference")]
    yield "translations", "translate", [(row["text"], row["reference"]) for row in translated][skip:]
    yield "summaries", "summarize", [(row["text"], row["synopsis"]) for row in rows if row.get("synopsis")][skip:]


def measure_shares(name: str, kind: str, pairs: Sequence[tuple[str, str]], beams: int) -> dict[str, Any]:
    """Return the shares of bad and of flagged outputs, in percent."""
    from sacrebleu.metrics import CHRF

    chrf = CHRF()
    model, least_good = _KINDS[kind]
    outcomes = compute(kind, model, [text for text, _ in pairs], beams)
    bad = [
        chrf.sentence_score(outcome.text or "", [reference]).score < least_good
        for outcome, (_, reference) in zip(outcomes, pairs, strict=True)
    ]
    flagged = [LOW_CONFIDENCE in outcome.flags for outcome in outcomes]
    both = sum(is_bad and is_flagged for is_bad, is_flagged in zip(bad, flagged, strict=True))
    return {
        "outputs": name,
        "beams": beams,
        "texts": len(pairs),
        "bad": _to_percent(sum(bad), len(pairs)),
        "flagged": _to_percent(sum(flagged), len(pairs)),
        "bad_of_flagged": _to_percent(both, sum(flagged)),
        "found": _to_percent(both, sum(bad)),
    }


def compute(kind: str, model: str, texts: Sequence[str], beams: int) -> list[Outcome]:
    with start_engine(kind, model, beams) as (engine, spec):
        ticket = engine.submit(spec, [*enumerate(texts)])
        assert ticket.wait(WAIT_S)
        return ticket.finished()


def format_table(facts: Mapping[str, Any], shares: Sequence[Mapping[str, Any]]) -> str:
    """Return the page of results. `facts` describes the machine."""
    head = ["| " + " | ".join(_COLUMNS.values()) + " |", "| --- |" + " --: |" * (len(_COLUMNS) - 1)]
    rows = ["| " + " | ".join(str(row[key]) for key in _COLUMNS) + " |" for row in shares]
    note = "Shares are in percent. Bad is a chrF below 45 (translations) or 30 (summaries) against the reference."
    return "\n".join(["# confidence", "", described(dict(facts)), "", *head, *rows, "", note]) + "\n"


def _to_percent(part: int, whole: int) -> float:
    return round(100 * part / whole, 1) if whole else 0.0


if __name__ == "__main__":
    main()
