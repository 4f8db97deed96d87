"""Templates over a document and its metadata."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docmill.storage import templates
from docmill.storage.core.normalize import normalize
from docmill.storage.errors import StorageError
from docmill.storage.templates import Questions, Template, over_metadata, parse

TEXTS = st.text()
# A ? at the end of a name marks a field that few records have.
NAMES = st.text(st.characters(exclude_characters="{}\n"), min_size=1).filter(lambda name: not name.endswith("?"))


def escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def unescaped(text: str) -> str:
    return text.replace("{{", "{").replace("}}", "}")


@given(TEXTS, TEXTS, TEXTS, NAMES, TEXTS, TEXTS.filter(lambda text: text.strip() != ""))
def test_fixed_text_and_values_are_in_the_order_of_the_template(
    before: str, between: str, after: str, name: str, value: str, text: str
) -> None:
    template = parse(f"{escaped(before)}{{meta.{name}}}{escaped(between)}{{text}}{escaped(after)}")
    assert template == Template((before, between, after), (f"meta.{name}", "text"))
    assert template.fields == (name,)
    assert (
        template.render(text, {name: value, "other": "x"})
        == normalize(before + value + between + text.strip() + after)[0]
    )


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("a {text}", "a {text}"),
        (None, ""),
        (7, "7"),
        (0.5, "0.5"),
        (True, "true"),
        (["a", 1], '["a",1]'),
        ({"k": "é"}, '{"k":"é"}'),
    ],
)
def test_values_that_are_not_texts_are_written_as_json(value: Any, written: str) -> None:
    assert parse("{meta.a}: {text}").render("x", {"a": value}) == f"{written}: x"


def test_a_missing_field_is_empty_and_a_blank_document_stays_blank() -> None:
    template = parse("{meta.title}|{meta.title}|{text}")
    assert template.render("x", {}) == "||x"
    assert template.render(" \n", {"title": "a"}) == ""
    assert template.fields == template.expected == ("title",)
    optional = parse("{meta.title?}|{meta.a}|{text}")
    assert (optional.fields, optional.expected) == (("title", "a"), ("a",))
    assert optional.render("x", {"title": "t"}) == "t||x"


@pytest.mark.parametrize(
    ("parse", "written"),
    [
        *product(
            [templates.parse],
            ["{meta.}{text}", "{meta.?}{text}", "{meta}{text}", "{meta.a}", "{text}{meta.a}{text}", "{meta.a{text}"],
        ),
        *product([templates.parse_question], ["Who wrote {text}?", "{meta.}", "{title}", "a { b"]),
    ],
)
def test_invalid_places_are_refused(parse: Callable[[str], object], written: str) -> None:
    with pytest.raises(StorageError):
        parse(written)


LINES = st.text(st.characters(exclude_categories=["Cs", "Cc"])).filter(lambda text: text == " ".join(text.split()))


@given(LINES.map(escaped), LINES, TEXTS.filter(lambda text: text.strip() != ""))
def test_questions_and_the_text_are_read_back_from_a_rendered_template(question: str, value: str, text: str) -> None:
    template = over_metadata({"question": {"b": f"{question} {{meta.title}}", "a": "Who\n{{it}}?"}})
    assert isinstance(template, Questions)
    assert (template.fields, templates.over_metadata({"question": {"a": question}})) == (("title",), None)
    text = normalize(text)[0]
    questions, rest = template.split(template.render(text, {"title": f" {value}\n"}))
    assert rest == text
    assert questions == ["Who {it}?", " ".join([*unescaped(question).split(), *value.split()])]
    assert template.render(" \n", {"title": value}) == ""


def test_a_document_keeps_white_space_at_its_ends_only_in_specs_that_say_so() -> None:
    params = {"prompt": "{meta.a}{text}|"}
    before, kept = over_metadata(params), over_metadata({**params, "white_space": "kept"})
    assert before is not None
    assert kept is not None
    assert (before.render(" x\n", {}), kept.render(" x\n", {})) == ("x|", " x\n|")
    assert kept.render(" \n", {"a": "b"}) == ""


def test_messages_of_a_record_come_before_its_text() -> None:
    chat = [{"role": "user", "content": "Ä?"}]
    template = over_metadata({"messages": "chat?", "prompt": "Say: {text}"})
    assert template is not None
    assert template.fields == ("chat",)
    assert template.render("text", {"chat": chat}) == '[{"role":"user","content":"Ä?"}]'
    call = {"role": "assistant", "tool_calls": [{"id": "1"}]}
    assert template.render("text", {"chat": [*chat, call]}).endswith(
        '{"role":"assistant","tool_calls":[{"id":"1"}]}]'
    )
    for no_messages in (None, [], "chat", [{"role": "user"}], [1]):
        rendered = template.render("text", {"chat": no_messages})
        assert rendered == '[{"role":"user","content":"Say: text"}]'
