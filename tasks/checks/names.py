"""`names_changed`: names, addresses, code and placeholders that were lost, invented or replaced."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache, cached_property
from pathlib import Path
from typing import Literal, TypeAlias, cast

from docmill.tasks.checks.base import Check, Context, Finding, folded, quoted, words

FLAG = "names_changed"
_ENGLISH = "en"
_CAPITALIZED_NOUNS = frozenset({"de", "lb"})
_MUCH_ALIKE, _NEARLY_SAME = 0.8, 0.9
_LONGEST_SHUFFLED, _LEAST_PART = 5, 4
# A translation may move a name by this share of the text's length, within these bounds in characters.
_NEAR, _NEAR_LEAST, _NEAR_MOST = 0.12, 60, 400
_NEAR_BEGINNING = 40
# A verb after a word that begins a sentence: the word is a name, since it has no article.
_COPULA = re.compile(r"(?:\W{1,3}[A-Z]\w*)?\W{1,3}(?:is|are|est|sont|es|son|é|è|ist)\b")
_SENTENCE_BEFORE = re.compile(r"(?:\A|[^\w,;] ?|\n)\Z")
_WORD_BEFORE = re.compile(r"(?<!\S)\W*(\w)\S*[ -]\Z")
_WORD_AFTER = re.compile(r"[ -]\W*(\w)")
_LONGEST_BESIDE = 40  # characters


@dataclass(frozen=True)
class _Side:
    """One of the two texts, with the names that only it has."""

    text: Text
    other: Text
    language: str | None
    others_language: str | None

    @property
    def is_english(self) -> bool:
        return self.language == _ENGLISH

    @cached_property
    def changed(self) -> list[WrittenName]:
        """Names that the other text spells differently. Words that may begin a sentence count only in English."""
        return list(find_names(self.text.text, self.other.written, _is_rare if self.is_english else _never))

    @cached_property
    def initial(self) -> list[WrittenName]:
        """Words that may begin a sentence and that the other text spells differently, also ordinary words."""
        names = find_names(self.text.text, self.other.written, lambda _word: True)
        return [name for name in names if name.form == "initial"]

    @cached_property
    def all_exact(self) -> list[WrittenName]:
        return list(find_exact_names(self.text.text))

    @cached_property
    def exact(self) -> list[WrittenName]:
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
    def named(self) -> list[WrittenName]:
        """Names of other forms that the other text lacks, also with another version number."""
        return list(filter(self.is_alone, self.changed))

    @cached_property
    def formed(self) -> list[WrittenName]:
        """Formed names for which the other language has no words."""
        return [name for name in self.named if name.form == "formed" and not self._has_words_for(name)]

    def is_alone(self, name: WrittenName) -> bool:
        return not self.other.has(name.letters) and not self.other.has(name.stem)

    def is_known(self, name: WrittenName) -> bool:
        """Return True if the other text has the name in a form, or its language has another name for it."""
        if self._has_own(name.letters):
            return True
        if name.form == "acronym":
            return self.other.has_longer(name.letters) or self.other.has_anagram(name.letters)
        if name.form == "formed":
            return self.other.has_form(name.letters, _NEARLY_SAME)
        return self.other.has_form(name.letters, _MUCH_ALIKE) or (not self.is_english and self.text.has_small(name))

    def begins_sentence(self, name: WrittenName) -> bool:
        return _SENTENCE_BEFORE.search(self.text.text, max(0, name.start - 3), name.start) is not None

    def names_a_subject(self, name: WrittenName) -> bool:
        """Return False for a word at the beginning of a sentence that may be no name, since no verb follows it."""
        return not name.is_capitalized or _COPULA.match(self.text.text, name.end) is not None

    def _has_words_for(self, name: WrittenName) -> bool:
        """Return True if the other text has words for the name, or for each part of it."""
        if self._has_own(name.letters) or (
            len(name.letters) <= _LONGEST_SHUFFLED and self.other.has_anagram(name.letters)
        ):
            return True
        return len(name.parts) > 1 and all(
            len(part) >= _LEAST_PART and (self._has_own(part) or self.other.has_form(part)) for part in name.parts
        )

    def _has_own(self, name: str) -> bool:
        """Return True if the other text has the name in its language's spelling."""
        others = counterparts(self.language, self.others_language).get(name, frozenset())
        return self.other.has_spelling(name) or not self.other.words.isdisjoint(others)


def find(source_text: str, output: str, context: Context) -> Iterator[Finding]:
    """Yield names that only one of the texts has. A text that may be shorter is searched only for added names.

    A capitalized word counts in a translation if it replaces another name, and in a summary if it is no ordinary
    English word.
    """
    before, after = Text(source_text), Text(output)
    lost = _Side(before, after, context.source, context.target)
    added = _Side(after, before, context.target, context.source)
    has_nouns = not _CAPITALIZED_NOUNS.isdisjoint({context.source, context.target})
    if context.shortened:
        yield from map(_report_invented, _find_first((*added.exact, *_added_by_summary(added, has_nouns))))
        return
    invented = [name for name in (*added.exact, *added.formed) if name.form == "exact" or _is_invented(name, before)]
    yield from map(_report_invented, _find_first(invented))
    gone = [
        name for name in lost.formed if not after.has_longer(name.letters) and not after.has_shorter(name.letters)
    ]
    for name in _find_first((*lost.exact, *gone)):
        evidence = f"{quoted(name.written)} of the input is not in the output."
        yield Finding(FLAG, evidence, lost=(name.start, name.end))
    for name, old in _find_replaced(lost, added, has_nouns):
        if not any(new_name.start <= name.start < new_name.end for new_name in invented):
            evidence = f"{quoted(name.written)} is not in the input, which has {quoted(old.written)} there."
            yield Finding(FLAG, evidence, name.start, name.end, lost=(old.start, old.end))


def _is_invented(name: WrittenName, source: Text) -> bool:
    """Return True for a name with a digit if the input has no part of it."""
    return name.has_digit and not source.has_form(name.letters) and not source.has_shorter(name.letters)


def _added_by_summary(added: _Side, has_nouns: bool) -> Iterator[WrittenName]:
    """Yield names that the input lacks. A capitalized word counts if it is not English, or if it stands alone."""
    source = added.other
    rare = _is_rare if source.is_english else _never
    for name in filter(added.is_alone, find_names(added.text.text, source.written, rare)):
        if name.form in ("formed", "acronym"):
            known = source.has_longer(name.letters) or source.has_ending(name.letters)
        elif source.has_form(name.letters) or source.has_spelling(name.letters):
            known = True
        elif source.is_english:
            known = name.is_ordinary
        else:
            known = has_nouns or source.has_capitalized_nouns or not _stands_alone(name, added.text.text)
        if not known:
            yield name


def _find_replaced(lost: _Side, added: _Side, has_nouns: bool) -> Iterator[tuple[WrittenName, WrittenName]]:
    """Yield each added name with the lost name that it replaces, unless the two are forms of the same word."""
    gone = [*lost.changed, *(name for name in lost.all_exact if name.written.casefold() not in added.text.folded)]
    new = list(added.named)
    if gone and lost.is_english:
        new += added.initial
    elif new and added.is_english:
        gone += lost.initial
    if has_nouns:
        new = [name for name in new if name.form == "formed"]
        gone = [name for name in gone if name.form in ("formed", "exact")]
    pairs: dict[WrittenName, list[WrittenName]] = {}
    for name in new:
        if (places := [old for old in gone if _is_there(old, name, lost, added)]) and _is_new(name, lost, added):
            pairs[name] = [old for old in places if _is_gone(old, name, lost, added)]
    if not added.is_english:  # several names in a row are a translated title
        pairs = {name: olds for name, olds in pairs.items() if not any(_adjoin(name, other) for other in pairs)}
    yield from ((name, pairs[name][-1]) for name in _find_first(name for name, olds in pairs.items() if olds))


def _is_there(old: WrittenName, new: WrittenName, lost: _Side, added: _Side) -> bool:
    """Return True if one name has about the place of the other, and both seem to be names."""
    length = max(len(lost.text.text), len(added.text.text))
    distance = abs(old.place - new.place) * length
    if distance > min(max(_NEAR * length, _NEAR_LEAST), _NEAR_MOST):
        return False
    if not lost.is_english and not added.is_english:
        return True
    (own, its), (foreign, others) = ((old, lost), (new, added)) if lost.is_english else ((new, added), (old, lost))
    if own.is_ordinary and not _stands_as_name(old, new, lost, added):
        return False
    if foreign.form != "initial" or own.form == "exact":
        return foreign.form != "initial" or distance <= _NEAR_BEGINNING
    return (
        distance <= _NEAR_BEGINNING
        and its.begins_sentence(own)
        and its.names_a_subject(own)
        and others.names_a_subject(foreign)
    )


def _stands_as_name(old: WrittenName, new: WrittenName, lost: _Side, added: _Side) -> bool:
    """Return True if an ordinary English word and its counterpart seem to be names, not parts of titles."""
    foreign = new if lost.is_english else old
    if foreign.is_capitalized and not (
        foreign.form == "capital" and _stands_alone(old, lost.text.text) and _stands_alone(new, added.text.text)
    ):
        return False
    return lost.is_english or (lost.is_alone(old) and not added.text.spells_out(old.letters))


def _is_new(name: WrittenName, lost: _Side, added: _Side) -> bool:
    """Return True if the input has no form of the name, and does not spell it out."""
    if not added.is_alone(name) or added.is_known(name):
        return False
    return name.form != "acronym" or not lost.text.spells_out(name.letters)


def _is_gone(old: WrittenName, new: WrittenName, lost: _Side, added: _Side) -> bool:
    """Return True if the output has no form of the old name. If it is left elsewhere, the new name must be near."""
    if old.form != "exact":
        if lost.is_known(old):
            return False
        length = max(len(lost.text.text), len(added.text.text))
        kept = not lost.is_alone(old)
        if kept and ("initial" in (old.form, new.form) or abs(old.place - new.place) * length > _NEAR_LEAST):
            return False
    if old.letters in new.letters or new.letters in old.letters or are_alike(old.letters, new.letters):
        return False
    places = place_names(lost.language) | place_names(added.language)
    return not {old.letters, new.letters} <= places


def _is_rare(word: str) -> bool:
    return not is_ordinary(word.lower())


def _never(_word: str) -> bool:
    return False


def _find_first(names: Iterable[WrittenName]) -> list[WrittenName]:
    """Return the first name of each spelling, in their order."""
    firsts: dict[str, WrittenName] = {}
    for name in names:
        firsts.setdefault(name.written, name)
    return list(firsts.values())


def _stands_alone(name: WrittenName, text: str) -> bool:
    """Return True for a capitalized word in a sentence without capitalized neighbors: these often make a title."""
    beside = (
        _WORD_BEFORE.search(text, max(0, name.start - _LONGEST_BESIDE), name.start),
        _WORD_AFTER.match(text, name.end),
    )
    return name.form == "capital" and not any(match is not None and match[1].isupper() for match in beside)


def _adjoin(name: WrittenName, other: WrittenName) -> bool:
    return other.start - name.end == 1 or name.start - other.end == 1


def _report_invented(name: WrittenName) -> Finding:
    return Finding(FLAG, f"{quoted(name.written)} is not in the input.", name.start, name.end)


NAMES_CHANGED = Check(FLAG, "names, addresses, code or placeholders were lost, invented or replaced", find)
# Names that no translation changes.
_EXACT = re.compile(
    r"(?:https?|ftp|git|ssh)://[^\s<>\"'()\[\]{}«»]+|www\.[^\s<>\"'()\[\]{}«»]+"  # web addresses
    r"|(?<![\w.+-])[\w.+-]++@[\w-]+(?:\.[\w-]+)+"  # mail addresses
    r"|\{\{?\w*\}?\}|%(?:\(\w+\))?[sd]\b|\$\{?\w+\}?"  # placeholders
    r"|(?<![\w-])--[a-z][\w-]*"  # options
    r"|(?<![\w/.:+-])~?/(?:[\w.+-]+/)+[\w.+-]*\w"  # paths
    r"|\b[a-zA-Z]\w*_\w+\b"  # identifiers
)
# Every exact name has one of these signs and no white space.
_SIGNS = ("/", "@", "{", "%", "$", "_", "www", "--")
_SIGNED = re.compile(r"(?<!\S)(?=\S*?(?:[/@{%$_]|www|--))\S++")
# Names with an inner capital letter, or with letters before digits, except versions and units.
_FORMED = r"(?!v\d+\b|\d*[kKMGT]i?(?:Hz|[BbWVF])\b|\d+[a-zµ]{0,2}[A-Z][a-z]?\b)(?:\w*[a-z][A-Z]\w*|[A-Za-z]+\d\w*)\b"
# Words that may be names: in capital letters, or capitalized inside a sentence. French has d'Alembert.
_ACRONYM = r"(?<![A-Z] )\b[A-Z]{3,}\b(?! [A-Z]{2})"
_CAPITAL = r"(?:(?<=[\w,;][ \u00a0\u202f])|(?<=\w['’])|(?<=[(/-]))[A-Z][a-z]{3,}\b"
_INSIDE = re.compile(rf"{_ACRONYM}|{_CAPITAL}")
_NAMED = re.compile(
    rf"(?P<formed>{_FORMED})|(?P<acronym>{_ACRONYM})|(?P<capital>{_CAPITAL})|\b[A-Z](?:[a-z]{{3,}}|[A-Z]{{2,}})\b"
)
# The part of a name from its first capital letter or digit. Every name has one.
_MARKED = re.compile(r"[A-Z\d]\w*+")
_PART = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_SCHEME = re.compile(r"(?:\w+://)?(?:www\.)?")
_NOT_LETTERS = re.compile(r"[\W_]+")
_ALIKE, _ALIKE_BUT_BEGINNING = 0.65, 0.85
_BEGINNING = 5
_LONG, _SHORT = 4, 3
# If a larger share of all words is capitalized, nouns are.
_MOST_CAPITALS = 0.15


# From the surest to the least sure.
NameForm: TypeAlias = Literal["exact", "formed", "acronym", "capital", "initial"]


@dataclass(frozen=True)
class WrittenName:
    """A name as written, with its offset in its text. ``place`` is the offset as a share of the text's length.

    An initial name may begin a sentence, or have capital letters for emphasis.
    """

    written: str
    start: int
    place: float
    form: NameForm

    @property
    def end(self) -> int:
        return self.start + len(self.written)

    @property
    def stem(self) -> str:
        """The letters without a version number at their end, such as in GTK2."""
        return self.letters.rstrip("0123456789") or self.letters

    @property
    def has_digit(self) -> bool:
        return any(map(str.isdigit, self.written))

    @property
    def is_capitalized(self) -> bool:
        """True for a name that may be an ordinary word with a capital letter."""
        return self.form in ("capital", "initial") and not self.written.isupper()

    @property
    def is_ordinary(self) -> bool:
        """True for an ordinary English word with a capital letter, or in capital letters."""
        return self.form in ("capital", "initial") and is_ordinary(self.written.lower())

    @cached_property
    def letters(self) -> str:
        return _letters(_SCHEME.sub("", self.written, count=1))

    @cached_property
    def parts(self) -> list[str]:
        """The words of a compound in lower case, such as style and sheets of StyleSheets."""
        return [part.lower() for part in _PART.findall(self.written)]


@dataclass(frozen=True)
class Text:
    """A text in which names are looked up, by letters and digits, and by words."""

    text: str

    @cached_property
    def folded(self) -> str:
        return self.text.casefold()

    @cached_property
    def letters(self) -> str:
        return _letters(self.text)

    @cached_property
    def words(self) -> frozenset[str]:
        return frozenset(folded(self.text))

    @cached_property
    def letters_of_words(self) -> frozenset[str]:
        return frozenset(map(_letters, self.words))

    @cached_property
    def written(self) -> frozenset[str]:
        return frozenset(words(self.text))

    @cached_property
    def has_capitalized_nouns(self) -> bool:
        """True if nouns seem to be capitalized, as in German, since many words inside sentences are."""
        return len(_INSIDE.findall(self.text)) > _MOST_CAPITALS * len(words(self.text))

    @cached_property
    def is_english(self) -> bool:
        """True if most of the lower-case words are ordinary English words."""
        small = [word for word in words(self.text) if word.islower() and word.isalpha() and len(word) > 2]
        known = _read_words()
        return len(small) >= _LEAST_WORDS and sum(word in known for word in small) >= _MOSTLY * len(small)

    def has_small(self, name: WrittenName) -> bool:
        """Return True for a capitalized word that the text also has in lower case: it is no name."""
        return name.written.lower() in self.written

    def has(self, name: str) -> bool:
        """Return True if the text has a name. A long name may be a part of a word, or several words."""
        singular = name.removesuffix("s")
        if len(name) >= _LONG:
            return singular in self.folded or singular in self.letters
        return not self.words.isdisjoint({name, singular, f"{singular}s"}) or name in self.letters_of_words

    @cached_property
    def initials(self) -> str:
        """The first letters of all long or capitalized words."""
        return "".join(word[0] for word in words(self.text) if len(word) > _SHORT or word[0].isupper()).casefold()

    def has_longer(self, name: str) -> bool:
        """Return True if a word of the text begins with the name, such as md5sums with md5."""
        return any(word.startswith(name) for word in self.words)

    def has_shorter(self, name: str) -> bool:
        """Return True if the name begins with a word of the text that has a digit, such as md5sums with md5."""
        return any(len(word) >= _SHORT and name.startswith(word) and not word.isalpha() for word in self.words)

    def has_ending(self, name: str) -> bool:
        """Return True if a word of the text ends with the name, such as uDNS with DNS."""
        return any(word.endswith(name) for word in self.words)

    def has_anagram(self, name: str) -> bool:
        """Return True if a word of the text has the letters of the name in another order, as ADN and DNA."""
        return any(len(word) == len(name) and sorted(word) == sorted(name) for word in self.words)

    def spells_out(self, acronym: str) -> bool:
        """Return True if words with the initials of the acronym follow one another, in this order or backwards."""
        return acronym in self.initials or acronym[::-1] in self.initials

    def has_spelling(self, name: str) -> bool:
        """Return True if the text has the name in another language's spelling."""
        return not self.words.isdisjoint(_SPELLINGS.get(name, ()))

    def has_form(self, name: str, alike: float = _ALIKE) -> bool:
        """Return True if a word of the text is a form of the name."""
        if len(name) < _BEGINNING:
            return any(are_alike(name, word) for word in self.words if len(word) == len(name))
        near = name[:2]
        return any(
            are_alike(name, word, alike)
            for word in self.words
            if len(word) >= _BEGINNING and (word[0] in near or name[0] in word[:2] or len(word) == len(name))
        )


def find_exact_names(text: str) -> Iterator[WrittenName]:
    """Yield addresses, paths, options, placeholders and identifiers."""
    for stretch in _SIGNED.finditer(text) if any(sign in text for sign in _SIGNS) else ():
        for match in _EXACT.finditer(text, *stretch.span()):
            yield _name(match, "exact")


def find_names(text: str, besides: Container[str], initial: Callable[[str], bool]) -> Iterator[WrittenName]:
    """Yield names of the other forms, except those in ``besides``. They may be ordinary words.

    ``initial`` returns True for the words to yield that may begin a sentence.
    """
    for marked in _MARKED.finditer(text):
        start = _beginning(text, marked)
        if text[start : marked.end()] in besides or (match := _NAMED.match(text, start)) is None:
            continue
        if (match.lastgroup is not None or initial(match[0])) and match[0] not in EMPHASIS:
            yield _name(match, cast("NameForm", match.lastgroup or "initial"))


def are_alike(name: str, other: str, alike: float = _ALIKE) -> bool:
    """Return True for forms of a name: in another order (DNA, ADN), with the same beginning or most letters."""
    lengths = sorted((len(name), len(other)))
    if lengths[0] < _BEGINNING:
        return len(name) == len(other) and sorted(name) == sorted(other)
    if name[:_BEGINNING] == other[:_BEGINNING] or (len(name) == len(other) and sorted(name) == sorted(other)):
        return True
    if lengths[0] <= alike * lengths[1]:
        return False
    if name[0] not in other[:2] and other[0] not in name[:2]:
        alike = max(alike, _ALIKE_BUT_BEGINNING)
    if 2 * sum(min(name.count(each), other.count(each)) for each in set(name)) < alike * (len(name) + len(other)):
        return False  # whatever their order
    return SequenceMatcher(None, name, other, autojunk=False).ratio() >= alike


def _beginning(text: str, marked: re.Match[str]) -> int:
    """Return the start of the word around a match."""
    start = marked.start()
    while start and (text[start - 1].isalnum() or text[start - 1] == "_"):
        start -= 1
    return start


def _name(match: re.Match[str], form: NameForm) -> WrittenName:
    return WrittenName(match.group().rstrip(".,;:!?"), match.start(), match.start() / len(match.string), form)


def _letters(text: str) -> str:
    return text.casefold() if text.isalnum() else _NOT_LETTERS.sub("", text).casefold()


# Ordinary words that texts emphasize in capital letters, and the marks of translators' notes.
_EMPHASIS = """
NOT PAS AND NOTE NOTA REMARQUE WARNING AVERTISSEMENT ATTENTION AVISO ADVERTENCIA IMPORTANT IMPORTANTE ONLY MUST ALL
ANY THE YOU ARE THIS NON SIN NICHT NUR CAUTION TODO NdT NDT
"""
EMPHASIS = frozenset(_EMPHASIS.split())
# Acronyms, places and words that are often written as names, in English, French and Spanish.
_SAME = """
rna arn|rrna arnr rarn|mrna arnm|microrna microarn|dna adn|cad cao|cam fao|rgb rvb|cmyk cmjn|hsl tsl|hsv tsv
dbms rdbms sgbd sgbdr|isp fai|rpn npi|pstn rtc|rsi tms|dem mnt|led del|fft tfr fourier|vat tva iva|gdp pib|nato otan
imf fmi|wto omc|ngo ong|usa eua unis unidos|mri irm rmn|aids sida|ufo ovni|gis sig|ict tic|sme pme pyme
api ipa|ceo pdg|earth terre tierra|moon lune luna|sun soleil sol|mars marte|london londres|warsaw varsovie varsovia
antwerp anvers amberes|moscow moscou moscu|vienna vienne viena|geneva geneve ginebra|athens athenes atenas
lisbon lisbonne lisboa|brussels bruxelles bruselas|munich munchen|florence firenze florencia|venice venise venecia
seville sevilla|mecca mecque meca|help aide ayuda|tools outils herramientas|bank banque banco|real reel
file files fichier fichiers archivo archivos|free libre|hell enfer infierno|north nord norte|south sud sur|west ouest
ups sai|buddha bouddha buda|library bibliotheque biblioteca|type tipo|mode modo|device dispositif dispositivo
layer couche capa|gui graphique grafica gráfica|cpu processeur procesador|daw stan|hmm mmc|mcad cmao
ngc cgn|iot internet|uom mesure medida|dfsg debian|peak crete pico|milky voie lactea láctea|lady dame dama
viewer visor visionneur
i18n internationalisation internationalization internacionalizacion internacionalización
l10n localisation localization localizacion localización|p2p pair
unit units unite unites unidad unidades|open ouvert abierto|title titre titulo|entity entite entidad
unices unix|source sources fuente logiciel|home accueil inicio|right droite derecha|kingdom royaume reino
"""
_GROUPS = [frozenset(group.split()) for group in re.split(r"[|\n]", _SAME.strip())]
_SPELLINGS = {word: group for group in _GROUPS for word in group}
_WORD = re.compile(r"[^\W\d_]{3,}")


@cache
def counterparts(source: str | None, target: str | None) -> Mapping[str, frozenset[str]]:
    """Return the words of two languages for the same places, languages, months and days, by each other's words."""
    words: dict[str, set[str]] = {}
    own, other = _words_of_names(source), _words_of_names(target)
    for key in own.keys() & other.keys():
        for these, others in ((own[key], other[key]), (other[key], own[key])):
            for word in these:
                words.setdefault(word, set()).update(others)
    return {word: frozenset(others) for word, others in words.items()}


@cache
def place_names(language: str | None) -> frozenset[str]:
    """Return the words in a language's names of places, languages, months and days, in lower case.

    For an unknown language, these are English, French and Spanish names.
    """
    codes = (language,) if language else ("en", "fr", "es")
    return frozenset().union(*(words for code in codes for words in _words_of_names(code).values()))


@cache
def _words_of_names(language: str | None) -> Mapping[tuple[str, str], frozenset[str]]:
    """Return the words in Babel's names for a language, by the kind of name and its code; {} for None."""
    from babel import Locale, UnknownLocaleError

    try:
        locale = Locale.parse(language or "")
    except (UnknownLocaleError, ValueError):
        return {}
    named = {
        "places": locale.territories,
        "languages": locale.languages,
        "months": locale.months["format"]["wide"],
        "days": locale.days["format"]["wide"],
    }
    return {(kind, str(code)): _words(name) for kind, names in named.items() for code, name in names.items()}


def _words(name: str) -> frozenset[str]:
    folded = "".join(
        character for character in unicodedata.normalize("NFKD", name) if not unicodedata.combining(character)
    )
    return frozenset((*_WORD.findall(name.casefold()), *_WORD.findall(folded.casefold())))


WORDS = Path(__file__).with_name("english_words.txt")
# The endings of a word's forms, and the letters that replace them in the word.
_ENDINGS = (("s", ""), ("es", ""), ("ies", "y"), ("ed", ""), ("ed", "e"), ("ing", ""), ("ing", "e"), ("ly", ""))
_MOSTLY = 0.6
_LEAST_WORDS = 5


def is_ordinary(word: str) -> bool:
    """Return True for an ordinary English word in lower case, or a regular form of such a word."""
    known = _read_words()
    return word in known or any(
        word.endswith(ending) and word.removesuffix(ending) + instead in known for ending, instead in _ENDINGS
    )


@cache
def _read_words() -> frozenset[str]:
    return frozenset(WORDS.read_text(encoding="utf-8").split())
