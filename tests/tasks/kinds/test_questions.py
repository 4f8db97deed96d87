"""Questions are checked where they are given, and have one form."""

from __future__ import annotations

from typing import Any

import pytest

from tasks import kinds
from tasks.errors import BadOption


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("Who  wrote\nit?", {"answer": "Who wrote it?"}),
        ("author=Who wrote it?", {"author": "Who wrote it?"}),
        (["Who?", "year=When?", "Where?"], {"answer_1": "Who?", "year": "When?", "answer_3": "Where?"}),
        (("e=Who found E=mc2?",), {"e": "Who found E=mc2?"}),
        ({"author": "Who?", "year": "When?"}, {"author": "Who?", "year": "When?"}),
        ("Is x = y?", {"answer": "Is x = y?"}),
        ("{meta.question}", {"answer": "{meta.question}"}),
    ],
)
def test_a_text_a_list_and_a_table_give_questions_by_name(given: Any, read: dict[str, str]) -> None:
    assert kinds.options("answer", question=given).given() == {"question": read}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (7, 'must be a question, a list of questions, or a table such as { author = "Who wrote it?" }, not 7'),
        (["Who?", 7], "7 is none of these"),
        ("", "has no words for answer"),
        ([], "holds no question"),
        ("author=", "has no words for author"),
        ("Author=Who?", "has the name 'Author'; a name has up to 30 small letters"),
        ({"a b": "Who?"}, "has the name 'a b'"),
        (["a=Who?", "a=When?"], "names a twice"),
        (["a=Who?", "a_score=When?"], "names a and a_score, which both have a column a_score"),
        ("Who\0?", "has a character that cannot be printed"),
        ("Who \ud800?", "has a character that cannot be printed"),
        ("Who wrote {text}?", "{text} has no place in a question"),
        ("Who wrote {title}?", "there is no placeholder {title}, only {text} and {meta.FIELD}"),
        ("Who wrote {meta.title?", "a single { stands in it"),
    ],
)
def test_a_wrong_question_is_refused_with_the_reason(given: Any, said: str) -> None:
    with pytest.raises(BadOption) as refused:
        kinds.options("answer", question=given)
    assert str(refused.value).startswith("--question ")
    assert said in str(refused.value)
