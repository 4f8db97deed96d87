"""Measure escalation: quality and cost, compared with computing all texts by the first or by the better model.

Both models of a pair compute every text. A row is a doubt (``--when``). It has the share of texts that the doubt
escalates, the score of the results that docmill's rule keeps, and their gain, as a share of the better model's gain.
Its cost includes the first pass, and is a share of the better model's cost for all texts. Costs are CPU seconds of
this process. The cost of the escalated texts is the better model's, in proportion to their tokens. For some doubts
it is also measured: the better model computes these texts again. Some rows take the bound for each half of the texts
from the other half.
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
LARGE_TOKENS = 400  # the most tokens that a decoder-only model may write
GAIN, COST = 80.0, 40.0  # the aim in percent: at least this share of the gain for at most this share of the cost
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)  # of the texts, those with the least confidence
FLAGS = ("doubtful", "repetition", "repetition,missing_sentences,length_ratio,copied_input,wrong_language")
RESAMPLES = 1000
SCORES = {"translate": "chrF", "summarize": "ROUGE-L"}
_OPTIONS: Mapping[str, Mapping[str, Any]] = {"translate": {"source_lang": "fr", "target_lang": "en"}, "summarize": {}}


@dataclass(frozen=True)
class Side:
    """A model with the options of its task."""

    model: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return " ".join([Path(self.model).stem, *(f"{name} {value}" for name, value in self.options.items())])


@dataclass(frozen=True)
class ModelPair:
    """The first model and the better one, with the texts that both compute."""

    question: Question
    first: Side
    second: Side


@dataclass(frozen=True)
class ComputedSide:
    """The outcomes of all texts by one side, its CPU seconds without loading the model, and its backend."""

    outcomes: Sequence[Outcome]
    seconds: float
    backend: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder with references, as bench.quality has")
    parser.add_argument("--texts", type=int, default=300, help="of each task")
    parser.add_argument("--large", metavar="MODEL", help="a decoder-only model, for Spanish and French texts only")
    options = parser.parse_args()
    rows = []
    name = "escalation" if options.large is None else "escalation_large"
    with tempfile.TemporaryDirectory() as cache:
        pairs = (
            _make_pairs(options.data, options.texts)
            if options.large is None
            else _make_large_pairs(options.data, options.texts, options.large)
        )
        for pair in pairs:
            rows.append(measure(pair, Path(cache)))
            facts = {"machine": machine(), "load": os.getloadavg()[0], "gain": GAIN, "cost": COST, "pairs": rows}
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")
            (RESULTS / f"{name}.md").write_text(format_tables(facts))
    sys.stdout.write(format_tables(facts))


def _make_pairs(data: Path, count: int) -> Iterator[ModelPair]:
    """Yield pairs whose better side is the same model with more beams."""
    for question, better_options in zip(_read_questions(data, count), ({"unit": "sentence"}, {}), strict=True):
        task_options = _OPTIONS[question.kind]
        sides = (Side(question.model, {**task_options, "beams": beams}) for beams in (1, 4))
        yield ModelPair(question, *sides)
        greedy = Side(question.model, {**task_options, "beams": 1, "dtype": "int8"})
        yield ModelPair(question, greedy, Side(question.model, {**task_options, **better_options, "beams": 8}))


def _make_large_pairs(data: Path, count: int, model: str) -> Iterator[ModelPair]:
    """Yield two pairs of the shipped translator and a better model.

    One has Spanish texts, the other has Spanish and French texts by turns.
    """
    spanish = _read_translations(data, "es", count)
    french = _read_translations(data, "fr", len(spanish.texts))
    alternating = [
        [text for pair in zip(*columns, strict=True) for text in pair]
        for columns in ((spanish.texts, french.texts), (spanish.references, french.references))
    ]
    mixed = Question(spanish.kind, spanish.model, *alternating)
    for question, language in ((spanish, "es"), (mixed, "auto")):
        task_options = {"source_lang": language, "target_lang": "en"}
        greedy = Side(question.model, {**task_options, "beams": 1, "dtype": "int8"})
        yield ModelPair(question, greedy, Side(model, {**task_options, "max_new_tokens": LARGE_TOKENS}))


def _read_questions(data: Path, count: int) -> Iterator[Question]:
    yield _read_translations(data, "fr", count)
    rows = [row for row in lines(data / "descriptions.jsonl.gz") if row["split"] == "dev"][:count]
    texts, synopses = ([row[name] for row in rows] for name in ("text", "synopsis"))
    yield Question("summarize", "synopsis-ddtp", texts, synopses)


def _read_translations(data: Path, language: str, count: int) -> Question:
    rows = [row for row in lines(data / "translations.jsonl.gz") if row["split"] == "dev" and row["lang"] == language]
    texts, references = ([row[name] for row in rows[:count]] for name in ("text", "reference"))
    return Question("translate", "marian-ddtp", texts, references)


def measure(pair: ModelPair, cache_dir: Path) -> dict[str, Any]:
    """Return the scores and costs of both sides, and a row for each doubt."""
    kind, texts = pair.question.kind, list(pair.question.texts)
    first, second = (compute(kind, side, texts, cache_dir) for side in (pair.first, pair.second))
    outcomes = first.outcomes
    doubts = [(str(doubt), _find_doubted(outcomes, doubt), exact) for doubt, exact in make_doubts(outcomes)]
    rows = []
    for when, doubted, exact in [*doubts, *escalate_by_other_half(outcomes)]:
        rows.append(_make_row(pair, first, second, when, doubted))
        if exact:
            escalated = [texts[number] for number in doubted]
            escalated_s = compute(kind, pair.second, escalated, cache_dir).seconds if escalated else 0.0
            rows[-1]["measured_cost"] = _to_percent(first.seconds + escalated_s, second.seconds)
    name = SCORES[kind]
    return {
        "kind": kind,
        "texts": len(texts),
        "score": name,
        "first": str(pair.first),
        "second": str(pair.second),
        "backends": [first.backend, second.backend],
        "scores": [round(_score(side.outcomes, pair)[name], 2) for side in (first, second)],
        "ms_per_text": [round(1000 * side.seconds / len(texts), 1) for side in (first, second)],
        "rows": rows,
    }


def compute(kind: str, side: Side, texts: Sequence[str], cache_dir: Path) -> ComputedSide:
    """Return the outcomes of texts, and the CPU seconds that they took."""
    folders = ModelFolders(None, cache_dir)
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


def make_doubts(outcomes: Sequence[Outcome]) -> Iterator[tuple[Doubt, bool]]:
    """Yield doubts. Each has True beside it if its cost is to be measured."""
    for flags in FLAGS:
        yield Doubt.parse(flags.split(",")), flags == FLAGS[0]
    confidences = [outcome.confidence for outcome in outcomes if outcome.confidence is not None]
    for share in SHARES if confidences else ():
        bound = f"confidence<{np.quantile(confidences, share):.3f}"
        yield Doubt.parse([bound]), share in {0.2, 0.4}
        if share <= 0.3:  # also together with the most certain flag
            yield Doubt.parse(["repetition", bound]), False


def escalate_by_other_half(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, list[int], bool]]:
    """Yield the name of a row for each share of the least confident texts, with the numbers of the texts to escalate.

    A text is escalated if its confidence is below the bound that has this share of the other half below it. The last
    value is True if the cost is to be measured.
    """
    halves = [range(start, len(outcomes), 2) for start in (0, 1)]
    confidences = [
        [confidence for number in half if (confidence := outcomes[number].confidence) is not None] for half in halves
    ]
    for share in SHARES if all(confidences) else ():
        bounds = [Doubt.parse([f"confidence<{np.quantile(of_half, share):.3f}"]) for of_half in confidences]
        doubted = [
            number
            for half, bound in zip(halves, reversed(bounds), strict=True)
            for number in _find_doubted(outcomes, bound)
            if number in half
        ]
        yield f"the least confident {share:.0%}, by bounds of the other half", doubted, share in {0.2, 0.3}


def _find_doubted(outcomes: Sequence[Outcome], doubt: Doubt) -> list[int]:
    """Return the numbers of the outcomes for which a doubt holds."""
    condition = Flagged(doubt.flags, bounds=doubt.bounds)
    return [
        number for number, outcome in enumerate(outcomes) if outcome.status == "done" and condition.holds(outcome)
    ]


def _make_row(
    pair: ModelPair, first: ComputedSide, second: ComputedSide, when: str, doubted: Collection[int]
) -> dict[str, Any]:
    pairs = list(zip(first.outcomes, second.outcomes, strict=True))
    chosen = [
        by_second if number in doubted and is_better(by_second, by_first) else by_first
        for number, (by_first, by_second) in enumerate(pairs)
    ]
    replaced = [by_second if number in doubted else by_first for number, (by_first, by_second) in enumerate(pairs)]
    n_chosen = sum(outcome is by_second for outcome, (_, by_second) in zip(chosen, pairs, strict=True))
    name = SCORES[pair.question.kind]
    low, high, chosen_score, replaced_score = (
        _score(outcomes, pair)[name] for outcomes in (first.outcomes, second.outcomes, chosen, replaced)
    )
    tokens = [outcome.tokens_in + outcome.tokens_out for outcome in second.outcomes]
    escalated_s = second.seconds * sum(tokens[number] for number in doubted) / sum(tokens)
    return {
        "when": when,
        "share": _to_percent(len(doubted), len(pairs)),
        "won": _to_percent(n_chosen, len(pairs)),
        "score": round(chosen_score, 2),
        "gain": _to_percent(chosen_score - low, high - low),
        "gain_always": _to_percent(replaced_score - low, high - low),
        "interval": _estimate_interval(pair, first.outcomes, second.outcomes, chosen),
        "cost": _to_percent(first.seconds + escalated_s, second.seconds),
    }


def _score(outcomes: Sequence[Outcome], pair: ModelPair) -> dict[str, float]:
    return score([outcome.text or "" for outcome in outcomes], pair.question.references)


def _estimate_interval(pair: ModelPair, *sides: Sequence[Outcome]) -> list[float]:
    """Return the 90 % interval of the gain over resampled texts, by the mean chrF of single texts.

    `sides` are the outcomes of the first model and of the second model, and the chosen outcomes.
    """
    references = pair.question.references
    scores = np.array(
        [
            [
                sacrebleu.sentence_chrf(outcome.text or "", [reference]).score
                for outcome, reference in zip(side, references, strict=True)
            ]
            for side in sides
        ]
    )
    generator = np.random.default_rng(0)
    gains = []
    for _ in range(RESAMPLES):
        low, high, chosen = scores[:, generator.integers(0, len(references), len(references))].mean(axis=1)
        gains.append(_to_percent(chosen - low, high - low))
    return [round(float(value), 1) for value in np.quantile(gains, [0.05, 0.95])]


def _to_percent(part: float, whole: float) -> float:
    return round(100 * part / whole, 1) if whole else 0.0


def find_nearest(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the row that misses the aim by least, as the sum of its missing gain and its excess cost."""
    return min(rows, key=lambda row: max(0.0, GAIN - row["gain"]) + max(0.0, row["cost"] - COST))


def format_tables(facts: Mapping[str, Any]) -> str:
    """Return the page of results."""
    page = ["# escalation", "", f"{described(facts['machine'])} Load average {facts['load']:.1f}.", ""]
    for pair in facts["pairs"]:
        low, high = pair["scores"]
        ms = pair["ms_per_text"]
        page += [
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
            measured = f"{row['measured_cost']:.0f} %" if "measured_cost" in row else ""
            interval = " to ".join(f"{value:.0f} %" for value in row["interval"])
            cells = f"{row['share']:.0f} % | {row['won']:.0f} % | {row['score']:.2f} | {row['gain']:.0f} %"
            page.append(f"| {row['when']} | {cells} | {interval} | {row['cost']:.0f} % | {measured} |")
        nearest = find_nearest(pair["rows"])
        reached = nearest["gain"] >= GAIN and nearest["cost"] <= COST
        additional = statistics.mean(row["gain_always"] - row["gain"] for row in pair["rows"])
        page += [
            "",
            f"{'Reached' if reached else 'Not reached'}: {GAIN:.0f} % of the gain for {COST:.0f} % of the cost. "
            f"Nearest: {nearest['when']} ({nearest['gain']:.0f} % for {nearest['cost']:.0f} %). "
            f"With the second result wherever the first is doubted, the gain is {additional:+.1f} points more, "
            "as the mean of these rows.",
            "",
        ]
    return "\n".join(page)


if __name__ == "__main__":
    main()
