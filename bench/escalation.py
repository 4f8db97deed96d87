"""Measure escalation: quality and cost beside computing everything by the first or by the better model.

Each pair computes every text by both. A row is a doubt (``--when``): the share of texts that it escalates, the score
of the better results by docmill's rule, the part of the better model's gain that this is, and the cost as a share of
the better model alone, the first pass included. Costs are CPU seconds of this process. Those of the escalated texts
are the better model's, by tokens; for some doubts they were computed once more, by themselves. Some rows take the
bound for each half of the texts from the other half.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import sacrebleu

from bench.pairs import RESULTS, described, machine
from bench.quality import Question, lines, score
from docmill.storage.core.specs import Outcome
from docmill.storage.steps.conditions import Doubt, Flagged, is_better
from docmill.tasks import kinds
from docmill.tasks.engine.backend_factory import open_backend
from docmill.tasks.engine.engine import Engine
from docmill.tasks.models.weights import ModelFolders
from docmill.tasks.specs import pinning
from docmill.tasks.specs.plan import build_spec

WAIT_S = 3600.0
LARGE_TOKENS = 400  # that a decoder-only model may write
GAIN, COST = 80.0, 40.0  # percent: at least this much of the gain for at most this much of the cost
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)  # of the least confident texts
FLAGS = ("doubtful", "repetition", "repetition,missing_sentences,length_ratio,copied_input,wrong_language")
RESAMPLES = 1000
SCORES = {"translate": "chrF", "summarize": "ROUGE-L"}
_ASKED: Mapping[str, Mapping[str, Any]] = {"translate": {"source_lang": "fr", "target_lang": "en"}, "summarize": {}}


@dataclass(frozen=True)
class Side:
    """A model with options, in a precision and perhaps on a backend."""

    model: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return " ".join([Path(self.model).stem, *(f"{name} {value}" for name, value in self.options.items())])


@dataclass(frozen=True)
class ModelPair:
    """The first model and the better one, for texts of one kind."""

    question: Question
    first: Side
    second: Side


@dataclass(frozen=True)
class ComputedSide:
    """The outcomes of all texts by one side, and CPU seconds without loading."""

    outcomes: Sequence[Outcome]
    seconds: float
    backend: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder with references, as bench.quality has")
    parser.add_argument("--texts", type=int, default=300, help="of each task")
    parser.add_argument("--large", metavar="MODEL", help="a decoder-only model, for Spanish and French texts only")
    asked = parser.parse_args()
    rows = []
    name = "escalation" if asked.large is None else "escalation_large"
    with tempfile.TemporaryDirectory() as cache:
        pairs = (
            _pairs(asked.data, asked.texts) if asked.large is None else _large(asked.data, asked.texts, asked.large)
        )
        for pair in pairs:
            rows.append(measured(pair, Path(cache)))
            facts = {"machine": machine(), "load": os.getloadavg()[0], "gain": GAIN, "cost": COST, "pairs": rows}
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")
            (RESULTS / f"{name}.md").write_text(table(facts))
    sys.stdout.write(table(facts))


def _pairs(data: Path, texts: int) -> Iterator[ModelPair]:
    """Yield pairs of one model with more beams."""
    for question, further in zip(_questions(data, texts), ({"unit": "sentence"}, {}), strict=True):
        asked = _ASKED[question.kind]
        sides = (Side(question.model, {**asked, "beams": beams}) for beams in (1, 4))
        yield ModelPair(question, *sides)
        greedy = Side(question.model, {**asked, "beams": 1, "dtype": "int8"})
        yield ModelPair(question, greedy, Side(question.model, {**asked, **further, "beams": 8}))


def _large(data: Path, texts: int, model: str) -> Iterator[ModelPair]:
    """Yield the shipped translator with another model: on Spanish texts, and on these with as many French ones."""
    spanish = _translated(data, "es", texts)
    french = _translated(data, "fr", len(spanish.texts))
    both = [
        [one for pair in zip(*columns, strict=True) for one in pair]
        for columns in ((spanish.texts, french.texts), (spanish.references, french.references))
    ]
    mixed = Question(spanish.kind, spanish.model, *both)
    for question, language in ((spanish, "es"), (mixed, "auto")):
        asked = {"source_lang": language, "target_lang": "en"}
        greedy = Side(question.model, {**asked, "beams": 1, "dtype": "int8"})
        yield ModelPair(question, greedy, Side(model, {**asked, "max_new_tokens": LARGE_TOKENS}))


def _questions(data: Path, count: int) -> Iterator[Question]:
    yield _translated(data, "fr", count)
    described = [row for row in lines(data / "descriptions.jsonl.gz") if row["split"] == "dev"][:count]
    texts, synopses = ([row[name] for row in described] for name in ("text", "synopsis"))
    yield Question("summarize", "synopsis-ddtp", texts, synopses)


def _translated(data: Path, language: str, count: int) -> Question:
    rows = [row for row in lines(data / "translations.jsonl.gz") if row["split"] == "dev" and row["lang"] == language]
    texts, references = ([row[name] for row in rows[:count]] for name in ("text", "reference"))
    return Question("translate", "marian-ddtp", texts, references)


def measured(pair: ModelPair, cache: Path) -> dict[str, Any]:
    """Return the scores and costs of both sides, and a row for each doubt."""
    kind, texts = pair.question.kind, list(pair.question.texts)
    first, second = (computed(kind, side, texts, cache) for side in (pair.first, pair.second))
    rows = []
    own = [(str(doubt), _doubted(first.outcomes, doubt), exact) for doubt, exact in doubts(first.outcomes)]
    for when, doubted, exact in [*own, *by_other_half(first.outcomes)]:
        rows.append(_row(pair, first, second, when, doubted))
        if exact:
            some = [texts[number] for number in doubted]
            again = computed(kind, pair.second, some, cache).seconds if some else 0.0
            rows[-1]["measured_cost"] = _percent(first.seconds + again, second.seconds)
    name = SCORES[kind]
    return {
        "kind": kind,
        "texts": len(texts),
        "score": name,
        "first": str(pair.first),
        "second": str(pair.second),
        "backends": [first.backend, second.backend],
        "scores": [round(_score(one.outcomes, pair)[name], 2) for one in (first, second)],
        "ms_per_text": [round(1000 * one.seconds / len(texts), 1) for one in (first, second)],
        "rows": rows,
    }


def computed(kind: str, side: Side, texts: Sequence[str], cache: Path) -> ComputedSide:
    """Return the outcomes of texts, and the CPU seconds that they took."""
    folders = ModelFolders(None, cache)
    engine = Engine(partial(open_backend, device="cpu", folders=folders))
    engine.start()
    try:
        pinned = pinning.pin(side.model, folders)
        config = pinning.read_config(pinned, folders)
        spec = build_spec(kind, pinned, kinds.options(kind, **side.options), config)
        engine.open(spec)
        began = time.process_time()
        ticket = engine.submit(spec, list(enumerate(texts)))
        assert ticket.wait(WAIT_S)
        seconds = time.process_time() - began
        return ComputedSide(ticket.finished(), seconds, str(engine.open(spec)["backend"]))
    finally:
        engine.close()


def doubts(outcomes: Sequence[Outcome]) -> Iterator[tuple[Doubt, bool]]:
    """Yield doubts, and whether their cost is measured by itself."""
    for flags in FLAGS:
        yield Doubt.parse(flags.split(",")), flags == FLAGS[0]
    sure = [one.confidence for one in outcomes if one.confidence is not None]
    for share in SHARES if sure else ():
        bound = f"confidence<{np.quantile(sure, share):.3f}"
        yield Doubt.parse([bound]), share in {0.2, 0.4}
        if share <= 0.3:  # beside the most certain flag
            yield Doubt.parse(["repetition", bound]), False


def by_other_half(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, list[int], bool]]:
    """Yield shares of the least confident texts, with the texts that are under the bound of the other half.

    The last value says whether their cost is measured by itself.
    """
    halves = [range(start, len(outcomes), 2) for start in (0, 1)]
    sure = [
        [one.confidence for number in half if (one := outcomes[number]).confidence is not None] for half in halves
    ]
    for share in SHARES if all(sure) else ():
        bounds = [Doubt.parse([f"confidence<{np.quantile(of_half, share):.3f}"]) for of_half in sure]
        doubted = [
            number
            for half, bound in zip(halves, reversed(bounds), strict=True)
            for number in _doubted(outcomes, bound)
            if number in half
        ]
        yield f"the least confident {share:.0%}, by bounds of the other half", doubted, share in {0.2, 0.3}


def _doubted(outcomes: Sequence[Outcome], doubt: Doubt) -> list[int]:
    condition = Flagged(doubt.flags, bounds=doubt.bounds)
    return [number for number, one in enumerate(outcomes) if one.status == "done" and condition.holds(one)]


def _row(
    pair: ModelPair, first: ComputedSide, second: ComputedSide, when: str, doubted: Collection[int]
) -> dict[str, Any]:
    both = list(zip(first.outcomes, second.outcomes, strict=True))
    better = [two if number in doubted and is_better(two, one) else one for number, (one, two) in enumerate(both)]
    always = [two if number in doubted else one for number, (one, two) in enumerate(both)]
    name = SCORES[pair.question.kind]
    low, high, mixed, swapped = (
        _score(outcomes, pair)[name] for outcomes in (first.outcomes, second.outcomes, better, always)
    )
    tokens = [two.tokens_in + two.tokens_out for two in second.outcomes]
    again = second.seconds * sum(tokens[number] for number in doubted) / sum(tokens)
    return {
        "when": when,
        "share": _percent(len(doubted), len(both)),
        "won": _percent(sum(one is two for one, (_, two) in zip(better, both, strict=True)), len(both)),
        "score": round(mixed, 2),
        "gain": _percent(mixed - low, high - low),
        "gain_always": _percent(swapped - low, high - low),
        "interval": _interval(pair, first.outcomes, second.outcomes, better),
        "cost": _percent(first.seconds + again, second.seconds),
    }


def _score(outcomes: Sequence[Outcome], pair: ModelPair) -> dict[str, float]:
    return score([one.text or "" for one in outcomes], pair.question.references)


def _interval(pair: ModelPair, *sides: Sequence[Outcome]) -> list[float]:
    """Return the 90 % interval of the gain over resampled texts, by the mean chrF of single texts."""
    references = pair.question.references
    each = np.array(
        [
            [sacrebleu.sentence_chrf(one.text or "", [of]).score for one, of in zip(side, references, strict=True)]
            for side in sides
        ]
    )
    draw = np.random.default_rng(0)
    gains = []
    for _ in range(RESAMPLES):
        low, high, mixed = each[:, draw.integers(0, len(references), len(references))].mean(axis=1)
        gains.append(_percent(mixed - low, high - low))
    return [round(float(value), 1) for value in np.quantile(gains, [0.05, 0.95])]


def _percent(part: float, whole: float) -> float:
    return round(100 * part / whole, 1) if whole else 0.0


def nearest(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the row that misses the aim by least: the sum of what its gain and its cost lack."""
    return min(rows, key=lambda row: max(0.0, GAIN - row["gain"]) + max(0.0, row["cost"] - COST))


def table(facts: Mapping[str, Any]) -> str:
    written = ["# escalation", "", f"{described(facts['machine'])} Load average {facts['load']:.1f}.", ""]
    for pair in facts["pairs"]:
        low, high = pair["scores"]
        ms = pair["ms_per_text"]
        written += [
            f"## {pair['first']} → {pair['second']}",
            "",
            f"{pair['texts']} texts ({pair['kind']}), {pair['score']}: {low:.2f} by the first on "
            f"{pair['backends'][0]} at {ms[0]:.0f} CPU ms a text, {high:.2f} by the second on {pair['backends'][1]} "
            f"at {ms[1]:.0f} ms: the first pass costs {100 * ms[0] / ms[1]:.0f} % of the second model alone.",
            "",
            f"| when | escalated | from the second | {pair['score']} | gain | 90 % interval | cost | measured |",
            "| --- | --: | --: | --: | --: | --: | --: | --: |",
        ]
        for row in pair["rows"]:
            again = f"{row['measured_cost']:.0f} %" if "measured_cost" in row else ""
            interval = " to ".join(f"{value:.0f} %" for value in row["interval"])
            cells = f"{row['share']:.0f} % | {row['won']:.0f} % | {row['score']:.2f} | {row['gain']:.0f} %"
            written.append(f"| {row['when']} | {cells} | {interval} | {row['cost']:.0f} % | {again} |")
        best = nearest(pair["rows"])
        holds = best["gain"] >= GAIN and best["cost"] <= COST
        always = statistics.mean(row["gain_always"] - row["gain"] for row in pair["rows"])
        written += [
            "",
            f"{'Reached' if holds else 'Not reached'}: {GAIN:.0f} % of the gain for {COST:.0f} % of the cost. "
            f"Nearest: {best['when']} ({best['gain']:.0f} % for {best['cost']:.0f} %). With the second result "
            f"wherever the first is doubted, the gain is {always:+.1f} points more, as the mean of these rows.",
            "",
        ]
    return "\n".join(written)


if __name__ == "__main__":
    main()
