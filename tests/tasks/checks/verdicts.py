"""The findings of all checks in real translations, clean and with planted errors.

After you changed a check, `python -m tests.tasks.checks.verdicts` writes them anew.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from bench import planted
from bench.planted import GoodPair
from docmill.tasks.checks import Checks, Context, all_checks
from tests.tasks.conftest import example_rows

KEPT = Path(__file__).with_name("verdicts.json")
PLANTS = (
    planted.loop,
    planted.dropped_sentence,
    planted.changed_number,
    planted.changed_name,
    planted.copied,
    planted.cut_short,
)


def find_verdicts() -> dict[str, list[str]]:
    """Return the findings in each output: flag, start, end, and the place of what the output lacks in the input."""
    rows = example_rows("french.jsonl")
    pairs = {f"{row['id']} fr-en": GoodPair(row["text"], row["reference"], "fr", "en") for row in rows}
    pairs |= {f"{row['id']} en-fr": GoodPair(row["reference"], row["text"], "en", "fr") for row in rows}
    material, draw = planted.pool([*pairs.values()]), random.Random(0)
    by_name = {}
    for number, (name, pair) in enumerate(pairs.items()):
        by_name[name] = _findings(pair)
        if wrong := planted.planted(pair, PLANTS[number % len(PLANTS)], material, draw):
            by_name[f"{name} {number % len(PLANTS)}"] = _findings(wrong)
    return by_name


def _findings(pair: GoodPair) -> list[str]:
    checks = Checks(tuple(all_checks()), Context(pair.source, pair.target))
    findings = checks.findings(pair.given, pair.output)
    return [f"{finding.flag} {finding.start} {finding.end} {finding.lost}" for finding in findings]


if __name__ == "__main__":
    doubtful = {name: findings for name, findings in find_verdicts().items() if findings}
    KEPT.write_text(json.dumps(doubtful, indent=0) + "\n")
