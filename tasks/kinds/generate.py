"""Generating: a template over the document; a document that is longer than the model's window in several parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import Field

from storage.core.outcomes import Outcome
from storage.outputs.output_types import TEXT, N
from storage.steps import templates
from tasks.checks import AS_WRITTEN
from tasks.errors import BadOption
from tasks.heads import Head
from tasks.kinds.base import Again, Computed, Plan, TaskKind, windowed
from tasks.kinds.options import PROMPT, Option, Searching
from tasks.models.families import Family
from tasks.outputs import Generated, Output, Several
from tasks.windows.windows import Coder, Window, cut

BETWEEN = "\n\n"
MOST_OUTPUTS = 1000
MESSAGES_FLAG = "--messages"


def _joined(texts: Sequence[str]) -> str:
    """The texts with a blank line between them in place of the white space that they begin and end with there."""
    if len(texts) == 1:
        return texts[0]
    first, *others, last = texts
    return BETWEEN.join([first.rstrip(), *(text.strip() for text in others), last.lstrip()])


@dataclass(frozen=True)
class Generate:
    """The recipe. With ``n`` outputs the first ones of all windows make the first text, and so on."""

    n: int = 1

    def cut(self, texts: Sequence[str], coder: Coder) -> list[list[Window]]:
        return cut(texts, coder)

    def join(self, computed: Computed) -> Outcome | Again:
        """The outputs of the windows, with a blank line between them."""
        found = [_outputs(output) for output in computed.outputs]
        texts, flags = [], dict.fromkeys(windowed(computed.windows))
        for number in range(self.n):
            parts = [outputs[number] for outputs in found if outputs]
            if any(part.truncated for part in parts):
                flags["output_truncated"] = None
            written = [part.text for part in parts if part.text.strip()]
            if len(written) < len(parts):
                flags["empty" if not written else "empty_window"] = None
            texts.append(_joined(written) if written else "".join(part.text for part in parts))
        output = TEXT.stored(texts)
        return computed.done(output.text, data=None if output.data is None else dict(output.data), flags=flags)


def _outputs(output: Output | None) -> Sequence[Generated]:
    if isinstance(output, Several):
        return output.outputs
    return [output] if isinstance(output, Generated) else []


class GenerateOptions(Searching):
    """Options of `generate`."""

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

    @property
    def templates(self) -> tuple[tuple[str, templates.Template], ...]:
        field = () if self.messages is None else (f"meta.{self.messages}",)
        return (*super().templates, *((MESSAGES_FLAG, templates.Template(("", ""), (one,))) for one in field))

    def given(self) -> dict[str, Any]:
        return {name: value for name, value in super().given().items() if (name, value) != (N, 1)}


def _params(plan: Plan) -> dict[str, str]:
    """Return the parameter that keeps white space in prompts and outputs. An encoder-decoder needs no prompt."""
    if "prompt" not in plan.given and "messages" not in plan.given and plan.family is not Family.SEQ2SEQ:
        raise BadOption("generate needs --prompt, a template with {text} where the document goes.")
    return {templates.WHITE_SPACE: templates.KEPT}


GENERATE = TaskKind(
    name="generate",
    summary="Generate text from each document, or from a prompt over it.",
    options=GenerateOptions,
    output=TEXT,
    families=MappingProxyType({Family.DECODER: Head.CAUSAL_TEXT, Family.SEQ2SEQ: Head.SEQ2SEQ_TEXT}),
    recipe=lambda spec, _traits: Generate(spec.params.get(N, 1)),
    params=_params,
    checks=lambda _spec, _direction: AS_WRITTEN,
)
