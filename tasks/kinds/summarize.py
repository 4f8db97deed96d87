"""Summarising: by a model that writes, or by the sentences that an embedding model finds (`tasks.kinds.extracts`).

Of a model that writes the windows' summaries are summarised again, until one window holds them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from storage.core.outcomes import Outcome
from storage.core.specs import Spec
from storage.outputs.output_types import RANKING, TEXT
from tasks import checks, prompts
from tasks.checks import CHECKS, Checks, Context
from tasks.checks.missing_sentences import MISSING_SENTENCES
from tasks.errors import BadOption
from tasks.kinds import extracts
from tasks.kinds.base import Again, BuiltIn, Computed, Plan, Recipe, TaskKind, Traits, pattern
from tasks.kinds.embed import prompt_of_documents
from tasks.kinds.lengths import LENGTH_SCHEMA, LENGTHS, token_limits, words_of_length
from tasks.kinds.options import MOST, Option, Prefixed, Windowed
from tasks.models.families import Family
from tasks.models.language_pairs import Direction
from tasks.outputs import Generated, Head
from tasks.prompts import Template
from tasks.windows.windows import Coder, Window, cut

# A round that leaves more than this share of the text's characters would go on for long and gain nothing.
ENOUGH = 0.9
# Of the shipped model's greedy outputs an eighth have less, and three in four of these are bad (docs/checking.md).
_LEAST_CONFIDENCE = 0.25
_OF_WRITERS = {*Prefixed.model_fields} - {*Windowed.model_fields}


@dataclass(frozen=True)
class Summarize:
    def cut(self, texts: Sequence[str], coder: Coder) -> list[list[Window]]:
        return cut(texts, coder)

    def join(self, computed: Computed) -> Outcome | Again:
        parts = [output for output in computed.outputs if isinstance(output, Generated)]
        text = "\n".join(part.text for part in parts if part.text.strip())
        flags = ("output_truncated",) if any(part.truncated for part in parts) else ()
        if len(parts) > 1 and text:
            if len(text) <= len(computed.text) * ENOUGH:
                return Again(text, (*flags, "reduced"))
            flags = (*flags, "not_reduced")
        if not text:
            flags = (*flags, "empty")
        return computed.done(text, flags=flags)


def _chat(spec: Spec) -> Template:
    length = f"about {spec.params['length']} words" if "length" in spec.params else "one to three sentences"
    return Template(f"Summarize the following text in {length}. Answer with the summary only.\n\n", "")


def _pattern(_spec: Spec, shown: bool) -> Template:
    return pattern("Text", "Summary", (prompts.SUMMARIZED,) if shown else ())


class SummarizeOptions(Prefixed):
    """Options of `summarize`."""

    length: Annotated[
        int | None,
        Field(
            ge=1,
            le=MOST // 2,
            description=f"Length of a summary: {', '.join(f'{name} ({n} words)' for name, n in LENGTHS.items())}, or "
            "about so many words.",
            examples=[60],
        ),
        BeforeValidator(words_of_length),  # after the bounds, which do not apply to None
        WithJsonSchema(LENGTH_SCHEMA),
        Option(metavar="|".join([*LENGTHS, "WORDS"]), has_names=True),
    ] = None


def _params(plan: Plan) -> dict[str, Any]:
    """Return the limits of a length in tokens, or what specs of an embedding model say besides. Raises BadOption."""
    if plan.family is not Family.ENCODER:
        if "length" not in plan.given:
            return {}
        limits = token_limits(plan.given["length"])
        if both := limits.keys() & plan.given.keys():
            raise BadOption(f"--length sets --{min(both).replace('_', '-')} itself: give one of them.")
        return limits
    if of_writers := plan.given.keys() & _OF_WRITERS:
        flag = f"--{min(of_writers).replace('_', '-')}"
        raise BadOption(f"{flag} is for models that write; {plan.model} chooses sentences of the document.")
    return {RANKING: extracts.RULE, **prompt_of_documents(plan)}


def _recipe(spec: Spec, _traits: Traits) -> Recipe:
    return extracts.Extract(spec.params.get("length")) if RANKING in spec.params else Summarize()


def _checks(spec: Spec, _direction: Direction) -> Checks:
    """Return the checks of written summaries. A prompt may ask for another language."""
    if RANKING in spec.params:
        return checks.NONE
    suited = tuple(flag for flag in CHECKS if flag != MISSING_SENTENCES.flag)
    context = Context(shortened=True, same_language="prompt" not in spec.params)
    return Checks(suited, context, _LEAST_CONFIDENCE)


SUMMARIZE = TaskKind(
    name="summarize",
    summary="Write a summary of each document, or choose its best sentences.",
    options=SummarizeOptions,
    output=TEXT,
    families=MappingProxyType(
        {Family.SEQ2SEQ: Head.SEQ2SEQ_TEXT, Family.DECODER: Head.CAUSAL_TEXT, Family.ENCODER: Head.POOLING}
    ),
    recipe=_recipe,
    params=_params,
    default_model="synopsis-ddtp",
    other_models=lambda _options: ("facebook/bart-large-cnn", "google/pegasus-xsum"),
    built_in=BuiltIn(_chat, _pattern, settings="summarization", prefix="summarize: "),
    null_words=16,
    marks=MappingProxyType({Head.POOLING: RANKING}),
    checks=_checks,
)
