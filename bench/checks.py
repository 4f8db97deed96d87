"""Measure the checks of outputs: precision and recall on planted errors, and the loops of real outputs.

Each ``--source`` is a file of JSON lines, which may be gzipped. Lines with `text`, `lang` and `reference` (English)
are translations in both directions, lines with `text` and `synopsis` are summaries. Of lines with a `split` those of
``dev`` are taken: the bounds of the checks were set on the others. For a language with few of them, half of its other
lines are a second set, on which the bounds of ``names_changed`` were not set. Into every text an error is planted
that one check looks for, five times by turns where the texts are few. Without an error, every text is a clean one.
Clean texts of which a person found that the two differ in a name count as false alarms; their number is given, too.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from bench import planted
from bench.pairs import RESULTS, described, machine
from bench.planted import GoodPair, Plant, Pool
from docmill.storage.core.specs import Spec
from docmill.tasks import kinds
from docmill.tasks.checks import AS_WRITTEN, Checks, Context, all_checks
from docmill.tasks.checks.names import NAMES_CHANGED
from docmill.tasks.engine.backend_factory import open_backend
from docmill.tasks.engine.engine import Engine
from docmill.tasks.models.weights import ModelFolders
from docmill.tasks.specs import pinning
from docmill.tasks.specs.plan import build_spec

ONE_IN = 5
FEWER = 6
FEW_TEXTS, DRAWS_OF_FEW = 200, 5
DIFFERING = RESULTS / "checks-differing.json"
WAIT_S = 3600.0


def _nothing(_pair: GoodPair, _pool: Pool, _draw: random.Random) -> str | None:
    return None


_TRANSLATED: tuple[tuple[str, str, Plant], ...] = (
    ("a loop", "repetition", planted.loop),
    ("cut short", "length_ratio", planted.cut_short),
    ("the input copied", "copied_input", planted.copied),
    ("another language", "wrong_language", _nothing),
    ("a sentence dropped", "missing_sentences", planted.dropped_sentence),
    ("a number changed", "numbers_changed", planted.changed_number),
    ("a name changed", "names_changed", planted.changed_name),
)
_SUMMARIZED: tuple[tuple[str, str, Plant], ...] = (
    ("a loop", "repetition", planted.loop),
    ("the whole text", "length_ratio", planted.whole_text),
    ("the input copied", "copied_input", lambda pair, _pool, _draw: pair.given if len(pair.given) > 80 else None),
    ("another language", "wrong_language", _nothing),
    ("a number changed", "numbers_changed", planted.changed_number),
    ("a name changed", "names_changed", planted.changed_name),
)


@dataclass(frozen=True)
class Outputs:
    """Good outputs of one kind, with the checks that suit them and the errors that are planted."""

    name: str
    pairs: Sequence[GoodPair]
    checks: Checks
    errors: Sequence[tuple[str, str, Plant]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, action="append", required=True)
    parser.add_argument("--outputs", type=int, nargs=2, default=[600, 400], help="real translations, and summaries")
    asked = parser.parse_args()
    every = [row for source in asked.source for row in lines(source)]
    rows = [row for row in every if row.get("split", "dev") == "dev"]
    found = [row for one in (*_outputs(rows), *_held_out(every)) for row in figures(one)]
    real = [loops(*one, beams=1) for one in _questions(rows, asked.outputs)]
    fewer = [count // FEWER for count in asked.outputs]
    real += [loops(*one) for one in _questions(rows, fewer)]  # by the models' own search
    facts = {"machine": machine(), "one_in": ONE_IN, "planted": found, "real": real}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "checks.json").write_text(json.dumps(facts, indent=1) + "\n")
    (RESULTS / "checks.md").write_text(table(facts))
    sys.stdout.write(table(facts))


def figures(outputs: Outputs) -> Iterator[dict[str, Any]]:
    """Yield a row for each kind of error: precision, recall and false alarms of its check, in percent."""
    material = planted.pool(outputs.pairs)
    known = json.loads(DIFFERING.read_text())
    for error, flag, plant in outputs.errors:
        draw = random.Random(f"{outputs.name} {error}")
        draws = 1 if len(outputs.pairs) >= FEW_TEXTS else DRAWS_OF_FEW
        found = (planted.planted(pair, plant, material, draw) for _ in range(draws) for pair in outputs.pairs)
        wrong = [pair for pair in found if pair is not None]
        hits = sum(_flagged(outputs.checks, flag, pair) for pair in wrong)
        alarmed = [pair.key for pair in outputs.pairs if _flagged(outputs.checks, flag, pair)]
        alarms, clean = len(alarmed), len(outputs.pairs)
        # The precision if one text in five has the error, and the others are as good as all texts without it.
        expected = alarms / clean * (ONE_IN - 1) * len(wrong)
        yield {
            "outputs": outputs.name,
            "error": error,
            "flag": flag,
            "planted": len(wrong),
            "clean": clean,
            "precision": _percent(hits, hits + expected),
            "recall": _percent(hits, len(wrong)),
            "false_alarms": _percent(alarms, clean),
            "of_these_differing": sum(key in known.get(flag, {}) for key in alarmed),
        }


@contextmanager
def opened(kind: str, model: str, beams: int | None) -> Iterator[tuple[Engine, Spec]]:
    """Yield an engine with an empty cache, and the spec of a shipped model."""
    with tempfile.TemporaryDirectory() as cache:
        folders = ModelFolders(None, Path(cache))
        engine = Engine(partial(open_backend, device="cpu", folders=folders))
        engine.start()
        try:
            pinned = pinning.pin(model, folders)
            config = pinning.read_config(pinned, folders)
            yield engine, build_spec(kind, pinned, kinds.options(kind, beams=beams), config)
        finally:
            engine.close()


def loops(name: str, kind: str, model: str, pairs: Sequence[GoodPair], beams: int | None = None) -> dict[str, Any]:
    """Return how many real outputs have a loop by an independent rule, and how many of these are flagged.

    CPU seconds are those of this process: the translation's with all its threads, and the checks' beside it.
    """
    with opened(kind, model, beams) as (engine, spec):
        backend = engine.open(spec)["backend"]
        began = time.process_time()
        ticket = engine.submit(spec, [(number, pair.given) for number, pair in enumerate(pairs)])
        assert ticket.wait(WAIT_S)
        whole_s = time.process_time() - began
        outcomes = ticket.finished()
    checks = kinds.checks(spec, kinds.Traits())
    if kind == "translate":  # the model's traits say so in the engine
        checks = replace(checks, context=Context(target="en"))
    began = time.process_time()
    for outcome, pair in zip(outcomes, pairs, strict=True):
        checks.findings(pair.given, outcome.text or "")
    checks_s = time.process_time() - began
    looped = [
        outcome
        for outcome, pair in zip(outcomes, pairs, strict=True)
        if planted.has_loop(pair.given, outcome.text or "")
    ]
    return {
        "outputs": name,
        "model": model,
        "backend": backend,
        "beams": beams,
        "texts": len(pairs),
        "loops": len(looped),
        "flagged_loops": sum("repetition" in outcome.flags for outcome in looped),
        "flags": dict(Counter(flag for outcome in outcomes for flag in outcome.flags).most_common()),
        "without_flags": sum(not outcome.flags for outcome in outcomes),
        "ms_per_text": round(1000 * whole_s / len(pairs), 2),
        "checks_ms_per_text": round(1000 * checks_s / len(pairs), 3),
        "checks_percent": _percent(checks_s, whole_s),
    }


def table(facts: Mapping[str, Any]) -> str:
    lines = [
        "# checks",
        "",
        described(facts["machine"]),
        "",
        "| outputs | error | flag | with an error | clean | precision | recall | false alarms |",
        "| --- | --- | --- | --: | --: | --: | --: | --: |",
    ]
    for row in facts["planted"]:
        counts = f"{row['planted']:,} | {row['clean']:,}"
        differing = f", of {row['of_these_differing']} texts differing" if row["of_these_differing"] else ""
        rates = f"{row['precision']:.1f} % | {row['recall']:.1f} % | {row['false_alarms']:.1f} %{differing}"
        lines.append(f"| {row['outputs']} | {row['error']} | `{row['flag']}` | {counts} | {rates} |")
    lines += [
        "",
        "| real outputs | texts | with a loop | flagged | without flags | CPU ms a text | of which checks |",
        "| --- | --: | --: | --: | --: | --: | --: |",
    ]
    for row in facts["real"]:
        cost = f"{row['ms_per_text']:.1f} | {row['checks_ms_per_text']:.2f} ({row['checks_percent']:.1f} %)"
        counts = f"{row['texts']:,} | {row['loops']:,} | {row['flagged_loops']:,} | {row['without_flags']:,}"
        search = "greedy" if row["beams"] == 1 else "its own search"
        lines.append(f"| {row['model']}, {search}, {row['backend']} | {counts} | {cost} |")
    lines += ["", *(f"{row['model']}: {_counts(row['flags'])}." for row in facts["real"])]
    return "\n".join(lines) + "\n"


def _outputs(rows: Sequence[Mapping[str, Any]]) -> Iterator[Outputs]:
    translated = [row for row in rows if "reference" in row]
    languages = sorted({row["lang"] for row in translated})
    for back in (False, True):
        for language in languages:
            own = [row for row in translated if row["lang"] == language]
            pairs = [GoodPair(row["text"], row["reference"], language, "en", row["id"]) for row in own]
            if back:
                pairs = [GoodPair(pair.output, pair.given, "en", language, pair.key) for pair in pairs]
            pairs = _clean(pairs)
            context = Context(pairs[0].source, pairs[0].target)
            name = f"translations, {context.source} to {context.target}"
            others = _of_other_languages(translated, language)
            yield Outputs(name, pairs, Checks(tuple(all_checks()), context), _with(others, _TRANSLATED))
    summarized = [
        GoodPair(row["text"], row["synopsis"], "en", "en", row["id"]) for row in rows if row.get("synopsis")
    ]
    if summarized:
        checks = Checks(tuple(all_checks()), Context(shortened=True, same_language=True))
        others = _of_other_languages(translated, "")
        yield Outputs("summaries", _clean(summarized), checks, _with(others, _SUMMARIZED))
        honest = [pair for pair in _clean(summarized) if planted.says_no_more(pair)]
        yield Outputs("summaries that name only what their texts name", honest, checks, _with(others, _SUMMARIZED))
        written = [GoodPair(pair.output, pair.given, "en", "en") for pair in _clean(summarized)]
        yield Outputs("generated texts", written, AS_WRITTEN, _SUMMARIZED[:1])


def _held_out(rows: Sequence[Mapping[str, Any]]) -> Iterator[Outputs]:
    """Yield the second sets of languages that have few texts: every other text by a hash, and names alone."""
    translated = [row for row in rows if "reference" in row and "split" in row]
    counts = Counter(row["lang"] for row in translated if row["split"] == "dev")
    few = [row for row in translated if row["split"] != "dev" and counts[row["lang"]] < FEW_TEXTS]
    for outputs in _outputs([row for row in few if hashlib.md5(row["id"].encode()).digest()[0] % 2]):
        names = [error for error in outputs.errors if error[1] == NAMES_CHANGED.flag]
        yield replace(outputs, name=f"{outputs.name}, second set", errors=names)


def _clean(pairs: Sequence[GoodPair]) -> list[GoodPair]:
    return [pair for pair in pairs if pair.given.strip() and pair.output.strip()]


def _of_other_languages(rows: Sequence[Mapping[str, Any]], besides: str) -> list[str]:
    return [row["text"] for row in rows if row["lang"] != besides and len(row["text"]) > 80]


def _with(others: Sequence[str], errors: Sequence[tuple[str, str, Plant]]) -> list[tuple[str, str, Plant]]:
    """Return the errors, of which another language has these texts besides those of the inputs."""

    def other(pair: GoodPair, material: Pool, draw: random.Random) -> str | None:
        own = material.texts.get(pair.source or "", ()) if pair.source != pair.target else ()
        found = draw.choice([list(own), list(others)]) or list(own) or list(others)
        return draw.choice(found) if found else None

    return [(name, flag, other if flag == "wrong_language" else plant) for name, flag, plant in errors]


def _questions(
    rows: Sequence[Mapping[str, Any]], counts: Sequence[int]
) -> Iterator[tuple[str, str, str, list[GoodPair]]]:
    translated = [GoodPair(row["text"], row["reference"]) for row in rows if "reference" in row][: counts[0]]
    summarized = [GoodPair(row["text"], row["synopsis"]) for row in rows if row.get("synopsis")][: counts[1]]
    if translated:
        yield "translations", "translate", "marian-ddtp", translated
    if summarized:
        yield "summaries", "summarize", "synopsis-ddtp", summarized


def _flagged(checks: Checks, flag: str, pair: GoodPair) -> bool:
    return bool(Checks((flag,), checks.context).findings(pair.given, pair.output))


def _percent(part: float, whole: float) -> float:
    return round(100 * part / whole, 2) if whole else 0.0


def _counts(flags: Mapping[str, int]) -> str:
    return ", ".join(f"{flag} {count:,}" for flag, count in flags.items()) or "no flags"


def lines(path: Path) -> Iterator[dict[str, Any]]:
    whole = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    for line in whole.decode().splitlines():
        yield json.loads(line)


if __name__ == "__main__":
    main()
