"""The bodies of requests: the task, its options and its texts, from the fields of OpenAI's API and of vLLM's.

A field that asks for something that docmill does not do makes a bad request. docmill ignores fields that change no
output, and values that ask for its default.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

import orjson

from docmill.features.batch_server.writer import CHAT, COMPLETIONS, EMBEDDINGS, INPUTS, RESPONSES
from docmill.storage.json_values import Json
from docmill.storage.templates import is_messages
from docmill.tasks import kinds
from docmill.tasks.errors import BadOption
from docmill.tasks.kinds.embed import EMBED
from docmill.tasks.kinds.generate import GENERATE
from docmill.tasks.kinds.options import KindOptions

# The name of a field that no document has: the text of a document is its messages.
MESSAGES = "messages"
DEFAULT_COMPLETION_TOKENS = 16
# A request that names no temperature is sampled, at the temperature of the model's files or else at 1. A min_p of 0
# asks for samples and for nothing else.
_SAMPLED = MappingProxyType({"min_p": 0.0})
_WITHOUT_EFFECT = frozenset(
    {
        "model", "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
        "prompt_cache_retention", "stream_options", "request_id", "priority", "cache_salt", "parallel_tool_calls",
        "return_tokens_as_token_ids",
    }
)  # fmt: skip
# Values, by field, that ask for the default. None asks for the default in every field.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "stream": (False,),
        "logprobs": (False,),
        "top_logprobs": (0,),
        "prompt_logprobs": (0,),
        "echo": (False,),
        "suffix": ("",),
        "best_of": (1,),
        "background": (False,),
        "include": ([],),
        "truncation": ("disabled",),
        "frequency_penalty": (0,),
        "presence_penalty": (0,),
        "logit_bias": ({},),
        "tools": ([],),
        "tool_choice": ("none", "auto"),
        "functions": ([],),
        "function_call": ("none", "auto"),
        "modalities": (["text"],),
        "response_format": ({"type": "text"},),
        "use_beam_search": (False,),
        "ignore_eos": (False,),
        "stop_token_ids": ([],),
        "skip_special_tokens": (True,),
        "spaces_between_special_tokens": (True,),
        "include_stop_str_in_output": (False,),
        "add_generation_prompt": (True,),
        "continue_final_message": (False,),
        "use_activation": (True,),
        "normalize": (True,),
        "embed_dtype": ("float32",),
        "endianness": ("native", "little"),
    }
)
# Fields of requests that write, and the options of `generate` that they set.
_OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "max_tokens": "max_new_tokens",
        "max_completion_tokens": "max_new_tokens",  # comes last, and so before the other
        "min_tokens": "min_new_tokens",
        "temperature": "temperature",
        "top_p": "top_p",
        "top_k": "top_k",
        "min_p": "min_p",
        "seed": "seed",
        "repetition_penalty": "repetition_penalty",
        "n": "n",
        "stop": "stop",
    }
)
# Values of these options that ask for nothing.
_NOTHING: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {"stop": ([], ("",)), "n": (1,), "min_new_tokens": (0,), "repetition_penalty": (1,)}
)
_OF_SAMPLES = frozenset({"top_p", "top_k", "min_p", "seed"})
_READ = MappingProxyType(
    {
        CHAT: frozenset({"messages", "response_format", *_OPTIONS}),
        RESPONSES: frozenset({"input", "instructions", "max_output_tokens", "temperature", "top_p", "text"}),
        COMPLETIONS: frozenset({"prompt", "response_format", *_OPTIONS} - {"max_completion_tokens"}),
        EMBEDDINGS: frozenset({"input", "dimensions", "encoding_format"}),
    }
)
# The fields of a chat as messages name them, and the fields of a request for a response in their place.
_OF_RESPONSES = {'"max_tokens"': '"max_output_tokens"', '"messages"': '"input"', '"response_format"': '"text.format"'}
_ENCODINGS = ("float", "base64")
_TEXTS = frozenset({"text", "input_text", "output_text"})  # types of parts


class BadRequest(Exception):
    """The request cannot be carried out; the message is the reason, without the request's texts."""


def parse_body(
    url: str, body: Mapping[str, Any], dtype: str, ignored: Collection[str] = (), seed: int | None = None
) -> tuple[KindOptions, tuple[str, ...], dict[str, Any]]:
    """Return the options of a body, its texts, and the form of its embeddings.

    Fields in ``ignored`` are skipped. ``dtype`` is the precision of the job, and ``seed`` the seed of samples if the
    body has none. Raises BadRequest.
    """
    fields = {name: value for name, value in body.items() if value is not None and name not in ignored}
    _check_fields(url, fields)
    if url == EMBEDDINGS:
        options = _make_options(EMBED.name, {"prompt": "{text}", "dtype": dtype})
        return options, _read_texts("input", fields), _read_form(fields)
    if url == RESPONSES:
        try:
            return parse_body(CHAT, _to_chat(fields), dtype, seed=seed)
        except BadRequest as error:
            reason = re.sub("|".join(_OF_RESPONSES), lambda name: _OF_RESPONSES[name[0]], str(error))
            raise BadRequest(reason) from error
    options_of_body = {**_read_options(fields), **_read_schema(fields), "dtype": dtype}
    if seed is not None and options_of_body.get("temperature") != 0:
        options_of_body.setdefault("seed", seed)
    if url == CHAT:
        without_end = {} if "max_new_tokens" in options_of_body else {"fill_context": True}
        options = _make_options(GENERATE.name, {"messages": MESSAGES, **without_end, **options_of_body})
        return options, (_read_conversation(fields),), {}
    completion = {"raw": True, "max_new_tokens": DEFAULT_COMPLETION_TOKENS, **options_of_body}
    return _make_options(GENERATE.name, completion), _read_texts("prompt", fields), {}


def _to_chat(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a request for a response as those of a chat. Raises BadRequest."""
    messages = fields["input"]
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if not isinstance(messages, list) or not all(
        isinstance(message, dict) and message.get("type", "message") == "message" for message in messages
    ):
        raise BadRequest('"input" must be a text, or a list of messages')
    if (instructions := fields.get("instructions")) is not None:
        messages = [{"role": "system", "content": instructions}, *messages]
    chat = {name: fields[name] for name in ("temperature", "top_p") if name in fields}
    if "max_output_tokens" in fields:
        chat["max_tokens"] = fields["max_output_tokens"]
    text = fields.get("text", {})
    if not isinstance(text, dict) or text.keys() - {"format", "verbosity"} or text.get("verbosity") is not None:
        raise BadRequest('"text" must be {"format": …}')
    if (form := text.get("format")) is not None:
        is_schema = isinstance(form, dict) and form.get("type") == "json_schema"
        chat["response_format"] = {"type": "json_schema", "json_schema": form} if is_schema else form
    return {**chat, "messages": messages}


def _check_fields(url: str, fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        if name in _READ[url] or name in _WITHOUT_EFFECT:
            continue
        if name not in _NEUTRAL:
            known = any(name in names for names in _READ.values())
            what = f"is no parameter of {url}" if known else "is a parameter that docmill does not know"
            raise BadRequest(f'"{name[:60]}" {what}; leave it out, or give --ignore {name[:60]}')
        if _NEUTRAL[name] and value not in _NEUTRAL[name]:
            raise BadRequest(f'"{name}" asks for what docmill does not do; leave it out, or give --ignore {name}')
    if INPUTS[url] not in fields:
        raise BadRequest(f'"{INPUTS[url]}" is missing')


def _read_options(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of `generate` that a body sets. Greedy outputs need no options of samples."""
    options = {option: _read_value(name, fields[name]) for name, option in _OPTIONS.items() if name in fields}
    options = {option: value for option, value in options.items() if value not in _NOTHING.get(option, ())}
    if options.get("temperature") == 0:
        if "n" in options:
            raise BadRequest('"n" asks for several outputs, which would all be the same with "temperature" 0')
        return {name: value for name, value in options.items() if name not in _OF_SAMPLES}
    return options if options.keys() & {"temperature", "top_p", "top_k", "min_p"} else {**options, **_SAMPLED}


def _read_value(name: str, value: Json) -> Json | tuple[str]:
    if name == "stop":
        return (value,) if isinstance(value, str) else value
    return 0 if (name, value) == ("top_k", -1) else value  # vLLM's word for all tokens


def _read_schema(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the option that constrains an output to a JSON Schema, if the body has one."""
    response_format = fields.get("response_format")
    if response_format is None or response_format == {"type": "text"}:
        return {}
    if isinstance(response_format, dict) and response_format.get("type") == "json_schema":
        named = response_format.get("json_schema")
        schema = named.get("schema") if isinstance(named, dict) else None
        if isinstance(schema, dict):
            return {"json_schema": schema}
    raise BadRequest('"response_format" must be {"type": "text"}, or {"type": "json_schema", …} with a schema')


def _make_options(task: str, options: Mapping[str, Any]) -> KindOptions:
    """Return the options of a task. Raises BadRequest with the name of the body's field."""
    try:
        return kinds.options(task, **options)
    except BadOption as error:
        raise BadRequest(name_body_fields(str(error))) from error


def name_body_fields(sentence: str) -> str:
    """Return a sentence in which the body's fields stand in place of the options that they set."""
    names = {option: name for name, option in reversed([*_OPTIONS.items()])}
    names |= {"schema": "response_format", "messages": "messages"}
    for option, name in names.items():
        sentence = re.sub(rf"--{option.replace('_', '-')}(?![\w-])", f'"{name}"', sentence)
    return sentence.removesuffix(".")


def _read_conversation(fields: Mapping[str, Any]) -> str:
    """Return the messages as JSON, with their roles, contents and names. Raises BadRequest."""
    messages = fields["messages"]
    if not is_messages(messages):
        raise BadRequest('"messages" must be a list of objects, each with a "role" and a "content"')
    kept = []
    for number, message in enumerate(messages):
        if message.get("tool_calls") or message.get("function_call") or message.get("audio"):
            raise BadRequest(f'"messages"[{number}] has a tool call or audio; docmill reads only text')
        named = {"name": message["name"]} if isinstance(message.get("name"), str) else {}
        kept.append({"role": message["role"], "content": _read_content(message["content"], number), **named})
    return orjson.dumps(kept).decode()


def _read_content(content: Json, number: int) -> str:
    """Return the text of a message. Parts are joined by line ends, as in vLLM."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") in _TEXTS]
        if len(texts) == len(content) and all(isinstance(text, str) for text in texts):
            return "\n".join(map(str, texts))
    raise BadRequest(f'"messages"[{number}] has a part that is not text; docmill reads only text')


def _read_texts(name: str, fields: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the input, or the inputs, of a request. Raises BadRequest."""
    value = fields[name]
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts:
        raise BadRequest(f'"{name}" must be a text, or a list of texts')
    if not all(isinstance(text, str) for text in texts):
        raise BadRequest(f'"{name}" must have only texts; docmill does not read token ids')
    if any(not text.strip() for text in texts):
        raise BadRequest(f'"{name}" has a blank text')
    return tuple(texts)


def _read_form(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the form that a body wants for its embeddings. Raises BadRequest."""
    form: dict[str, Any] = {}
    if (encoding := fields.get("encoding_format", "float")) not in _ENCODINGS:
        raise BadRequest('"encoding_format" must be float or base64')
    if encoding != "float":
        form["encoding_format"] = encoding
    if (dimensions := fields.get("dimensions")) is not None:
        if type(dimensions) is not int or dimensions < 1:
            raise BadRequest('"dimensions" must be a whole number, at least 1')
        form["dimensions"] = dimensions
    return form
