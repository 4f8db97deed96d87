"""Labels that a user gives: from a text, a list, a table, or a file, checked and in one form."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from tasks.errors import BadOption
from tasks.kinds.options import Option
from tasks.kinds.validation import shown

FILES = (".txt", ".json", ".toml")
_EXPECTED = 'must be labels, such as "sports, politics", a list of them, or a table with a description of each'


def is_file(given: str) -> bool:
    """Return True for a text that names a file of labels, and is not a list of labels."""
    return "," not in given and PurePath(given).suffix.lower() in FILES


def in_file(name: str, text: str) -> Any:
    """Return the list or table of labels in a file's text: a label on each line, JSON or TOML. Raises BadOption."""
    kind = PurePath(name).suffix.lower()
    if kind == ".txt":
        return [line for line in text.splitlines() if line.strip()]
    try:
        return json.loads(text) if kind == ".json" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadOption(f"{name} is not {kind.removeprefix('.').upper()}: {error}") from error


def words_by_label(given: object) -> dict[str, str]:
    """Return the words that a model reads for each label: the label's description, or else the label itself.

    Raises PydanticCustomError, whose message continues a sentence that begins with the option's name.
    """
    if isinstance(given, str):
        if is_file(given):
            raise _wrong(f"is the name of a file, {shown(given)}; write the labels themselves here")
        pairs: Iterable[tuple[object, object]] = [(label, label) for label in given.split(",") if label.strip()]
    elif isinstance(given, Mapping):
        pairs = given.items()
    elif isinstance(given, list | tuple):
        pairs = [pair if _is_pair(pair) else (pair, pair) for pair in given]
    else:
        raise _wrong(f"{_EXPECTED}, not {shown(given)}")
    found: dict[str, str] = {}
    for label, words in pairs:
        if not isinstance(label, str) or not isinstance(words, str):
            raise _wrong(f"{_EXPECTED}; {shown(words if isinstance(label, str) else label)} is none of these")
        name, read = (" ".join(one.split()) for one in (label, words))
        if not name:
            raise _wrong("holds a label without a name")
        if not name.isprintable() or not read.isprintable():
            raise _wrong(f"has a label with a character that cannot be printed: {shown(ascii(name))}")
        if name in found:
            raise _wrong(f"names {shown(name)} twice")
        found[name] = read or name
    if not found:
        raise _wrong("holds no label")
    return found


def _wrong(sentence: str) -> PydanticCustomError:
    return PydanticCustomError("value", "{sentence}", {"sentence": sentence})


def _is_pair(given: object) -> bool:
    return isinstance(given, list) and len(given) == 2


def in_order(labels: Mapping[str, str]) -> list[str | list[str]]:
    """Return labels as a list, which `words_by_label` reads again: each by itself, or with other words than its own.

    A database does not keep the order of a table.
    """
    return [label if label == words else [label, words] for label, words in labels.items()]


_TEXT = {"type": "string"}
_SCHEMA = {"anyOf": [_TEXT, {"type": "array", "items": _TEXT}, {"type": "object", "additionalProperties": _TEXT}]}

# The option of several kinds that not all of one base class have.
GivenLabels = Annotated[
    dict[str, str] | None,
    BeforeValidator(words_by_label),
    Field(
        description="Labels to choose among or to find, with commas between them, or a .txt, .json or .toml file of "
        "them; for an NLI, embedding, decoder-only or GLiNER model.",
        examples=[{"sports": "sports", "the economy": "money, trade and prices"}],
    ),
    WithJsonSchema(_SCHEMA),
    Option(metavar="LABELS|FILE"),
]
