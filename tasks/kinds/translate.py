"""Translating by paragraphs or sentences. The text between them is kept."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field

from docmill.storage.core.specs import Outcome, Reason, Spec
from docmill.storage.outputs.output_types import TEXT
from docmill.tasks import languages, prompts
from docmill.tasks.checks import Checks, Context, all_checks
from docmill.tasks.errors import BadOption, CannotServe
from docmill.tasks.kinds.base import BuiltIn, Computed, Plan, TaskKind, Traits, pattern, windowed
from docmill.tasks.kinds.options import KindOptions, Layer, Option, Prefix, Searching
from docmill.tasks.languages import LanguageRouter, Route
from docmill.tasks.models import families
from docmill.tasks.models.families import Direction, Family
from docmill.tasks.outputs import Generated, Head
from docmill.tasks.prompts import PromptFrame
from docmill.tasks.windows.paragraphs import (
    CLOSING,
    NEWLINE,
    between_sentences,
    cells,
    paragraphs,
    translated_sentences,
    unwrapped,
)
from docmill.tasks.windows.windows import Coder, Section, Window, cut

PARAGRAPH, SENTENCE = "paragraph", "sentence"
# A tenth of the shipped model's greedy outputs have less, and half of these are bad (bench/results/confidence.md).
_LEAST_CONFIDENCE = 0.3
_PAIR = ("source_lang", "target_lang")
# The end of a text in a script without spaces, or with its punctuation, such as 、.
_UNSPACED_END = re.compile(rf"[{languages.UNSPACED}\u3000-\u303f\uff00-\uffef]{CLOSING}\Z")
_LONGEST_END = 8
_BAR = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True)
class Translate:
    """Translates each paragraph by itself, or each sentence of it."""

    by_sentence: bool = False

    def cut(self, texts: Sequence[str], coder: Coder) -> list[list[Window]]:
        sections = translated_sentences if self.by_sentence else paragraphs
        return cut(texts, coder, sections=sections, clean=unwrapped, trim=True)

    def join(self, computed: Computed) -> Outcome:
        pieces: list[str] = []
        flags, end, follows_output = set(windowed(computed.windows)), 0, False
        barred = any("|" in output.text for output in computed.outputs if isinstance(output, Generated))
        tables = cells(computed.text) if barred else []
        for window, output in zip(computed.windows, computed.outputs, strict=True):
            gap = computed.text[end : window.start]
            if not gap and follows_output and isinstance(output, Generated):
                # Windows touch in a script without spaces, and in a long word, which gets no space.
                gap = _between_windows(computed.text[max(0, end - _LONGEST_END) : end], pieces[-1])
            elif self.by_sentence and pieces:
                gap = between_sentences(gap, pieces[-1])
            pieces.append(gap)
            follows_output = isinstance(output, Generated)
            if isinstance(output, Generated):
                pieces.append(_fit_layout(output.text, in_cell=_holds(tables, window)))
                if output.truncated:
                    flags.add("output_truncated")
            else:
                pieces.append(computed.text[window.start : window.end])
            end = window.end
        text = "".join([*pieces, computed.text[end:]])
        if not all(output.text for output in computed.outputs if isinstance(output, Generated)):
            flags.add("empty_window" if text.strip() else "empty")
        return computed.done(text, flags=sorted(flags))


def _between_windows(source: str, before: str) -> str:
    """Return a space between windows that touch in the source if only the translation's script has spaces."""
    return " " if before and _UNSPACED_END.search(source) and not _UNSPACED_END.search(before) else ""


def _fit_layout(output: str, *, in_cell: bool) -> str:
    """Return the output without line breaks, and in a table's cell with escaped bars, to keep the layout."""
    line = " ".join(NEWLINE.split(output))
    return _BAR.sub(r"\\|", line) if in_cell else line


def _holds(sections: Sequence[Section], window: Window) -> bool:
    """Return True if one of the sections, which are in order, contains the window."""
    after = bisect_right(sections, window.start, key=lambda section: section.start)
    return after > 0 and window.start < sections[after - 1].end


@dataclass(frozen=True)
class FromAny:
    """Translates each text from its detected language.

    The language is detected when the text is cut, and again when it is joined, so that the recipe keeps no state.
    """

    router: LanguageRouter
    coders: Callable[[str], Coder] | None
    translate: Translate

    def cut(self, texts: Sequence[str], coder: Coder) -> list[list[Window]]:
        windows = [[Window(0, len(text), None)] for text in texts]  # stays for texts that are not translated
        by_language: dict[str | None, list[int]] = {}
        for place, text in enumerate(texts):
            route = self._route(text)
            if route.action == "translate":
                by_language.setdefault(route.language if self.coders else None, []).append(place)
        for language, places in by_language.items():
            own_coder = coder if self.coders is None or language is None else self.coders(language)
            cuts = self.translate.cut([texts[place] for place in places], own_coder)
            for place, cut_windows in zip(places, cuts, strict=True):
                windows[place] = cut_windows
        return windows

    def join(self, computed: Computed) -> Outcome:
        route = self._route(computed.text)
        if route.action == "refuse":
            return computed.failed(self.router.refusal(route), Reason.DOCUMENT, route.flags)
        joined = self.translate.join(computed)
        return replace(joined, flags=(*route.flags, *joined.flags))

    def _route(self, text: str) -> Route:
        return self.router.route(languages.guesses(text))


def _recipe(spec: Spec, traits: Traits) -> Translate | FromAny:
    translate = Translate(by_sentence=spec.params.get("unit") == SENTENCE)
    if spec.params.get("source_lang") != languages.AUTO:
        return translate
    known, coders = spec.params.get("sources", traits.languages), traits.language_coders
    sources = None if known is None else frozenset(map(languages.plain, known))
    router = LanguageRouter(spec.model, spec.params["target_lang"], sources, told=coders is not None)
    return FromAny(router, coders, translate)


def _chat(spec: Spec) -> PromptFrame:
    source, target = _languages(spec)
    request = (
        f"Translate the following text from {source} into {target}. Answer with the translation only, "
        "on one line, and keep names as they are.\n\n"
    )
    return PromptFrame(request, "")


def _pattern(spec: Spec, shown: bool) -> PromptFrame:
    source, target = _languages(spec)
    return pattern(source, target, prompts.translated(source, target) if shown else ())


def _languages(spec: Spec) -> tuple[str, str]:
    source, target = spec.params.get("source_lang"), spec.params.get("target_lang")
    if source is None or target is None:
        raise CannotServe(f"{spec.model} translates between several languages: give --from and --to.")
    return languages.name(source), languages.name(target)


class TranslateOptions(Searching):
    """Options of `translate`."""

    defaults = MappingProxyType({"unit": PARAGRAPH})
    prefix: Prefix = None
    source_lang: Annotated[
        str | None,
        Field(
            description="Language of the documents, such as fr; auto detects it for each document, and --model may "
            "then name one for each language: fr=MODEL,de=MODEL."
        ),
        Option(spelling="from", metavar="LANG", layer=Layer.COMMON),
    ] = None
    target_lang: Annotated[
        str | None,
        Field(description="Language to translate into, such as en."),
        Option(spelling="to", metavar="LANG", layer=Layer.COMMON),
    ] = None
    unit: Annotated[
        Literal["paragraph", "sentence"] | None,
        Field(description="Translate each paragraph, or each sentence, by itself.  [default: paragraph]"),
    ] = None


def _params(plan: Plan) -> dict[str, Any]:
    """Return the parameters of a model's only direction, or of detection. Raises BadOption for wrong languages."""
    options = plan.options
    source, target = options.get("source_lang"), options.get("target_lang")
    auto = source == languages.AUTO
    if auto and prompts.is_rendered(options):
        raise BadOption("--from auto reads a document as it is, and not what --prompt makes of its metadata.")
    if "unit" in options and prompts.is_rendered(options):
        raise BadOption("--unit sentence splits a document, which a prompt with {meta.FIELD} keeps whole.")
    for flag, language in (("--from", None if auto else source), ("--to", target)):
        if language is not None:
            languages.require_known(language, flag)
    tells = plan.model_type in families.MULTILINGUAL | (families.PREFIXED if "prefix" not in options else set()) or (
        plan.family is Family.DECODER and "prompt" not in options
    )
    if tells and (source is None or target is None):
        raise BadOption(f"{plan.model} translates between several languages: give --from and --to.")
    families.require_direction(plan.direction, None if auto else source, target, plan.model)
    params = _make_detection_params(plan) if auto else _read_languages(plan)
    if "prefix" in options:
        if plan.config and plan.model_type not in families.PREFIXED:
            raise BadOption(f"--prefix is for a T5 or summaries; {plan.model} takes --from and --to only.")
        if auto:
            raise BadOption("--prefix is the same for every language: give --from with it.")
    return params


def _read_languages(plan: Plan) -> dict[str, str]:
    """Return the model's source and target language if there is only one, so that naming it changes no spec."""
    sides = zip(_PAIR, (plan.direction.sources, plan.direction.targets), strict=True)
    return {name: codes[0] for name, codes in sides if len(codes) == 1 and name not in plan.options}


def _make_detection_params(plan: Plan) -> dict[str, Any]:
    """Return the parameters for detected languages: the detector, the target, and the model's known sources."""
    languages.require_detector()
    target, direction = plan.options.get("target_lang"), plan.direction
    if target is None and len(direction.targets) != 1:
        raise BadOption("--from auto needs --to, since texts in that language are kept.")
    limited = {"sources": sorted(direction.sources)} if direction.sources else {}
    return {"target_lang": target or direction.targets[0], "detector": languages.DETECTOR, **limited}


def _checks(spec: Spec, direction: Direction) -> Checks:
    sides = ((spec.params.get("source_lang"), direction.sources), (spec.params.get("target_lang"), direction.targets))
    source, target = (_choose_only(wanted, known) for wanted, known in sides)
    return Checks(tuple(all_checks()), Context(source, target), _LEAST_CONFIDENCE)


def _choose_only(wanted: str | None, known: Sequence[str]) -> str | None:
    """Return the plain code of the requested language, or of the only known language."""
    if wanted not in {None, languages.AUTO}:
        return languages.short_code(wanted)
    return known[0] if len(known) == 1 else None


def _other_models(options: KindOptions) -> tuple[str, ...]:
    values = options.to_params()
    read = values.get("source_lang", languages.AUTO)
    source = "mul" if read == languages.AUTO else read
    return (f"Helsinki-NLP/opus-mt-{source}-{values.get('target_lang', 'en')}", "facebook/m2m100_418M")


TRANSLATE = TaskKind(
    name="translate",
    summary="Translate each document, paragraph by paragraph.",
    example="articles.jsonl --from fr --to en",
    options=TranslateOptions,
    output=TEXT,
    heading="translation",
    families=MappingProxyType({Family.SEQ2SEQ: Head.SEQ2SEQ_TEXT, Family.DECODER: Head.CAUSAL_TEXT}),
    recipe=_recipe,
    params=_params,
    default_model="marian-ddtp",
    other_models=_other_models,
    built_in=BuiltIn(_chat, _pattern, settings="translation", languages=True),
    checks=_checks,
)
