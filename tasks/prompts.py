"""What stands around a document, as a template asks or a kind of task needs. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from storage.flow import templates
from storage.flow.templates import BadTemplate
from storage.specs import Spec
from tasks import demonstrations, languages
from tasks.errors import BadOption, CannotServe

# Version of the built-in instructions, and part of the specs that use them.
INSTRUCTIONS = 2
# A base model goes on with the next line of the pattern unless it is stopped at the end of this one.
LINE_END = "\n"


@dataclass(frozen=True)
class Template:
    """What stands before the document, and what after it."""

    before: str
    after: str

    def fill(self, text: str) -> str:
        return self.before + text + self.after


@dataclass(frozen=True)
class Instruction:
    """What a decoder-only model is told: a template, a system prompt if there is one, texts that end the output."""

    template: Template
    system: str | None = None
    stop: tuple[str, ...] = ()


def check(template: str) -> templates.Template:
    """What a template reads of a document. Raises BadOption where it is none."""
    try:
        return templates.parse(template)
    except BadTemplate as error:
        raise BadOption(f"--prompt: {error}") from error


def is_rendered(params: Mapping[str, Any]) -> bool:
    """Whether what a spec is asked of are rendered prompts: nothing is to stand around them, nor are they cut."""
    return templates.over_metadata(params) is not None


def around(template: str) -> Template:
    """What stands around the document in a template that reads no metadata. Raises BadOption."""
    found = check(template)
    assert not found.fields
    return Template(*found.pieces)


def instruction(spec: Spec, *, chat: bool, shown: bool = True) -> Instruction:
    """What to tell a model under this spec, be it one that follows instructions (``chat``) or one that goes on with
    a text. The latter sees demonstrations first, unless they are not to be ``shown``.

    Raises CannotServe for a translation whose languages nobody named.
    """
    stop = tuple(spec.params.get("stop") or ())
    system = spec.params.get("system")
    asked = spec.params.get("prompt")
    if asked is not None:
        template = Template("", "") if is_rendered(spec.params) else around(asked)
        return Instruction(template, system, stop)
    assert spec.kind in {"summarize", "translate"}, spec.kind
    if chat:
        return Instruction(Template(_told(spec), ""), system, stop)
    return Instruction(_continued(spec, shown=shown), system, stop or (LINE_END,))


def _told(spec: Spec) -> str:
    if spec.kind == "summarize":
        return "Summarize the following text in one to three sentences. Answer with the summary only.\n\n"
    source, target = _languages(spec)
    return (
        f"Translate the following text from {source} into {target}. Answer with the translation only, "
        "on one line, and keep names as they are.\n\n"
    )


def _continued(spec: Spec, *, shown: bool) -> Template:
    """Patterns that a base model completes, after demonstrations of them."""
    if spec.kind == "summarize":
        return _pattern("Text", "Summary", (demonstrations.SUMMARIZED,) if shown else ())
    source, target = _languages(spec)
    return _pattern(source, target, demonstrations.translated(source, target) if shown else ())


def _pattern(given: str, wanted: str, shown: Iterable[tuple[str, str]]) -> Template:
    before = "".join(f"{given}: {text}\n{wanted}: {output}\n\n" for text, output in shown)
    return Template(f"{before}{given}: ", f"\n{wanted}:")


def _languages(spec: Spec) -> tuple[str, str]:
    source, target = spec.params.get("source_lang"), spec.params.get("target_lang")
    if source is None or target is None:
        raise CannotServe(f"{spec.model} translates between several languages: give --from and --to.")
    return languages.name(source), languages.name(target)
