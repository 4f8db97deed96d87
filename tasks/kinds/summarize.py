"""Summarising: the windows' summaries are summarised again, until one window holds them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

from storage.core.outcomes import Outcome
from storage.core.specs import Spec
from storage.outputs.output_types import TEXT
from tasks.heads import Head
from tasks.kinds.base import Again, BuiltIn, Computed, TaskKind, pattern
from tasks.kinds.options import Prefixed
from tasks.models.families import Family
from tasks.outputs import Generated
from tasks.prompts import few_shot
from tasks.prompts.prompts import Template
from tasks.windows.windows import Coder, Window, cut

# A round that leaves more than this share of the text's characters would go on for long and gain nothing.
ENOUGH = 0.9


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


def _chat(_spec: Spec) -> Template:
    told = "Summarize the following text in one to three sentences. Answer with the summary only.\n\n"
    return Template(told, "")


def _pattern(_spec: Spec, shown: bool) -> Template:
    return pattern("Text", "Summary", (few_shot.SUMMARIZED,) if shown else ())


class SummarizeOptions(Prefixed):
    """Options of `summarize`."""


SUMMARIZE = TaskKind(
    name="summarize",
    summary="Write a summary of each document.",
    options=SummarizeOptions,
    output=TEXT,
    families=MappingProxyType({Family.SEQ2SEQ: Head.SEQ2SEQ_TEXT, Family.DECODER: Head.CAUSAL_TEXT}),
    recipe=lambda _spec, _traits: Summarize(),
    default_model="synopsis-ddtp",
    other_models=lambda _options: ("facebook/bart-large-cnn", "google/pegasus-xsum"),
    built_in=BuiltIn(_chat, _pattern, settings="summarization", prefix="summarize: "),
    null_words=16,
)
