"""The grammar that holds a model to a schema, by llguidance, and the shortest record of a grammar."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tasks.schemas.bounds import bounded
from tasks.schemas.walk import Schema

if TYPE_CHECKING:
    from llguidance import LLMatcher
    from llguidance._lib import JsonCompileOptions

# Version of the grammars and of the bounds in them, and part of the specs that use them.
GRAMMAR = 1
# Outputs have no white space between values.
OPTIONS: JsonCompileOptions = {"whitespace_flexible": False}
_MOST_BYTES = 100_000
_END = 256  # the token after those of the 256 bytes
# Bytes in the order in which they end a value soonest. Inside a string the quotation mark comes first.
_SOONEST = b'}],"0123456789'
_OUTSIDE = 4  # so few bytes can follow where a string may begin or an object end


class _Bytes:
    """A tokenizer with a token for each byte, and one for the end."""

    eos_token_id = _END
    bos_token_id = None
    special_token_ids = (_END,)
    tokens = (*(bytes([byte]) for byte in range(256)), b"<|end|>")

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


def guided(schema: Schema) -> dict[str, Any]:
    """Return a schema with its bounds and options, as llguidance reads it wherever it runs."""
    return {**bounded(schema), "x-guidance": OPTIONS}


def grammar(schema: Schema) -> str:
    """Return the grammar of the records of a schema, in llguidance's form."""
    from llguidance import LLMatcher

    return str(LLMatcher.grammar_from_json_schema(json.dumps(guided(schema))))


def problem(schema: Schema) -> str | None:
    """Return the reason why llguidance takes no such schema, in its words; None if it does."""
    from llguidance import LLMatcher

    is_error, messages = LLMatcher.validate_grammar_with_warnings(grammar(schema))
    return " ".join(messages[0].split()) if is_error else None


def shortest(schema: Schema) -> str | None:
    """Return a short record of a schema as JSON; None if none was found within 100,000 bytes."""
    matcher = _by_bytes(grammar(schema))
    written = bytearray()
    while not matcher.is_stopped() and len(written) < _MOST_BYTES:
        mask = matcher.compute_bitmask()
        allowed = {one for one in range(256) if mask[one >> 3] >> (one & 7) & 1}
        first = b'"' if len(allowed) > _OUTSIDE else b""
        byte = next((one for one in (*first, *_SOONEST, *range(256)) if one in allowed), None)
        if byte is None or not matcher.consume_token(byte):
            break
        written.append(byte)
    return written.decode() if matcher.is_accepting() and not matcher.is_error() else None


def _by_bytes(written: str) -> LLMatcher:
    from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

    return LLMatcher(LLTokenizer(TokenizerWrapper(_Bytes())), written, log_level=0)
