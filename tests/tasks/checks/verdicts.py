"""The verdicts of all checks on real translations, clean and with planted errors.

After a check was changed on purpose, `python -m tests.tasks.checks.verdicts` writes them anew.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from bench import planted
from bench.planted import GoodPair
from docmill.tasks.checks import Checks, Context, all_checks

EXAMPLES = Path(__file__).resolve().parents[3] / "examples" / "french.jsonl"
KEPT = Path(__file__).with_name("verdicts.json")
PLANTS = (
    planted.loop,
    planted.dropped_sentence,
    planted.changed_number,
    planted.changed_name,
    planted.copied,
    planted.cut_short,
)


def verdicts() -> dict[str, list[str]]:
    """Return the findings in each output: the flag, and where it stands in the output and in the input."""
    rows = [json.loads(line) for line in EXAMPLES.read_text(encoding="utf-8").splitlines()]
    pairs = {f"{row['id']} fr-en": GoodPair(row["text"], row["reference"], "fr", "en") for row in rows}
    pairs |= {f"{row['id']} en-fr": GoodPair(row["reference"], row["text"], "en", "fr") for row in rows}
    material, draw = planted.pool([*pairs.values()]), random.Random(0)
    found = {}
    for number, (name, pair) in enumerate(pairs.items()):
        found[name] = _findings(pair)
        if wrong := planted.planted(pair, PLANTS[number % len(PLANTS)], material, draw):
            found[f"{name} {number % len(PLANTS)}"] = _findings(wrong)
    return found


def _findings(pair: GoodPair) -> list[str]:
    checks = Checks(tuple(all_checks()), Context(pair.source, pair.target))
    return [f"{one.flag} {one.start} {one.end} {one.lost}" for one in checks.findings(pair.given, pair.output)]


if __name__ == "__main__":
    KEPT.write_text(json.dumps({name: said for name, said in verdicts().items() if said}, indent=0) + "\n")
