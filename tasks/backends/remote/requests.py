"""The messages that a served model reads for a text, the count of their tokens, and the requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from docmill.storage import templates
from docmill.storage.core.specs import Spec
from docmill.storage.outputs.output_types import SCHEMA
from docmill.storage.templates import keeps_white_space
from docmill.tasks.backends.decoding import Decoding
from docmill.tasks.backends.remote import answers
from docmill.tasks.backends.tokens import TokenCoder, Tokens
from docmill.tasks.errors import CannotServe, describe_error
from docmill.tasks.kinds import conversation, example_of, instruction, traits_by
from docmill.tasks.kinds.base import Traits
from docmill.tasks.kinds.generate import FILL_CONTEXT
from docmill.tasks.windows.windows import LEAST_TEXT_TOKENS, Encoded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


Message = dict[str, Any]
# An estimate, in bytes of UTF-8. In most languages tokens of current models are longer, so a window that fits by this
# estimate fits the model.
BYTES_PER_TOKEN = 3
_MESSAGE_TOKENS = 8  # in a chat template around each message
_SPECIAL_TOKENS = 2  # around a text that is embedded


class TokenCounter:
    """Counts tokens with a tokenizer, or estimates them from bytes. Safe to call from any thread.

    Without a chat template, or if it fails, the tokens around messages are an estimate.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        self._template = tokenizer if tokenizer is not None and tokenizer.chat_template is not None else None
        self._whole = self._bare = None
        if tokenizer is not None:
            self._whole, self._bare = Tokens(tokenizer), Tokens(tokenizer, special_tokens=False)

    def of_text(self, text: str) -> int:
        """Return the tokens of a text, with the special tokens around it."""
        if self._whole is None:
            return _SPECIAL_TOKENS + _estimate(text)
        return self._whole.encode([text])[0].tokens

    def of_messages(self, messages: Sequence[Mapping[str, Any]]) -> int:
        """Return the tokens of chat messages, with those of the chat template around them."""
        contents = [answers.words_in(message) for message in messages]
        if self._bare is None:
            return sum(_MESSAGE_TOKENS + _estimate(content) for content in contents)
        if (shown := self._show(messages)) is not None:
            return self._bare.encode([shown])[0].tokens
        return sum(_MESSAGE_TOKENS + encoded.tokens for encoded in self._bare.encode(contents))

    def _show(self, messages: Sequence[Mapping[str, Any]]) -> str | None:
        """Return messages in the chat template; None if there is none, or it fails."""
        if self._template is None:
            return None
        try:
            return str(self._template.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        except Exception:  # templates raise anything, and the server may have another template
            return None


def counter(folder: Path | None, name: str | None) -> TokenCounter:
    """Return a counter with the tokenizer in a folder, whose name is for messages; without a folder it estimates.

    Raises CannotServe for a tokenizer that transformers cannot read.
    """
    if folder is None:
        return TokenCounter()
    from transformers import AutoTokenizer

    from docmill.tasks.backends import accelerator

    try:
        with accelerator.quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # whatever transformers raises on files that it cannot read
        raise CannotServe(f"The tokenizer {name} cannot be read: {describe_error(error)}") from error
    return TokenCounter(tokenizer)


def _estimate(text: str) -> int:
    return -(-len(text.encode()) // BYTES_PER_TOKEN)


def _coder(spec: Spec, limit_tokens: int, counter: TokenCounter) -> TokenCoder:
    """Return a coder whose windows hold their messages as JSON."""
    framed = _choose_frame(spec)

    def encode(texts: Sequence[str]) -> list[Encoded]:
        each = map(framed, texts)
        return [Encoded(counter.of_messages(messages), orjson.dumps(messages).decode()) for messages in each]

    return TokenCoder(encode, limit_tokens)


def coder_and_traits(spec: Spec, limit_tokens: int, counter: TokenCounter) -> tuple[TokenCoder, Traits]:
    """Return the coder of a spec, and the coders for detected languages and for questions.

    Raises CannotServe if the prompt leaves no room for a text.
    """
    coder = _coder(example_of(spec), limit_tokens, counter)
    taken = coder.encode([""])[0].tokens
    if taken + LEAST_TEXT_TOKENS > limit_tokens:
        raise CannotServe(
            f"A window of {limit_tokens:,} tokens leaves no room for a text: the prompt takes about {taken:,}. "
            "Give a larger --window-tokens, or a smaller --max-new-tokens."
        )
    return coder, traits_by(lambda variant: _coder(variant, limit_tokens, counter), spec)


def body(spec: Spec, name: str, decoding: Decoding) -> dict[str, Any]:
    """Return a request for a chat completion, without its messages."""
    request: dict[str, Any] = {
        "model": name,
        "temperature": decoding.temperature,
        answers.LOGPROBS: True,
    }
    if not spec.params.get(FILL_CONTEXT):
        request[answers.MAX_TOKENS] = decoding.max_new_tokens
    # Each part with its neutral value. A part with that value is left out.
    parts: dict[str, tuple[Any, Any]] = {}
    if decoding.samples:
        parts = {
            "top_p": (decoding.top_p, 1),
            "top_k": (decoding.top_k, 0),
            "min_p": (decoding.min_p, 0),
            "seed": (decoding.seed, None),
        }
    parts |= {
        "n": (decoding.n, 1),
        "stop": ([*decoding.stop], []),
        "repetition_penalty": (decoding.repetition_penalty, 1),
        answers.MIN_TOKENS: (decoding.min_new_tokens, 0),
    }
    request |= {name: value for name, (value, neutral) in parts.items() if value != neutral}
    if SCHEMA in spec.params:
        schema = orjson.loads(spec.params[SCHEMA])
        named = {"name": "record", "schema": schema, **({"strict": True} if _is_closed(schema) else {})}
        request["response_format"] = {"type": "json_schema", "json_schema": named}
    return request


def hints(spec: Spec) -> frozenset[str]:
    """Return the parts of a request that repeat its messages: --length of a summary also sets the least tokens."""
    return frozenset({answers.MIN_TOKENS} if "length" in spec.params else ())


def _is_closed(schema: object) -> bool:
    """Return True if each object of a schema has exactly its named properties, as OpenAI's strict mode requires."""
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


def _choose_frame(spec: Spec) -> Callable[[str], list[Message]]:
    """Return the function that makes the messages for a text."""
    if templates.MESSAGES in spec.params:
        return partial(conversation, spec)
    system = spec.params.get("system")
    first: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    template, keeps = instruction(spec, chat=True), keeps_white_space(spec.params)

    def instructed(text: str) -> list[Message]:
        return [*first, {"role": "user", "content": template.fill(text if keeps else text.strip())}]

    return instructed
