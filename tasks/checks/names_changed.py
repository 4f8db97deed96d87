"""`names_changed`: names, addresses, code and placeholders that were lost, invented or replaced."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from docmill.tasks.checks import english, names, names_by_language
from docmill.tasks.checks.base import Check, Context, Finding, quoted
from docmill.tasks.checks.names import Form, Name, Text

FLAG = "names_changed"
_ENGLISH = "en"
_CAPITALISED_NOUNS = frozenset({"de", "lb"})
_MUCH_ALIKE, _NEARLY_SAME = 0.8, 0.9
_LONGEST_SHUFFLED, _LEAST_PART = 5, 4
# Names change their places a little from language to language: by a part of the text's length, within characters.
_NEAR, _NEAR_LEAST, _NEAR_MOST = 0.12, 60, 400
_NEAR_BEGINNING = 40
# Words that begin a sentence and are names: they have no article before a verb.
_COPULA = re.compile(r"(?:\W{1,3}[A-Z]\w*)?\W{1,3}(?:is|are|est|sont|es|son|é|è|ist)\b")
_SENTENCE_BEFORE = re.compile(r"(?:\A|[^\w,;] ?|\n)\Z")
_WORD_BEFORE = re.compile(r"(?<!\S)\W*(\w)\S*[ -]\Z")
_WORD_AFTER = re.compile(r"[ -]\W*(\w)")
_LONGEST_BESIDE = 40  # characters


@dataclass(frozen=True)
class _Side:
    """A text beside the other one, with the names that it alone has."""

    text: Text
    other: Text
    language: str | None
    others_language: str | None

    @property
    def is_english(self) -> bool:
        return self.language == _ENGLISH

    @cached_property
    def changed(self) -> list[Name]:
        """Names that the other text does not write so. Of the words that may begin a sentence, English ones alone."""
        return list(names.named(self.text.text, self.other.written, _is_rare if self.is_english else _never))

    @cached_property
    def initial(self) -> list[Name]:
        """Words that the other text does not write so, and that may begin a sentence, ordinary ones too."""
        found = names.named(self.text.text, self.other.written, _always)
        return [name for name in found if name.form is Form.INITIAL]

    @cached_property
    def all_exact(self) -> list[Name]:
        return list(names.exact(self.text.text))

    @cached_property
    def exact(self) -> list[Name]:
        """Exact names that the other text lacks."""
        return [
            name
            for name in self.all_exact
            if name.letters
            and not self.other.has(name.letters)
            and name.written not in self.other.text
            and not self._has_words_for(name)
        ]

    @cached_property
    def named(self) -> list[Name]:
        """Names of other forms that the other text lacks with any version."""
        return list(filter(self.is_alone, self.changed))

    @cached_property
    def formed(self) -> list[Name]:
        """Names of a form that the other language does not put in words."""
        return [name for name in self.named if name.form is Form.FORMED and not self._has_words_for(name)]

    def is_alone(self, name: Name) -> bool:
        return not self.other.has(name.letters) and not self.other.has(name.stem)

    def is_known(self, name: Name) -> bool:
        """Return True if the other text has the name in a form, or its language has another name for it."""
        if self._has_own(name.letters):
            return True
        if name.form is Form.ACRONYM:
            return self.other.has_longer(name.letters) or self.other.has_anagram(name.letters)
        if name.form is Form.FORMED:
            return self.other.has_form(name.letters, _NEARLY_SAME)
        return self.other.has_form(name.letters, _MUCH_ALIKE) or (not self.is_english and self.text.has_small(name))

    def begins_sentence(self, name: Name) -> bool:
        return _SENTENCE_BEFORE.search(self.text.text, max(0, name.start - 3), name.start) is not None

    def names_a_subject(self, name: Name) -> bool:
        """Return False for a word at the beginning of a sentence that may be any, for want of a verb behind it."""
        return not name.is_capitalised or _COPULA.match(self.text.text, name.end) is not None

    def _has_words_for(self, name: Name) -> bool:
        """Return True if the other text has words for the name, or for each part of it."""
        if self._has_own(name.letters) or (
            len(name.letters) <= _LONGEST_SHUFFLED and self.other.has_anagram(name.letters)
        ):
            return True
        return len(name.parts) > 1 and all(
            len(part) >= _LEAST_PART and (self._has_own(part) or self.other.has_form(part)) for part in name.parts
        )

    def _has_own(self, name: str) -> bool:
        """Return True if the other text has the name as its language spells it."""
        others = names_by_language.counterparts(self.language, self.others_language).get(name, frozenset())
        return self.other.has_spelling(name) or not self.other.words.isdisjoint(others)


def find(given: str, output: str, context: Context) -> Iterator[Finding]:
    """Yield names that only one text has. Of a text that may be shorter only those count that it adds.

    A capitalised word counts in a translation if it stands in the place of another, and in a summary if English does
    not have it as an ordinary word.
    """
    before, after = Text(given), Text(output)
    lost = _Side(before, after, context.source, context.target)
    added = _Side(after, before, context.target, context.source)
    has_nouns = not _CAPITALISED_NOUNS.isdisjoint({context.source, context.target})
    if context.shortened:
        yield from map(_invented, _first((*added.exact, *_added_by_summary(added, has_nouns))))
        return
    invented = [
        name for name in (*added.exact, *added.formed) if name.form is Form.EXACT or _is_invented(name, before)
    ]
    yield from map(_invented, _first(invented))
    gone = [
        name for name in lost.formed if not after.has_longer(name.letters) and not after.has_shorter(name.letters)
    ]
    for name in _first((*lost.exact, *gone)):
        said = f"{quoted(name.written)} of the input is not in the output."
        yield Finding(FLAG, said, lost=(name.start, name.end))
    for name, old in _replaced(lost, added, has_nouns):
        if not any(one.start <= name.start < one.end for one in invented):
            said = f"{quoted(name.written)} is not in the input, which has {quoted(old.written)} there."
            yield Finding(FLAG, said, name.start, name.end, lost=(old.start, old.end))


def _is_invented(name: Name, given: Text) -> bool:
    """Return True for a name with a digit of which the input has no part."""
    return name.has_digit and not given.has_form(name.letters) and not given.has_shorter(name.letters)


def _added_by_summary(added: _Side, has_nouns: bool) -> Iterator[Name]:
    """Yield names that the input lacks. A capitalised word counts if English does not have it, or it stands alone."""
    given = added.other
    rare = _is_rare if given.is_english else _never
    for name in filter(added.is_alone, names.named(added.text.text, given.written, rare)):
        if name.form in (Form.FORMED, Form.ACRONYM):
            known = given.has_longer(name.letters) or given.has_ending(name.letters)
        elif given.has_form(name.letters) or given.has_spelling(name.letters):
            known = True
        elif given.is_english:
            known = name.is_ordinary
        else:
            known = has_nouns or given.has_capitalised_nouns or not _stands_alone(name, added.text.text)
        if not known:
            yield name


def _replaced(lost: _Side, added: _Side, has_nouns: bool) -> Iterator[tuple[Name, Name]]:
    """Yield the added names with lost ones in their places, unless they are forms of words of the other text."""
    gone = [*lost.changed, *(name for name in lost.all_exact if _is_changed(name, added.text))]
    new = list(added.named)
    if gone and lost.is_english:
        new += added.initial
    elif new and added.is_english:
        gone += lost.initial
    if has_nouns:
        new = [name for name in new if name.form is Form.FORMED]
        gone = [name for name in gone if name.form in (Form.FORMED, Form.EXACT)]
    pairs: dict[Name, list[Name]] = {}
    for name in new:
        if (places := [old for old in gone if _is_there(old, name, lost, added)]) and _is_new(name, lost, added):
            pairs[name] = [old for old in places if _is_gone(old, name, lost, added)]
    if not added.is_english:  # several in a row are a title, translated
        pairs = {name: found for name, found in pairs.items() if not any(_adjoin(name, other) for other in pairs)}
    yield from ((name, pairs[name][-1]) for name in _first(name for name, found in pairs.items() if found))


def _is_changed(name: Name, other: Text) -> bool:
    return name.written.casefold() not in other.folded


def _is_there(old: Name, new: Name, lost: _Side, added: _Side) -> bool:
    """Return True if one name stands in the place of the other, and not for words of a sentence or a title."""
    length = max(len(lost.text.text), len(added.text.text))
    distance = abs(old.place - new.place) * length
    if distance > min(max(_NEAR * length, _NEAR_LEAST), _NEAR_MOST):
        return False
    if not lost.is_english and not added.is_english:
        return True
    (own, its), (foreign, others) = ((old, lost), (new, added)) if lost.is_english else ((new, added), (old, lost))
    if own.is_ordinary and not _stands_as_name(old, new, lost, added):
        return False
    if foreign.form is not Form.INITIAL or own.form is Form.EXACT:
        return foreign.form is not Form.INITIAL or distance <= _NEAR_BEGINNING
    return (
        distance <= _NEAR_BEGINNING
        and its.begins_sentence(own)
        and its.names_a_subject(own)
        and others.names_a_subject(foreign)
    )


def _stands_as_name(old: Name, new: Name, lost: _Side, added: _Side) -> bool:
    """Return True if two names, one of which is an ordinary English word, do not seem to be of titles or acronyms."""
    foreign = new if lost.is_english else old
    if foreign.is_capitalised and not (
        foreign.form is Form.CAPITAL and _stands_alone(old, lost.text.text) and _stands_alone(new, added.text.text)
    ):
        return False
    return lost.is_english or (lost.is_alone(old) and not added.text.spells_out(old.letters))


def _is_new(name: Name, lost: _Side, added: _Side) -> bool:
    """Return True if the input has no form of the name, and does not spell it out."""
    if not added.is_alone(name) or added.is_known(name):
        return False
    return name.form is not Form.ACRONYM or not lost.text.spells_out(name.letters)


def _is_gone(old: Name, new: Name, lost: _Side, added: _Side) -> bool:
    """Return True if the output has the old name in no form. One that is left elsewhere has to stand very near."""
    if old.form is not Form.EXACT:
        if lost.is_known(old):
            return False
        length = max(len(lost.text.text), len(added.text.text))
        kept = not lost.is_alone(old)
        if kept and (Form.INITIAL in (old.form, new.form) or abs(old.place - new.place) * length > _NEAR_LEAST):
            return False
    if old.letters in new.letters or new.letters in old.letters or names.are_alike(old.letters, new.letters):
        return False
    return not _are_places(old, new, lost, added)


def _are_places(old: Name, new: Name, lost: _Side, added: _Side) -> bool:
    known = names_by_language.places(lost.language) | names_by_language.places(added.language)
    return {old.letters, new.letters} <= known


def _is_rare(word: str) -> bool:
    return not english.is_ordinary(word.lower())


def _always(_word: str) -> bool:
    return True


def _never(_word: str) -> bool:
    return False


def _first(found: Iterable[Name]) -> list[Name]:
    """Return the first of the names that are written in one way."""
    return list({name.written: name for name in reversed(list(found))}.values())[::-1]


def _stands_alone(name: Name, text: str) -> bool:
    """Return True for a capitalised word in a sentence, beside no other one: several are often a title."""
    beside = (
        _WORD_BEFORE.search(text, max(0, name.start - _LONGEST_BESIDE), name.start),
        _WORD_AFTER.match(text, name.end),
    )
    return name.form is Form.CAPITAL and not any(match is not None and match[1].isupper() for match in beside)


def _adjoin(one: Name, other: Name) -> bool:
    return other.start - one.end == 1 or one.start - other.end == 1


def _invented(name: Name) -> Finding:
    return Finding(FLAG, f"{quoted(name.written)} is not in the input.", name.start, name.end)


NAMES_CHANGED = Check(FLAG, "names, addresses, code or placeholders were lost, invented or replaced", find)
