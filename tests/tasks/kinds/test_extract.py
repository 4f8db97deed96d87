"""A record of a text is that of its windows, valid by the schema, or the text fails with the reason."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from storage.core.outcomes import Outcome, Reason, Status
from storage.core.specs import Spec
from tasks import kinds
from tasks.errors import BadOption, ModelUnsuitable
from tasks.kinds.base import Computed
from tasks.outputs import Generated, Output
from tasks.specs.pinning import Pinned
from tasks.specs.plan import build_spec
from tasks.windows.windows import Encoded, Window

PINNED = Pinned("model", "0" * 40)
SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "minLength": 1},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
    },
    "required": ["title"],
}


def spec_of(**options: Any) -> Spec:
    return build_spec("extract", PINNED, kinds.options("extract", **{"json_schema": SCHEMA, **options}), {})


def joined(*outputs: Output | None, spec: Spec | None = None) -> Outcome:
    """Return the outcome of a text of as many windows as outputs."""
    windows = [Window(place, place + 1, Encoded(1, "x"), part=len(outputs) > 1) for place in range(len(outputs))]
    recipe = kinds.recipe(spec or spec_of(), kinds.Traits())
    outcome = recipe.join(Computed(1, "x" * len(outputs), windows, outputs, 1, 7, 9))
    assert isinstance(outcome, Outcome)
    return outcome


def test_the_record_of_one_window_is_stored_as_it_is() -> None:
    outcome = joined(Generated('{"title":"a","tags":["b"]}', 9))
    assert outcome.data == {"data": {"title": "a", "tags": ["b"]}}
    assert (outcome.status, outcome.flags, outcome.tokens_in, outcome.tokens_out) == (Status.DONE, (), 7, 9)


def test_the_records_of_windows_are_merged_and_flagged() -> None:
    first, second = Generated('{"title":"a","tags":["b","c"]}', 9), Generated('{"title":"d","tags":["c","e","f"]}', 9)
    outcome = joined(first, None, second)  # a window of white space has no output
    assert outcome.data == {"data": {"title": "a", "tags": ["b", "c", "e"]}}
    assert outcome.flags == ("windowed",)


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (Generated('{"title":""}', 9), r"The output is not valid by the schema: #/title breaks .*/title/minLength\."),
        (
            Generated('{"title":"a', 1200, truncated=True),
            "The output reached 1,200 tokens before the JSON ended: raise",
        ),
    ],
)
def test_a_text_without_a_valid_record_fails_with_the_reason(output: Output, reason: str) -> None:
    outcome = joined(output)
    assert (outcome.status, outcome.data, outcome.reason_class) == (Status.FAILED, None, Reason.MODEL)
    assert re.match(reason, str(outcome.reason))


def test_a_prompt_over_metadata_gives_a_record_too() -> None:
    spec = spec_of(prompt="{meta.title}: {text}")
    assert joined(Generated('{"title":"a"}', 9), spec=spec).data == {"data": {"title": "a"}}


def test_cited_values_have_their_places_in_the_whole_text() -> None:
    spec = spec_of(cite=True)
    recipe = kinds.recipe(spec, kinds.Traits())
    text = "Of dogs. Of cats."
    windows = [Window(0, 9, Encoded(3, "x"), part=True), Window(9, 17, Encoded(3, "x"), part=True)]
    outputs = [Generated('{"title":"of Dogs","tags":["x"]}', 9), Generated('{"title":"Cats","tags":["cats"]}', 9)]
    outcome = recipe.join(Computed(1, text, windows, outputs, 1, 7, 9))
    assert isinstance(outcome, Outcome)
    assert outcome.data == {
        "data": {"title": "of Dogs", "tags": ["x", "cats"]},
        "citations": {"/title": [0, 7], "/tags/0": None, "/tags/1": [12, 16]},
    }
    assert spec_of(cite=False) == spec_of() != spec


def test_places_in_a_document_and_a_prompt_over_metadata_do_not_go_together() -> None:
    with pytest.raises(BadOption, match="--cite gives places in the document; it does not go with"):
        spec_of(cite=True, prompt="{meta.title}: {text}")


def test_the_schema_and_not_its_layout_makes_the_spec() -> None:
    texts = [json.dumps(SCHEMA), json.dumps(SCHEMA, indent=4), json.dumps({**SCHEMA, "description": "other"})]
    ids = [spec_of(json_schema=text).sha256 for text in texts]
    assert ids[0] == ids[1] != ids[2]
    assert Spec.from_json(spec_of().to_json()) == spec_of()
    assert spec_of().params["grammar"] == 1


def test_a_schema_is_needed() -> None:
    with pytest.raises(BadOption, match="extract needs --schema, a file with the JSON Schema of the records"):
        build_spec("extract", PINNED, kinds.options("extract"), {})


def test_a_schema_that_cannot_be_kept_is_refused_as_an_option() -> None:
    with pytest.raises(BadOption, match=r"--schema cannot be kept at #/properties/a: it allows any value; give"):
        kinds.options("extract", json_schema={"type": "object", "properties": {"a": {}}})


@pytest.mark.parametrize("config", [{"model_type": "t5"}, {"model_type": "bert"}])
def test_a_model_that_is_not_decoder_only_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ModelUnsuitable, match="extract needs a decoder-only model; model is "):
        build_spec("extract", PINNED, kinds.options("extract", json_schema=SCHEMA), config)
