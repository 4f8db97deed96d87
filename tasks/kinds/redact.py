"""Redacting: personal data in each text replaced. Patterns find numbers and addresses, a token classifier names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from storage.core.kinds import READING_SIZE
from storage.core.outcomes import Outcome
from storage.core.specs import Spec
from storage.outputs.output_types import REDACTED
from tasks import patterns
from tasks.errors import BadOption, nearly
from tasks.kinds.aggregation import Strategy, names
from tasks.kinds.base import Again, Computed, Plan, TaskKind, Traits, windowed
from tasks.kinds.confidence import Confidence, least
from tasks.kinds.options import Option
from tasks.kinds.replacements import Finding, Method, replaced, replacing, whole_words
from tasks.kinds.tagging import AGGREGATION, NOT_FINITE, Tagging, tagged
from tasks.models import weightless
from tasks.models.families import Family
from tasks.outputs import Head
from tasks.windows.overlapping import cut_overlapping
from tasks.windows.windows import Coder, Window

_REGION = re.compile("[A-Z]{2}")
_MIN_SALT_CHARS = 8
_DEFAULTS: Mapping[str, Any] = MappingProxyType({"aggregation": AGGREGATION, "replace": "tag"})


@dataclass(frozen=True)
class Redact:
    """Cuts texts as entities does, and replaces what the model and the patterns find in the whole text.

    ``entities`` are the model's labels that count; all of them if there are none.
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
        named = tagged(computed, self.aggregation)
        if named is None:
            return computed.failed(NOT_FINITE)
        findings = [Finding(*place, 1.0) for place in patterns.find(text, self.patterns, self.regions)]
        of_model = [
            Finding(label.upper(), *whole_words(text, start, end), score)
            for label, start, end, score in named
            if not self.entities or label in self.entities
        ]
        redacted, spans = replaced(text, [*findings, *of_model], self.replacement)
        return computed.done(
            redacted,
            data={"spans": [asdict(one) for one in spans]},
            flags=windowed(computed.windows),
            confidence=Confidence(least(one.score for one in of_model)),
        )


def _recipe(spec: Spec, _traits: Traits) -> Redact:
    params = spec.params
    return Redact(
        params.get("pattern", tuple(patterns.PATTERNS)),
        params.get("region", ()),
        frozenset(params.get("entity", ())),
        params.get("aggregation", AGGREGATION),
        replacing(params.get("replace", "tag"), params.get("salt", "")),
    )


def _pattern_names(given: tuple[str, ...] | None) -> tuple[str, ...] | None:
    for name in given or ():
        if name not in patterns.PATTERNS:
            near = next(iter(nearly(name, patterns.PATTERNS)), None)
            meant = f"; did you mean {near}?" if near else ""
            sentence = f"must be {', '.join(patterns.PATTERNS)}, not {name!r}{meant}"
            raise PydanticCustomError("value", "{sentence}", {"sentence": sentence})
    return given if given is None else tuple(name for name in patterns.PATTERNS if name in given)


def _region_names(given: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if given is None:
        return None
    upper = tuple(sorted({region.upper() for region in given}))
    for region in upper:
        if not _REGION.fullmatch(region) or not patterns.is_region(region):
            sentence = f"must be the two letters of a country, such as DE or US, not {region!r}"
            raise PydanticCustomError("value", "{sentence}", {"sentence": sentence})
    return upper


_Texts = tuple[Annotated[str, Field(min_length=1)], ...]


class RedactOptions(Tagging):
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
    replace: Annotated[
        Method | None,
        Field(
            description="Replacement: a tag such as [EMAIL], a tag with a pseudonym that is the same for the same "
            "name, or asterisks.  [default: tag]"
        ),
    ] = None
    salt: Annotated[
        str | None,
        Field(
            min_length=_MIN_SALT_CHARS,
            description="Secret text that the pseudonyms of --replace hash depend on, of at least "
            f"{_MIN_SALT_CHARS} characters.",
            examples=["a secret text"],
        ),
        Option(metavar="TEXT"),
    ] = None


def _params(plan: Plan) -> dict[str, Any]:
    """Return the version of the patterns. Raises BadOption for options that need another one, or a model."""
    given = plan.given
    if given.get("replace") == "hash" and "salt" not in given:
        raise BadOption(
            "--replace hash needs --salt: a secret text, without which anybody could compute the pseudonym of a name."
        )
    if "salt" in given and given.get("replace") != "hash":
        raise BadOption("--salt is for the pseudonyms of --replace hash.")
    if plan.model == weightless.PATTERNS:
        for name in ("entity", "aggregation"):
            if name in given:
                raise BadOption(f"--{name} is for the labels of a model: name a token classifier with --model.")
    if "region" in given and "phone" not in given.get("pattern", patterns.PATTERNS):
        raise BadOption("--region is for telephone numbers: add --pattern phone.")
    return {"patterns_version": patterns.VERSION, **_entity(plan)}


def _entity(plan: Plan) -> dict[str, Any]:
    """Return --entity as the model writes its labels. Raises BadOption for a label that the model does not have."""
    labels = names(map(str, (plan.config.get("id2label") or {}).values()))
    if "entity" not in plan.given or not labels:
        return {}
    found = []
    for name in plan.given["entity"]:
        alike = [label for label in sorted(labels) if label == name] or [
            label for label in sorted(labels) if label.lower() == name.lower()
        ]
        if not alike:
            raise BadOption(
                f"{plan.model} has no label {name!r}: --entity must be one of {', '.join(sorted(labels))}."
            )
        found += alike
    return {"entity": tuple(dict.fromkeys(found))}


REDACT = TaskKind(
    name="redact",
    summary="Replace personal data in each document.",
    options=RedactOptions,
    output=REDACTED,
    families=MappingProxyType({Family.ENCODER: Head.TAGGING}),
    recipe=_recipe,
    params=_params,
    default_model=weightless.PATTERNS,
    shard=READING_SIZE,
    sample_texts=64,
)
