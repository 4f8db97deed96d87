"""Measure the checks of outputs: precision and recall on planted errors, and the loops of real outputs.

Each ``--source`` is a file of JSON lines, which may be gzipped. A line with `text`, `lang` and `reference` (English)
is a translation in both directions. A line with `text` and `synopsis` is a summary. If lines have a `split`, the
benchmark uses those of ``dev``, because the bounds of the checks were set on the others. If a language has few such
lines, half of its other lines are a second set, on which the bounds of ``names_changed`` were not set.

Each check has a kind of error, which the benchmark plants in every text: once, or five times if there are few texts.
The texts without planted errors are the clean ones. In some clean texts a person found that input and output differ
in a name. A flag on such a text counts as a false alarm, and the results say how many of the false alarms these are.
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

ONE_IN = 5  # the precision is that at one error in so many outputs
FEWER = 6  # the models' own searches get a sixth of the texts
FEW_TEXTS, DRAWS_OF_FEW = 200, 5
DIFFERING = RESULTS / "checks-differing.json"
WAIT_S = 3600.0


def _plant_nothing(_pair: GoodPair, _pool: Pool, _draw: random.Random) -> str | None:
    return None


# Each error with its flag. `_complete_errors` replaces the function that plants another language.
_TRANSLATION_ERRORS: tuple[tuple[str, str, Plant], ...] = (
    ("a loop", "repetition", planted.loop),
    ("cut short", "length_ratio", planted.cut_short),
    ("the input copied", "copied_input", planted.copied),
    ("another language", "wrong_language", _plant_nothing),
    ("a sentence dropped", "missing_sentences", planted.dropped_sentence),
    ("a number changed", "numbers_changed", planted.changed_number),
    ("a name changed", "names_changed", planted.changed_name),
)
_SUMMARY_ERRORS: tuple[tuple[str, str, Plant], ...] = (
    ("a loop", "repetition", planted.loop),
    ("the whole text", "length_ratio", planted.whole_text),
    ("the input copied", "copied_input", lambda pair, _pool, _draw: pair.given if len(pair.given) > 80 else None),
    ("another language", "wrong_language", _plant_nothing),
    ("a number changed", "numbers_changed", planted.changed_number),
    ("a name changed", "names_changed", planted.changed_name),
)


@dataclass(frozen=True)
class Outputs:
    """Good outputs of one kind, the checks that apply to them, and the errors to plant, each with its flag."""

    name: str
    pairs: Sequence[GoodPair]
    checks: Checks
    errors: Sequence[tuple[str, str, Plant]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, action="append", required=True)
    parser.add_argument("--outputs", type=int, nargs=2, default=[600, 400], help="real translations, and summaries")
    options = parser.parse_args()
    all_rows = [row for source in options.source for row in read_rows(source)]
    rows = [row for row in all_rows if row.get("split", "dev") == "dev"]
    sets = [*_make_sets(rows), *_make_second_sets(all_rows)]
    scores = [score for outputs in sets for score in score_checks(outputs)]
    real = [count_loops(*selection, beams=1) for selection in _select_inputs(rows, options.outputs)]
    fewer = [count // FEWER for count in options.outputs]
    real += [count_loops(*selection) for selection in _select_inputs(rows, fewer)]  # with the models' own searches
    facts = {"machine": machine(), "one_in": ONE_IN, "planted": scores, "real": real}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "checks.json").write_text(json.dumps(facts, indent=1) + "\n")
    (RESULTS / "checks.md").write_text(format_tables(facts))
    sys.stdout.write(format_tables(facts))


def score_checks(outputs: Outputs) -> Iterator[dict[str, Any]]:
    """Yield a row for each kind of error, with its check's precision, recall and false alarms in percent."""
    material = planted.pool(outputs.pairs)
    differing = json.loads(DIFFERING.read_text())
    for error, flag, plant in outputs.errors:
        draw = random.Random(f"{outputs.name} {error}")
        draws = 1 if len(outputs.pairs) >= FEW_TEXTS else DRAWS_OF_FEW
        candidates = (planted.planted(pair, plant, material, draw) for _ in range(draws) for pair in outputs.pairs)
        wrong = [pair for pair in candidates if pair is not None]
        hits = sum(_has_flag(outputs.checks, flag, pair) for pair in wrong)
        alarmed = [pair.key for pair in outputs.pairs if _has_flag(outputs.checks, flag, pair)]
        alarms, clean = len(alarmed), len(outputs.pairs)
        # The precision supposes that one text in five has the error, and that the others are like the clean texts.
        expected_alarms = alarms / clean * (ONE_IN - 1) * len(wrong)
        yield {
            "outputs": outputs.name,
            "error": error,
            "flag": flag,
            "planted": len(wrong),
            "clean": clean,
            "precision": _to_percent(hits, hits + expected_alarms),
            "recall": _to_percent(hits, len(wrong)),
            "false_alarms": _to_percent(alarms, clean),
            "of_these_differing": sum(key in differing.get(flag, {}) for key in alarmed),
        }


@contextmanager
def start_engine(kind: str, model: str, beams: int | None) -> Iterator[tuple[Engine, Spec]]:
    """Run an engine with an empty cache until the block ends. Yield the engine, and the spec of a shipped model."""
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


def count_loops(
    name: str, kind: str, model: str, pairs: Sequence[GoodPair], beams: int | None = None
) -> dict[str, Any]:
    """Return how many real outputs have a loop by an independent rule, and how many of these are flagged.

    Times are CPU seconds of all threads of this process: once for computing and checking the outputs, and once for
    running the checks again on the same outputs.
    """
    with start_engine(kind, model, beams) as (engine, spec):
        backend = engine.open(spec)["backend"]
        began = time.process_time()
        ticket = engine.submit(spec, [(number, pair.given) for number, pair in enumerate(pairs)])
        assert ticket.wait(WAIT_S)
        whole_s = time.process_time() - began
        outcomes = ticket.finished()
    checks = kinds.checks(spec, kinds.Traits())
    if kind == "translate":  # in the engine, the model's traits name the target language
        checks = replace(checks, context=Context(target="en"))
    began = time.process_time()
    for outcome, pair in zip(outcomes, pairs, strict=True):
        checks.findings(pair.given, outcome.text or "")
    checks_s = time.process_time() - began
    outcomes_with_loop = [
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
        "loops": len(outcomes_with_loop),
        "flagged_loops": sum("repetition" in outcome.flags for outcome in outcomes_with_loop),
        "flags": dict(Counter(flag for outcome in outcomes for flag in outcome.flags).most_common()),
        "without_flags": sum(not outcome.flags for outcome in outcomes),
        "ms_per_text": round(1000 * whole_s / len(pairs), 2),
        "checks_ms_per_text": round(1000 * checks_s / len(pairs), 3),
        "checks_percent": _to_percent(checks_s, whole_s),
    }


def format_tables(facts: Mapping[str, Any]) -> str:
    """Return the page of results."""
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
    lines += ["", *(f"{row['model']}: {_format_counts(row['flags'])}." for row in facts["real"])]
    return "\n".join(lines) + "\n"


def _make_sets(rows: Sequence[Mapping[str, Any]]) -> Iterator[Outputs]:
    translated = [row for row in rows if "reference" in row]
    languages = sorted({row["lang"] for row in translated})
    for back in (False, True):
        for language in languages:
            own_rows = [row for row in translated if row["lang"] == language]
            pairs = [GoodPair(row["text"], row["reference"], language, "en", row["id"]) for row in own_rows]
            if back:
                pairs = [GoodPair(pair.output, pair.given, "en", language, pair.key) for pair in pairs]
            pairs = _drop_blank(pairs)
            context = Context(pairs[0].source, pairs[0].target)
            name = f"translations, {context.source} to {context.target}"
            errors = _complete_errors(_TRANSLATION_ERRORS, _select_other_languages(translated, language))
            yield Outputs(name, pairs, Checks(tuple(all_checks()), context), errors)
    summarized = [
        GoodPair(row["text"], row["synopsis"], "en", "en", row["id"]) for row in rows if row.get("synopsis")
    ]
    if summarized:
        checks = Checks(tuple(all_checks()), Context(shortened=True, same_language=True))
        errors = _complete_errors(_SUMMARY_ERRORS, _select_other_languages(translated, ""))
        summaries = _drop_blank(summarized)
        yield Outputs("summaries", summaries, checks, errors)
        faithful = [pair for pair in summaries if planted.says_no_more(pair)]
        yield Outputs("summaries that name only what their texts name", faithful, checks, errors)
        generated = [GoodPair(pair.output, pair.given, "en", "en") for pair in summaries]
        yield Outputs("generated texts", generated, AS_WRITTEN, _SUMMARY_ERRORS[:1])


def _make_second_sets(rows: Sequence[Mapping[str, Any]]) -> Iterator[Outputs]:
    """Yield the second sets of languages that have few texts: half of the other texts, with changed names only."""
    translated = [row for row in rows if "reference" in row and "split" in row]
    counts = Counter(row["lang"] for row in translated if row["split"] == "dev")
    few = [row for row in translated if row["split"] != "dev" and counts[row["lang"]] < FEW_TEXTS]
    for outputs in _make_sets([row for row in few if hashlib.md5(row["id"].encode()).digest()[0] % 2]):
        errors = [error for error in outputs.errors if error[1] == NAMES_CHANGED.flag]
        yield replace(outputs, name=f"{outputs.name}, second set", errors=errors)


def _drop_blank(pairs: Sequence[GoodPair]) -> list[GoodPair]:
    return [pair for pair in pairs if pair.given.strip() and pair.output.strip()]


def _select_other_languages(rows: Sequence[Mapping[str, Any]], language: str) -> list[str]:
    return [row["text"] for row in rows if row["lang"] != language and len(row["text"]) > 80]


def _complete_errors(errors: Sequence[tuple[str, str, Plant]], others: Sequence[str]) -> list[tuple[str, str, Plant]]:
    """Return the errors with a function that plants another language.

    It takes one of `others`, or an input if the outputs are translations.
    """

    def plant_other_language(pair: GoodPair, material: Pool, draw: random.Random) -> str | None:
        inputs = material.texts.get(pair.source or "", ()) if pair.source != pair.target else ()
        texts = draw.choice([list(inputs), list(others)]) or list(inputs) or list(others)
        return draw.choice(texts) if texts else None

    return [(name, flag, plant_other_language if flag == "wrong_language" else plant) for name, flag, plant in errors]


def _select_inputs(
    rows: Sequence[Mapping[str, Any]], counts: Sequence[int]
) -> Iterator[tuple[str, str, str, list[GoodPair]]]:
    """Yield the first translations and summaries, each with a name, a kind of task and a model."""
    translated = [GoodPair(row["text"], row["reference"]) for row in rows if "reference" in row][: counts[0]]
    summarized = [GoodPair(row["text"], row["synopsis"]) for row in rows if row.get("synopsis")][: counts[1]]
    if translated:
        yield "translations", "translate", "marian-ddtp", translated
    if summarized:
        yield "summaries", "summarize", "synopsis-ddtp", summarized


def _has_flag(checks: Checks, flag: str, pair: GoodPair) -> bool:
    return bool(Checks((flag,), checks.context).findings(pair.given, pair.output))


def _to_percent(part: float, whole: float) -> float:
    return round(100 * part / whole, 2) if whole else 0.0


def _format_counts(flags: Mapping[str, int]) -> str:
    return ", ".join(f"{flag} {count:,}" for flag, count in flags.items()) or "no flags"


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file of JSON lines, which may be gzipped."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    for line in content.decode().splitlines():
        yield json.loads(line)


if __name__ == "__main__":
    main()
