"""Generating: a model completes a template over the document. A long document is read in parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import Field

from docmill.storage import templates
from docmill.storage.core.specs import Outcome, Spec
from docmill.storage.outputs.output_types import SCHEMA, TEXT, N
from docmill.tasks.checks import AS_WRITTEN
from docmill.tasks.errors import BadOption, PromptTooLong
from docmill.tasks.kinds.base import Again, Computed, Plan, Recipe, TaskKind, Traits, windowed, written_texts
from docmill.tasks.kinds.options import PROMPT, JsonSchema, Layer, Option, Searching
from docmill.tasks.models.families import Family
from docmill.tasks.outputs import Head
from docmill.tasks.schemas import GRAMMAR
from docmill.tasks.windows.windows import Coder, Window

BETWEEN = "\n\n"
MOST_OUTPUTS = 1000
MESSAGES_FLAG = "--messages"
# Parameters of specs: the document is the whole prompt, and an output may fill the model's context.
RAW, FILL_CONTEXT = "raw", "fill_context"


def _join(texts: Sequence[str]) -> str:
    """Return the texts with a blank line between them, in place of the white space there."""
    if len(texts) == 1:
        return texts[0]
    first, *others, last = texts
    return BETWEEN.join([first.rstrip(), *(text.strip() for text in others), last.lstrip()])


@dataclass(frozen=True)
class Generate(Recipe):
    """Joins the outputs of windows. If there are ``n``, the first output of each window makes the first text."""

    n: int = 1

    def join(self, computed: Computed) -> Outcome | Again:
        """Return the outputs of the windows, with a blank line between them."""
        of_windows = [written_texts(output) for output in computed.outputs]
        texts, truncated, flags = [], [], dict.fromkeys(windowed(computed.windows))
        for number in range(self.n):
            parts = [outputs[number] for outputs in of_windows if outputs]
            if any(part.truncated for part in parts):
                flags["output_truncated"] = None
                truncated.append(number)
            written = [part.text for part in parts if part.text.strip()]
            if len(written) < len(parts):
                flags["empty" if not written else "empty_window"] = None
            texts.append(_join(written) if written else "".join(part.text for part in parts))
        return computed.done(TEXT.stored(texts, truncated), flags=flags)


@dataclass(frozen=True)
class Uncut:
    """Reads a document or a rendered prompt as one window: half of a prompt makes no sense.

    The recipe ``joining`` joins the outputs. ``advice`` ends the message for a prompt that is too long.
    """

    joining: Recipe = field(default_factory=Generate)
    advice: str = "Without {meta.…} in it a long document is read in parts."

    def cut(self, texts: Sequence[str], coder: Coder) -> list[list[Window]]:
        """Return one window for each text. Raises PromptTooLong."""
        encoded = coder.encode(texts)
        longest = max((prompt.tokens for prompt in encoded), default=0)
        if longest > coder.limit_tokens:
            raise PromptTooLong(
                f"The prompt has {longest:,} tokens with this document, the model's window {coder.limit_tokens:,}. "
                f"{self.advice}"
            )
        return [[Window(0, len(text), prompt)] for text, prompt in zip(texts, encoded, strict=True)]

    def join(self, computed: Computed) -> Outcome | Again:
        return self.joining.join(computed)


class GenerateOptions(Searching):
    """Options of `generate`."""

    defaults = MappingProxyType({N: 1, RAW: False, FILL_CONTEXT: False})
    prompt: Annotated[str | None, PROMPT, Option(is_template=True)] = None
    messages: Annotated[
        str | None,
        Field(min_length=1, description="Field with a list of chat messages; records without it give their text."),
        Option(metavar="FIELD", only=Family.DECODER),
    ] = None
    n: Annotated[
        int | None,
        Field(ge=1, le=MOST_OUTPUTS, description="Outputs for each document: samples, or the best of --beams."),
    ] = None
    raw: Annotated[
        bool | None,
        Field(description="Read the document as the whole prompt: no chat template, no windows."),
        Option(only=Family.DECODER),
    ] = None
    fill_context: Annotated[
        bool | None,
        Field(description="Let an output go on until the model's context is full."),
        Option(only=Family.DECODER, layer=Layer.MORE),
    ] = None
    json_schema: JsonSchema = None

    @property
    def templates(self) -> tuple[tuple[str, templates.Template], ...]:
        field = () if self.messages is None else (f"meta.{self.messages}",)
        return (*super().templates, *((MESSAGES_FLAG, templates.Template(("", ""), (name,))) for name in field))


def _params(plan: Plan) -> dict[str, Any]:
    """Return the parameter that keeps white space, and the version of a schema's grammar. Raises BadOption.

    An encoder-decoder needs no prompt.
    """
    options = plan.options
    prompted = [name for name in ("prompt", "messages", "system") if name in options]
    if RAW in options and prompted:
        raise BadOption(f"--raw reads the document as the whole prompt: leave --{prompted[0]} out.")
    if not {"prompt", "messages", RAW} & options.keys() and plan.family is not Family.SEQ2SEQ:
        raise BadOption("generate needs --prompt, a template with {text} where the document goes.")
    if FILL_CONTEXT in options and "max_new_tokens" in options:
        raise BadOption("--fill-context and --max-new-tokens do not go together: give one of them.")
    if SCHEMA in options and plan.family is Family.SEQ2SEQ:
        raise BadOption(f"--schema is for decoder-only models; {plan.model} is {plan.family}.")
    if SCHEMA in options and "stop" in options:
        raise BadOption("--schema and --stop do not go together: an output ends where its JSON does.")
    for name in ("no_repeat_ngram_size", "min_new_tokens"):
        if SCHEMA in options and options.get(name):
            flag = f"--{name.replace('_', '-')}"
            raise BadOption(f"--schema and {flag} do not go together: the schema may allow only what {flag} forbids.")
    return {templates.WHITE_SPACE: templates.KEPT, **({"grammar": GRAMMAR} if SCHEMA in options else {})}


def _recipe(spec: Spec, _traits: Traits) -> Recipe:
    generate = Generate(spec.params.get(N, 1))
    return Uncut(generate, "A raw document is not read in parts.") if spec.params.get(RAW) else generate


GENERATE = TaskKind(
    name="generate",
    summary="Generate text from each document, or from a prompt over it.",
    example="mail/ --prompt @ask.txt --model ./qwen3",
    options=GenerateOptions,
    output=TEXT,
    families=MappingProxyType({Family.DECODER: Head.CAUSAL_TEXT, Family.SEQ2SEQ: Head.SEQ2SEQ_TEXT}),
    recipe=_recipe,
    params=_params,
    checks=lambda _spec, _direction: AS_WRITTEN,
)
