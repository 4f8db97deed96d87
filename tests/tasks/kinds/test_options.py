"""Labels may be a text, a list, a table or a file, and have one form in a spec."""

from __future__ import annotations

from typing import Any

import pytest

from docmill.tasks import kinds
from docmill.tasks.errors import BadOption
from docmill.tasks.kinds.options import is_label_file, parse_label_file, words_by_label
from tests.tasks.fakes import plan_spec

NLI = {
    "model_type": "bert",
    "architectures": ["BertForSequenceClassification"],
    "label2id": {"CONTRADICTION": 0, "NEUTRAL": 1, "ENTAILMENT": 2},
}
TONES = {**NLI, "label2id": {"good": 0, "bad": 1}}
ENCODER = {"model_type": "bert", "architectures": ["BertModel"]}


@pytest.mark.parametrize(
    "labels",
    ["sports,politics", " sports , politics ,", ["politics", "sports"], {"sports": "", "politics": "politics"}],
)
def test_labels_without_descriptions_stand_for_themselves(labels: Any) -> None:
    assert words_by_label(labels) == {"sports": "sports", "politics": "politics"}


@pytest.mark.parametrize("label", ["علمی\u200cتخیلی", "👨\u200d👩\u200d👧"])
def test_a_label_may_have_characters_that_join_others_or_keep_them_apart(label: str) -> None:
    assert words_by_label(label) == {label: label}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("", "holds no label"),
        (["a", " "], "holds a label without a name"),
        ("a, b, a", "names 'a' twice"),
        (["a", 5], "must be labels, .*; 5 is none of these"),
        ("topics.txt", "is the name of a file, 'topics.txt'; write the labels themselves here"),
        ("a\0, b", "has a label with a character that cannot be printed"),
        ("a, \u200d", "has a label with a character that cannot be printed"),
    ],
)
def test_values_that_are_no_labels_are_refused_with_the_reason(labels: Any, message: str) -> None:
    with pytest.raises(BadOption, match=f"--labels {message}"):
        kinds.options("classify", labels=labels)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("topics.txt", "red, white\n\nblue\n", {"red, white": "red, white", "blue": "blue"}),
        ("topics.json", '["red, white", "blue"]', {"red, white": "red, white", "blue": "blue"}),
        ("topics.toml", 'red = "the colour of blood"\nblue = ""', {"red": "the colour of blood", "blue": "blue"}),
    ],
)
def test_a_file_has_labels_by_lines_or_as_json_or_toml(name: str, text: str, expected: dict[str, str]) -> None:
    assert is_label_file(name)
    assert words_by_label(parse_label_file(name, text)) == expected


def test_the_order_of_labels_and_a_default_hypothesis_change_no_spec() -> None:
    spec = plan_spec("classify", NLI, labels="a, b")
    assert spec == plan_spec("classify", NLI, labels=["b", "a"], hypothesis="This example is {}.")
    assert spec.params == {"algorithm": 2, "labels": {"a": "a", "b": "b"}}


@pytest.mark.parametrize(
    ("options", "config", "message"),
    [
        ({"hypothesis": "It is {}."}, NLI, "--hypothesis makes sentences of labels: give --labels, too"),
        ({"labels": "a", "hypothesis": "It is."}, NLI, "--hypothesis must have {} once, where a label goes"),
        ({"labels": "a"}, TONES, "needs an NLI model, .* has labels of its own: good, bad. Without --labels"),
        ({"labels": "a", "multi_label": True}, ENCODER, "--multi-label is for NLI models; some/model is an embed"),
    ],
)
def test_options_that_do_not_go_with_the_model_or_each_other_are_refused(
    options: dict[str, Any], config: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadOption, match=message):
        plan_spec("classify", config, **options)
