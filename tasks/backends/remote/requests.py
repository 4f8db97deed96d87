"""The messages that a served model reads for a text, and requests for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

import orjson

from docmill.storage.core.chat import as_messages
from docmill.storage.core.specs import Spec
from docmill.storage.outputs.output_types import SCHEMA
from docmill.storage.steps import templates
from docmill.storage.steps.templates import keeps_white_space
from docmill.tasks import languages
from docmill.tasks.backends.decoding import Decoding
from docmill.tasks.backends.remote import answers
from docmill.tasks.backends.remote.counting import Counter
from docmill.tasks.errors import CannotServe
from docmill.tasks.kinds import instruction
from docmill.tasks.kinds.answer import asking, require_room
from docmill.tasks.kinds.base import Traits
from docmill.tasks.kinds.generate import FILL_CONTEXT
from docmill.tasks.windows.windows import Encoded, LanguageCoders

Message = dict[str, Any]
_REMEMBERED = 256
_ANY = "en"  # an example language, for prompts that are only measured
_LEAST_TEXT_TOKENS = 8


@dataclass(frozen=True)
class ChatCoder:
    """A Coder: a window's features are the JSON of its messages."""

    framed: Callable[[str], list[Message]]
    limit_tokens: int
    counter: Counter

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        found = []
        for text in texts:
            messages = self.framed(text)
            found.append(Encoded(self.counter.of_messages(messages), orjson.dumps(messages).decode()))
        return found


def stop_of(spec: Spec) -> tuple[str, ...]:
    """Return the texts that end an output."""
    return tuple(spec.params.get("stop") or ())


def coder(spec: Spec, limit_tokens: int, counter: Counter) -> ChatCoder:
    """Return the coder of a spec's messages. Raises CannotServe where they leave no room for a text."""
    found = ChatCoder(_framed(_example(spec)), limit_tokens, counter)
    taken = found.encode([""])[0].tokens
    if taken + _LEAST_TEXT_TOKENS > limit_tokens:
        raise CannotServe(
            f"A window of {limit_tokens:,} tokens leaves no room for a text: the prompt takes about {taken:,}. "
            "Give a larger --window-tokens, or a smaller --max-new-tokens."
        )
    return found


def traits(spec: Spec, limit_tokens: int, counter: Counter) -> Traits:
    """Return the coders for texts of a detected language, and for questions. Raises CannotServe."""

    @cache
    def in_language(language: str) -> ChatCoder:
        return ChatCoder(_framed(_from(spec, language)), limit_tokens, counter)

    @lru_cache(_REMEMBERED)
    def beside(question: str) -> ChatCoder:
        return ChatCoder(_framed(asking(spec, question)), limit_tokens, counter)

    asks = templates.questions(spec.params) is not None
    if asks:
        require_room(spec.params, beside)
    return Traits(
        language_coders=LanguageCoders(in_language) if _tells(spec) else None, pairs=beside if asks else None
    )


def body(spec: Spec, name: str, how: Decoding) -> dict[str, Any]:
    """Return a request for a chat completion without its messages. Greedy unless samples were asked for."""
    given: dict[str, Any] = {
        "model": name,
        "temperature": how.temperature,
        answers.LOGPROBS: True,
    }
    if not spec.params.get(FILL_CONTEXT):
        given[answers.MAX_TOKENS] = how.max_new_tokens
    if how.sampled:
        shapes = {"top_p": (how.top_p, 1.0), "top_k": (how.top_k, 0), "min_p": (how.min_p, 0.0)}
        given |= {key: value for key, (value, neutral) in shapes.items() if value != neutral}
        given["seed"] = how.seed
    if how.n > 1:
        given["n"] = how.n
    if how.stop:
        given["stop"] = list(how.stop)
    if how.repetition_penalty != 1:
        given["repetition_penalty"] = how.repetition_penalty
    if how.min_new_tokens:
        given[answers.MIN_TOKENS] = how.min_new_tokens
    if SCHEMA in spec.params:
        schema = orjson.loads(spec.params[SCHEMA])
        named = {"name": "record", "schema": schema, **({"strict": True} if _is_closed(schema) else {})}
        given["response_format"] = {"type": "json_schema", "json_schema": named}
    return given


def hints(spec: Spec) -> frozenset[str]:
    """Return the parts of a request that its messages say, too: a summary's --length sets the least tokens."""
    return frozenset({answers.MIN_TOKENS} if "length" in spec.params else ())


def _is_closed(schema: object) -> bool:
    """Return True if each object of a schema has its properties and no others, as OpenAI's strict mode wants."""
    if isinstance(schema, list):
        return all(map(_is_closed, schema))
    if not isinstance(schema, dict):
        return True
    named = schema.get("properties")
    if isinstance(named, dict):
        required = schema.get("required") or ()
        if schema.get("additionalProperties") is not False or {*named} != {*required}:
            return False
    return all(map(_is_closed, schema.values()))


def _framed(spec: Spec) -> Callable[[str], list[Message]]:
    """Return the function from a text to the messages about it."""
    system = spec.params.get("system")
    first: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    if templates.MESSAGES in spec.params:

        def conversation(text: str) -> list[Message]:
            messages = as_messages(text) or [{"role": "user", "content": text}]
            return messages if messages[0]["role"] == "system" else [*first, *messages]

        return conversation
    template, keeps = instruction(spec, chat=True).template, keeps_white_space(spec.params)

    def instructed(text: str) -> list[Message]:
        return [*first, {"role": "user", "content": template.fill(text if keeps else text.strip())}]

    return instructed


def _example(spec: Spec) -> Spec:
    """Return a spec whose words need no text's language or question."""
    if _tells(spec):
        return _from(spec, _ANY)
    return spec if templates.questions(spec.params) is None else asking(spec, "")


def _tells(spec: Spec) -> bool:
    return spec.params.get("source_lang") == languages.AUTO and "prompt" not in spec.params


def _from(spec: Spec, language: str) -> Spec:
    return replace(spec, params={**spec.params, "source_lang": language})
