"""Count the bad outputs among those that `low_confidence` flags, and among all, by the references of real texts.

An output is bad if its chrF against the reference is less than 45 (translations), or than 30 (summaries).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.checks import WAIT_S, lines, opened
from bench.pairs import RESULTS, described, machine
from docmill.storage.core.specs import LOW_CONFIDENCE, Outcome

# By kind: the shipped model, and the chrF below which an output is bad.
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
    asked = parser.parse_args()
    rows = [row for source in asked.source for row in lines(source) if row.get("split", "dev") == "dev"]
    found = [
        figures(name, kind, pairs[: asked.texts // beams], beams)
        for beams in (1, 4)
        for name, kind, pairs in corpora(rows, asked.skip)
    ]
    where = machine()
    (RESULTS / "confidence.json").write_text(json.dumps({"machine": where, "found": found}, indent=1) + "\n")
    (RESULTS / "confidence.md").write_text(table(where, found))
    sys.stdout.write(table(where, found))


def corpora(rows: Sequence[Mapping[str, Any]], skip: int) -> Iterable[tuple[str, str, list[tuple[str, str]]]]:
    """Yield a name, a kind, and texts with their references, without the texts that the bounds were chosen on."""
    translated = [row for row in rows if row.get("reference")]
    yield "translations", "translate", [(row["text"], row["reference"]) for row in translated][skip:]
    yield "summaries", "summarize", [(row["text"], row["synopsis"]) for row in rows if row.get("synopsis")][skip:]


def figures(name: str, kind: str, pairs: Sequence[tuple[str, str]], beams: int) -> dict[str, Any]:
    """Return the shares in percent of bad outputs and of flagged ones."""
    from sacrebleu.metrics import CHRF

    chrf = CHRF()
    model, least = _KINDS[kind]
    outcomes = computed(kind, model, [text for text, _ in pairs], beams)
    bad = [
        chrf.sentence_score(outcome.text or "", [reference]).score < least
        for outcome, (_, reference) in zip(outcomes, pairs, strict=True)
    ]
    flagged = [LOW_CONFIDENCE in outcome.flags for outcome in outcomes]
    both = sum(one and other for one, other in zip(bad, flagged, strict=True))
    return {
        "outputs": name,
        "beams": beams,
        "texts": len(pairs),
        "bad": _percent(sum(bad), len(pairs)),
        "flagged": _percent(sum(flagged), len(pairs)),
        "bad_of_flagged": _percent(both, sum(flagged)),
        "found": _percent(both, sum(bad)),
    }


def computed(kind: str, model: str, texts: Sequence[str], beams: int) -> list[Outcome]:
    with opened(kind, model, beams) as (engine, spec):
        ticket = engine.submit(spec, [*enumerate(texts)])
        assert ticket.wait(WAIT_S)
        return ticket.finished()


def table(where: Mapping[str, Any], found: Sequence[Mapping[str, Any]]) -> str:
    head = ["| " + " | ".join(_COLUMNS.values()) + " |", "| --- |" + " --: |" * (len(_COLUMNS) - 1)]
    rows = ["| " + " | ".join(str(row[key]) for key in _COLUMNS) + " |" for row in found]
    note = "Shares are in percent. Bad is a chrF below 45 (translations) or 30 (summaries) against the reference."
    return "\n".join(["# confidence", "", described(dict(where)), "", *head, *rows, "", note]) + "\n"


def _percent(part: int, whole: int) -> float:
    return round(100 * part / whole, 1) if whole else 0.0


if __name__ == "__main__":
    main()
