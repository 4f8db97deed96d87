"""Redacting: replace personal data in each text. Patterns find numbers and addresses, a token classifier names."""

from __future__ import annotations

import hashlib
import hmac
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from docmill.storage.core.specs import READING_SIZE, Outcome, Spec
from docmill.storage.outputs.output_types import REDACTED, Output
from docmill.tasks import patterns
from docmill.tasks.errors import BadOption, find_similar
from docmill.tasks.kinds.base import NOT_FINITE, Again, Computed, Plan, TaskKind, Traits, least, windowed
from docmill.tasks.kinds.entities import AGGREGATION, Aggregation, Strategy, find_labeled, names
from docmill.tasks.kinds.options import KindOptions, Option, flag, wrong_value
from docmill.tasks.languages import UNSPACED
from docmill.tasks.models import weightless
from docmill.tasks.models.families import Family
from docmill.tasks.outputs import Head, Span
from docmill.tasks.windows.windows import Coder, Window, cut_overlapping

_REGION = re.compile("[A-Z]{2}")
_MIN_SALT_CHARS = 8
_DEFAULTS: Mapping[str, Any] = MappingProxyType({"aggregation": AGGREGATION, "replace": "tag"})
Method = Literal["tag", "hash", "mask"]
# 40 bits: among 100,000 names, two have the same pseudonym with a probability of half a percent.
_PSEUDONYM_CHARS = 10
_WRITTEN_IN_GROUPS = frozenset({"IBAN", "CARD", "PHONE"})
_UNSPACED = re.compile(f"[{UNSPACED}]")


@dataclass(frozen=True)
class Redact:
    """Cuts texts as `entities` does, and replaces the findings of the model and the patterns in the whole text.

    ``entities`` are the labels that count, case-folded; if there are none, all of the model's labels count.
    """

    patterns: Sequence[str]
    regions: Sequence[str]
    entities: frozenset[str]
    aggregation: Strategy
    replacement: Callable[[str, str], str]

    def cut(self, texts: Sequence[str], coder: Coder) -> list[list[Window]]:
        return cut_overlapping(texts, coder)

    def join(self, computed: Computed) -> Outcome | Again:
        text = computed.text
        named = find_labeled(computed, self.aggregation)
        if named is None:
            return computed.failed(NOT_FINITE)
        findings = [Span(*place, 1.0) for place in patterns.find(text, self.patterns, self.regions)]
        of_model = [
            Span(label.upper(), *widen_to_words(text, start, end), score)
            for label, start, end, score in named
            if not self.entities or label.casefold() in self.entities
        ]
        return computed.done(
            replace_parts(text, [*findings, *of_model], self.replacement),
            flags=windowed(computed.windows),
            confidence=least(span.score for span in of_model),
        )


def _recipe(spec: Spec, _traits: Traits) -> Redact:
    params = spec.params
    return Redact(
        params.get("pattern", tuple(patterns.PATTERNS)),
        params.get("region", ()),
        frozenset(map(str.casefold, params.get("entity", ()))),
        params.get("aggregation", AGGREGATION),
        replacement_by(params.get("replace", "tag"), params.get("salt", "")),
    )


def _pattern_names(names: tuple[str, ...] | None) -> tuple[str, ...] | None:
    for name in names or ():
        if name not in patterns.PATTERNS:
            near = next(iter(find_similar(name, patterns.PATTERNS)), None)
            meant = f"; did you mean {near}?" if near else ""
            raise wrong_value(f"must be {', '.join(patterns.PATTERNS)}, not {name!r}{meant}")
    return names if names is None else tuple(name for name in patterns.PATTERNS if name in names)


def _region_names(regions: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if regions is None:
        return None
    upper = tuple(sorted({region.upper() for region in regions}))
    for region in upper:
        if not _REGION.fullmatch(region) or not patterns.is_region(region):
            raise wrong_value(f"must be the two letters of a country, such as DE or US, not {region!r}")
    return upper


_Texts = tuple[Annotated[str, Field(min_length=1)], ...]


class RedactOptions(KindOptions):
    """Options of `redact`."""

    defaults = _DEFAULTS
    pattern: Annotated[
        _Texts | None,
        Field(
            strict=False,
            min_length=1,
            description=f"Pattern to look for: {', '.join(patterns.PATTERNS)}; may be repeated.  [default: all]",
            examples=[("iban",)],
        ),
        AfterValidator(_pattern_names),
        Option(metavar="NAME"),
    ] = None
    region: Annotated[
        _Texts | None,
        Field(
            strict=False,
            min_length=1,
            description="Country whose national telephone numbers count, such as DE; may be repeated.  [default: "
            "international numbers only]",
            examples=[("DE",)],
        ),
        AfterValidator(_region_names),
        Option(metavar="COUNTRY"),
    ] = None
    entity: Annotated[
        _Texts | None,
        Field(
            strict=False,
            min_length=1,
            description="Label of the model to redact, such as PER; may be repeated.  [default: all]",
            examples=[("PER",)],
        ),
        Option(metavar="LABEL"),
    ] = None
    aggregation: Aggregation = None
    replace: Annotated[
        Method | None,
        Field(
            description="Replacement: a tag such as [EMAIL], a tag with the same pseudonym for the same name, or "
            "asterisks.  [default: tag]"
        ),
    ] = None
    salt: Annotated[
        str | None,
        Field(
            min_length=_MIN_SALT_CHARS,
            description="Secret text for the pseudonyms of --replace hash, of at least "
            f"{_MIN_SALT_CHARS} characters.",
            examples=["a secret text"],
        ),
        Option(metavar="TEXT"),
    ] = None


def _params(plan: Plan) -> dict[str, Any]:
    """Return the version of the patterns. Raises BadOption for options that need another option, or a model."""
    options = plan.options
    if options.get("replace") == "hash" and "salt" not in options:
        raise BadOption(
            "--replace hash needs --salt: a secret text, without which anybody could compute the pseudonym of a name."
        )
    if "salt" in options and options.get("replace") != "hash":
        raise BadOption("--salt is for the pseudonyms of --replace hash.")
    if plan.model == weightless.PATTERNS:
        for name in ("entity", "aggregation"):
            if name in options:
                spelling = flag(name, RedactOptions.model_fields[name])
                raise BadOption(f"{spelling} is for the labels of a model: name a token classifier with --model.")
    if "region" in options and "phone" not in options.get("pattern", patterns.PATTERNS):
        raise BadOption("--region is for telephone numbers: add --pattern phone.")
    return {"patterns_version": patterns.VERSION, **_entity(plan)}


def _entity(plan: Plan) -> dict[str, Any]:
    """Return --entity in the model's spelling. Raises BadOption for a label that the model does not have."""
    labels = sorted(names(map(str, (plan.config.get("id2label") or {}).values())))
    if "entity" not in plan.options or not labels:
        return {}
    entities = []
    for name in plan.options["entity"]:
        alike = [name] if name in labels else [label for label in labels if label.lower() == name.lower()]
        if not alike:
            raise BadOption(f"{plan.model} has no label {name!r}: --entity must be one of {', '.join(labels)}.")
        entities += alike
    return {"entity": list(dict.fromkeys(entities))}  # a list, as JSON has it


def join_findings(findings: Iterable[Span]) -> list[Span]:
    """Return findings that do not overlap, in the order of the text.

    Findings that overlap become one, with the label and score of the first longest finding.
    """
    joined: list[Span] = []
    longest = 0
    for finding in sorted(findings, key=lambda finding: (finding.start, finding.start - finding.end)):
        if finding.start >= finding.end:
            continue
        if not joined or finding.start >= joined[-1].end:
            joined.append(finding)
            longest = finding.end - finding.start
            continue
        before = joined[-1]
        named = finding if finding.end - finding.start > longest else before
        longest = max(longest, finding.end - finding.start)
        joined[-1] = Span(named.label, before.start, max(before.end, finding.end), named.score)
    return joined


def replace_parts(text: str, findings: Iterable[Span], replacement: Callable[[str, str], str]) -> Output:
    """Return the text with ``replacement(label, part)`` for each finding, and the places of the replacements."""
    pieces: list[str] = []
    spans: list[dict[str, Any]] = []
    length = at = 0
    for finding in join_findings(findings):
        kept, new = text[at : finding.start], replacement(finding.label, text[finding.start : finding.end])
        pieces += [kept, new]
        start = length + len(kept)
        length = start + len(new)
        at = finding.end
        source = {"source_start": finding.start, "source_end": finding.end, "score": finding.score}
        spans.append({"label": finding.label, "text": new, "start": start, "end": length, **source})
    return Output(text="".join([*pieces, text[at:]]), data={"spans": spans})


def replacement_by(method: Method, salt: str) -> Callable[[str, str], str]:
    """Return the function from a label and a part of a text to the replacement."""
    if method == "mask":
        return lambda _label, part: "".join(character if character.isspace() else "*" for character in part)
    if method == "tag":
        return lambda label, _part: f"[{label}]"
    key = salt.encode()
    return lambda label, part: f"[{label}-{_pseudonym(key, label, part)}]"


def _pseudonym(key: bytes, label: str, part: str) -> str:
    """Return digits that are the same for a name or number in any spacing and capitalization."""
    plain = " ".join(unicodedata.normalize("NFKC", part).casefold().split())
    if label in _WRITTEN_IN_GROUPS:
        plain = "".join(character for character in plain if character.isalnum() or character == "+")
    return hmac.new(key, f"{label}\0{plain}".encode(), hashlib.sha256).hexdigest()[:_PSEUDONYM_CHARS]


def widen_to_words(text: str, start: int, end: int) -> tuple[int, int]:
    """Return ``[start, end)`` widened to whole words. Scripts without spaces are left alone."""
    while start > 0 and _in_word(text[start - 1]) and _in_word(text[start]):
        start -= 1
    while 0 < end < len(text) and _in_word(text[end - 1]) and _in_word(text[end]):
        end += 1
    return start, end


def _in_word(character: str) -> bool:
    if character.isascii():
        return character.isalnum()
    letters = character.isalnum() or unicodedata.category(character).startswith("M")
    return letters and not _UNSPACED.match(character)


REDACT = TaskKind(
    name="redact",
    summary="Replace personal data in each document.",
    example="letters.jsonl",
    options=RedactOptions,
    output=REDACTED,
    heading="redacted text",
    families=MappingProxyType({Family.ENCODER: Head.TAGGING}),
    recipe=_recipe,
    params=_params,
    default_model=weightless.PATTERNS,
    shard=READING_SIZE,
)
