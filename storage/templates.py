"""Templates over a document's text and metadata: a prompt, or questions about the text.

``{text}`` is the document's text, ``{meta.title}`` the field `title` of its metadata, and ``{meta.title?}`` the same
for a field that few records have. ``{{`` and ``}}`` are braces. A question has no ``{text}``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import orjson

from docmill.storage.core.normalize import normalize
from docmill.storage.errors import StorageError
from docmill.storage.json_values import Json
from docmill.storage.outputs import output_types

TEXT = "text"
PROMPT, QUESTION, MESSAGES = "prompt", output_types.QUESTION, "messages"  # parameters of specs
# The parameter of specs whose documents and outputs keep white space at their ends, and its value.
WHITE_SPACE, KEPT = "white_space", "kept"
_META, _OPTIONAL = "meta.", "?"
_MARK = re.compile(r"\{\{|\}\}|\{([^{}\n]*)\}|[{}]")


@dataclass(frozen=True)
class Template:
    """The fixed pieces of a prompt, and the places between them: `TEXT` once, and names of metadata.

    A document keeps white space at its ends unless the template ``strips`` it.
    """

    pieces: tuple[str, ...]
    places: tuple[str, ...]
    strips: bool = True

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of the metadata that the template reads, each once."""
        return tuple(dict.fromkeys(_field(place) for place in self.places if place != TEXT))

    @property
    def expected(self) -> tuple[str, ...]:
        """The fields that some of a source's first records must have; others have a `?`."""
        optional = {_field(place) for place in self.places if place.endswith(_OPTIONAL)}
        return tuple(field for field in self.fields if field not in optional)

    def render(self, text: str, meta: Mapping[str, Any]) -> str:
        """Return the prompt for a document, as it is stored; an empty text for a blank document.

        A missing field is empty. Lists and objects are written as JSON.
        """
        if not text.strip():
            return ""
        return normalize(self.filled(text.strip() if self.strips else text, meta))[0]

    def filled(self, text: str, meta: Mapping[str, Any]) -> str:
        """Return the pieces with the text and the metadata between them."""
        pieces = [self.pieces[0]]
        for place, piece in zip(self.places, self.pieces[1:], strict=True):
            pieces += [text if place == TEXT else written(meta.get(_field(place))), piece]
        return "".join(pieces)


@dataclass(frozen=True)
class Questions:
    """Questions about a document's text. The content has a line for each question, and after them the text."""

    templates: tuple[Template, ...]

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of the metadata that the questions read, each once."""
        return tuple(dict.fromkeys(name for template in self.templates for name in template.fields))

    def render(self, text: str, meta: Mapping[str, Any]) -> str:
        """Return the questions and the text, as they are stored; an empty text for a blank document."""
        if not text.strip():
            return ""
        return normalize("\n".join([*self.filled(meta), text]))[0]

    def filled(self, meta: Mapping[str, Any]) -> list[str]:
        """Return the questions about a document, each on one line."""
        return [" ".join(template.filled("", meta).split()) for template in self.templates]

    def split(self, content: str) -> tuple[list[str], str]:
        """Return the questions and the text of a rendered content."""
        *lines, text = content.split("\n", len(self.templates))
        return lines, text


@dataclass(frozen=True)
class Messages:
    """The messages of a conversation in a field of the metadata, or a template over the text as the user's message.

    The content is their JSON: `[{"role": …, "content": …}, …]`.
    """

    field: str
    otherwise: Template

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of the metadata that are read, each once."""
        return tuple(dict.fromkeys((self.field, *self.otherwise.fields)))

    def render(self, text: str, meta: Mapping[str, Any]) -> str:
        """Return the messages as they are stored; an empty text for a blank document.

        The text itself may be the messages, if the field of the text is that of the messages.
        """
        if not text.strip():
            return ""
        value = meta.get(self.field)
        messages = value if is_messages(value) else as_messages(text)
        if messages is None:
            messages = [{"role": "user", "content": self.otherwise.filled(text, meta)}]
        return normalize(orjson.dumps(messages).decode())[0]


def parse(template: str) -> Template:
    """Return the template in a text. Raises StorageError unless ``{text}`` is there once, and for another brace."""
    parsed = _parse(template)
    if (times := parsed.places.count(TEXT)) != 1:
        often = "does not stand in it" if not times else f"stands in it {times} times"
        raise StorageError(f"{{text}} {often}; put it once, where the document goes.")
    return parsed


def parse_question(question: str) -> Template:
    """Return the template of a question. Raises StorageError for ``{text}`` in it, or for another brace."""
    parsed = _parse(question)
    if TEXT in parsed.places:
        raise StorageError("{text} has no place in a question: the model reads the document beside it.")
    return parsed


def _parse(template: str) -> Template:
    pieces, places, end = [""], list[str](), 0
    for match in _MARK.finditer(template):
        pieces[-1] += template[end : match.start()]
        end = match.end()
        mark, name = match.group(), match.group(1)
        if mark in ("{{", "}}"):
            pieces[-1] += mark[0]
        elif name == TEXT or (name is not None and name.startswith(_META) and _field(name)):
            places.append(name)
            pieces.append("")
        elif name is not None:
            raise StorageError(
                f"there is no placeholder {mark}, only {{text}} and {{meta.FIELD}}; a brace is written {{{{ or }}}}."
            )
        else:
            raise StorageError(f"a single {mark} stands in it; a brace is written {{{{ or }}}}.")
    pieces[-1] += template[end:]
    return Template(tuple(pieces), tuple(places))


def over_metadata(params: Mapping[str, Any]) -> Template | Questions | Messages | None:
    """Return the templates in a spec's parameters, if they read metadata: then the spec computes rendered prompts."""
    if MESSAGES in params:
        return Messages(
            params[MESSAGES].removesuffix(_OPTIONAL), replace(parse(params.get(PROMPT, "{text}")), strips=False)
        )
    if (of_spec := questions(params)) is not None:
        return of_spec if of_spec.fields else None
    prompt = params.get(PROMPT)
    if prompt is None or _META not in prompt:
        return None
    template = replace(parse(prompt), strips=not keeps_white_space(params))
    return template if template.fields else None


def questions(params: Mapping[str, Any]) -> Questions | None:
    """Return the questions in a spec's parameters, in the order of their names; None for specs without questions."""
    by_name = params.get(QUESTION)
    return None if by_name is None else Questions(tuple(parse_question(by_name[name]) for name in sorted(by_name)))


def keeps_white_space(params: Mapping[str, Any]) -> bool:
    """Return True for specs whose documents and outputs keep white space at their ends; older specs strip it."""
    return params.get(WHITE_SPACE) == KEPT


def _field(place: str) -> str:
    return place.removeprefix(_META).removesuffix(_OPTIONAL)


def written(value: Json) -> str:
    """Return a value of the metadata as a prompt shows it: a text as it is, null as "", anything else as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def is_messages(value: object) -> TypeGuard[list[dict[str, Any]]]:
    """Return True for a list of objects that have a role, and a content or calls of tools, at least one."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(item, dict)
            and isinstance(item.get("role"), str)
            and ("content" in item or item.get("tool_calls"))
            for item in value
        )
    )


def as_messages(text: str) -> list[dict[str, Any]] | None:
    """Return the messages in a JSON text; None for any other text."""
    if not text.lstrip().startswith("["):
        return None
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return value if is_messages(value) else None
