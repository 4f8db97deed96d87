"""Measure what the patterns of redact find: values that Faker makes, in surroundings that others wrote.

Sentences are the templates of presidio-evaluator, endings of domains are the list in linkify-it-py, telephone numbers
are libphonenumber's examples for every region, and brackets, quotation marks and punctuation are all of Unicode's.
Only the surroundings of Markdown, of code and of scripts without spaces are written here. `pip download --no-deps
presidio-evaluator linkify-it-py` brings the two packages that are not installed; ``--packages`` is their folder.

The results of other patterns stay in the file, so that a run with PYTHONPATH on an older tree adds what it found.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import math
import random
import re
import string
import sys
import unicodedata
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import phonenumbers
from faker import Faker
from phonenumbers import PhoneNumberFormat
from stdnum import iban

from docmill.tasks import patterns

RESULTS = Path(__file__).parent / "results"
LOCALES = (
    "cs_CZ", "da_DK", "de_AT", "de_DE", "el_GR", "en_GB", "en_IE", "en_IN", "en_US", "es_ES", "fi_FI", "fr_FR",
    "hi_IN", "hu_HU", "it_IT", "ja_JP", "ko_KR", "nl_NL", "pl_PL", "pt_BR", "ru_RU", "sv_SE", "tr_TR", "zh_CN",
)  # fmt: skip
ENDINGS = ("app", "bank", "berlin", "cloud", "de", "dev", "museum", "xn--p1ai", "xyz", "рф", "संगठन", "中国")
# The names that presidio-evaluator's templates have for a kind.
PLACEHOLDERS = {"email": "email", "url": "url", "ip_address": "ip", "iban": "iban", "credit_card_number": "card"} | {
    "phone_number": "phone"
}
MARKDOWN = (
    "**{}**", "*{}*", "_{}_", "__{}__", "***{}***", "~~{}~~", "`{}`", "``{}``", "```\n{}\n```", "<{}>", "[{}]",
    "[{}](x)", "[x]({})", "![x]({})", "[x]: {}", "[^1]: {}", "# {}", "## {} ##", "- {}", "* {}", "1. {}", "> {}",
    ">{}", "| {} |", "|{}|", "- [x] {}", "{}  \nx", "{}\n===", "*x {}*", "**x:** {}", "**x**:{}",
)  # fmt: skip
CODE = (
    '"{}"', "'{}'", '{"x": "{}"}', "{'x':'{}'}", "[\"{}\",1]", 'x="{}"', "x={}", "x = {}", "x: {}", "x:{}",
    "X={};", "a,{},b", "a;{};b", "a\t{}\tb", '"a","{}","b"', "<p>{}</p>", '<a href="{}">x</a>', "<x y='{}'/>",
    "<x>{}<br>",
    "&lt;{}&gt;", "&quot;{}&quot;", "<!-- {} -->", "/* {} */", "// {}", "# {}", "-- {}", "({})", "f({})", 'f("{}")',
    "VALUES ('{}', 1)", '\\"{}\\"', "x -> {}", "x={}&y=1", "${{}}", "%{}%", "{}\\n", "\\n{}\\n", "\r\n{}\r\n",
    "\u00a0{}\u00a0", "\u2028{}\u2028", "x/{}", "{}/x", "a|{}|b",
)  # fmt: skip
WITHOUT_SPACES = (
    "请联系{}谢谢",
    "联系方式：{}。谢谢",
    "連絡先は{}です",
    "{}まで",
    "{}로 연락",
    "ติดต่อ{}ครับ",
    "「{}」",
    "（{}）",
)
# Methods of Faker whose texts have none of the kinds. Some look like them.
OTHERS = (
    "address", "bban", "catch_phrase", "color", "company", "date", "date_time", "ean13", "ean8", "file_path",
    "isbn10", "isbn13", "iso8601", "job", "latitude", "license_plate", "mac_address", "md5", "name", "pricetag",
    "sentence", "sha1", "ssn", "swift", "time", "unix_time", "user_agent", "user_name", "uuid4", "vin",
)  # fmt: skip

Surrounding: TypeAlias = tuple[str, str]
Counts: TypeAlias = list[int]  # texts, of which all of the value was found, and nothing else beside it


@dataclass(frozen=True)
class Corpus:
    """Generators of values, sentences by the kind that they are for (None: for none), and endings of domains."""

    fakes: Sequence[Faker]
    sentences: Mapping[str | None, Sequence[str]]
    endings: Sequence[str]
    chance: random.Random

    def filled(self, sentence: str) -> str:
        """Return a template whose other fields have values."""
        fake = self.chance.choice(self.fakes)
        return re.sub(
            r"\{\{(\w+)\}\}", lambda name: str(getattr(fake, name[1], fake.last_name)()).replace("\n", " "), sentence
        )

    def draw(self) -> Faker:
        return self.chance.choice(self.fakes)


def read_corpus(packages: Path | None, seed: int) -> Corpus:
    """Return the corpus of a seed, with sentences and endings of the packages in a folder."""
    fakes = [Faker(locale) for locale in LOCALES]
    for number, fake in enumerate(fakes):
        fake.seed_instance(seed + number)
    sentences: dict[str | None, list[str]] = {None: ["It is {{last_name}}."]}
    sentences |= {kind: [f"It is {{{{{name}}}}}."] for name, kind in PLACEHOLDERS.items()}
    endings: Sequence[str] = ENDINGS
    if packages is not None:
        lines = _member(packages, "presidio_evaluator-*.whl", "templates.txt").splitlines()
        for line in filter(str.strip, lines):
            kinds = {PLACEHOLDERS[name] for name in re.findall(r"\{\{(\w+)\}\}", line) if name in PLACEHOLDERS}
            for kind in kinds or (None,):
                sentences[kind].append(line.replace("\\n", "\n"))
        endings = re.findall(r'"([^"\s]+)"', _member(packages, "linkify_it_py-*.whl", "linkify_it/tlds.py"))
    return Corpus(fakes, sentences, endings, random.Random(seed))


def _member(folder: Path, package: str, name: str) -> str:
    (path,) = folder.glob(package)
    with zipfile.ZipFile(path) as archive:
        (inside,) = (member for member in archive.namelist() if member.endswith(name))
        return archive.read(inside).decode(errors="replace")


def surroundings(corpus: Corpus, kind: str) -> dict[str, list[Surrounding]]:
    """Return the surroundings of a kind by their group: the text before a value, and the text after it."""

    def halves(written: Sequence[str], field: str = "{}") -> list[Surrounding]:
        return [(one[: one.index(field)], one[one.index(field) + len(field) :]) for one in written]

    field = next(name for name, of in PLACEHOLDERS.items() if of == kind)
    ascii_marks = [*((mark, "") for mark in string.punctuation), *(("", mark) for mark in string.punctuation)]
    ascii_marks += [(mark, mark) for mark in string.punctuation]
    marks = [chr(code) for code in range(0x80, 0x10000) if unicodedata.category(chr(code))[0] == "P"]
    pairs = [
        (mark, chr(ord(mark) + 1))
        for mark in (*"([{<", *marks)
        if unicodedata.category(mark) in {"Ps", "Pi"} and unicodedata.category(chr(ord(mark) + 1)) in {"Pe", "Pf"}
    ]
    lone = [mark for mark in marks if unicodedata.category(mark) in {"Po", "Pd"}]
    alone = [*((mark, "") for mark in lone), *(("", mark) for mark in lone)]
    return {
        "sentences": halves(corpus.sentences[kind], f"{{{{{field}}}}}"),
        "ASCII punctuation": ascii_marks,
        "Unicode's brackets and quotes": pairs,
        "Unicode's other punctuation": alone,
        "Markdown": halves(MARKDOWN),
        "code and data": halves(CODE),
        "scripts without spaces": halves(WITHOUT_SPACES),
    }


def _groups(number: str, between: str, size: int = 4) -> str:
    return between.join(number[at : at + size] for at in range(0, len(number), size))


def _mail(corpus: Corpus, local: str | None = None, host: str | None = None) -> str:
    fake = corpus.draw()
    return f"{local or fake.ascii_email().split('@')[0]}@{host or fake.ascii_safe_email().split('@')[1]}"


def _word(text: str) -> str:
    return re.sub(r"[\W_]", "", text).lower() or "x"


def _host(corpus: Corpus) -> str:
    return f"{corpus.draw().domain_word()}.{corpus.chance.choice(corpus.endings)}"


def _native(corpus: Corpus) -> str:
    return f"{_word(corpus.draw().last_name())}.{corpus.chance.choice(('com', 'de', 'org'))}"


def _iban(corpus: Corpus) -> str:
    """Return an IBAN that may exist: Faker's of some countries are too short."""
    while not iban.is_valid(number := corpus.draw().iban(), check_country=False):
        pass
    return str(number)


def _card(corpus: Corpus) -> str:
    return str(corpus.draw().credit_card_number())


def _example(corpus: Corpus, form: int) -> str:
    region = corpus.chance.choice(sorted(phonenumbers.SUPPORTED_REGIONS))
    number = phonenumbers.example_number(region)
    assert number is not None
    return str(phonenumbers.format_number(number, form))


def _written(corpus: Corpus) -> str:
    return _example(corpus, PhoneNumberFormat.INTERNATIONAL)


def _six(corpus: Corpus) -> ipaddress.IPv6Address:
    whole = ipaddress.IPv6Address(corpus.draw().ipv6())
    return ipaddress.IPv6Address(int(whole) & ~(((1 << 64) - 1) << 16)) if corpus.chance.random() < 0.5 else whole


FORMS: Mapping[str, Mapping[str, Callable[[Corpus], str]]] = {
    "email": {
        "as Faker writes it": lambda corpus: corpus.draw().email(),
        "any ending": lambda corpus: _mail(corpus, host=_host(corpus)),
        "+tag": lambda corpus: _mail(corpus, local=f"{corpus.draw().user_name()}+{_word(corpus.draw().word())}"),
        "o'neil": lambda corpus: _mail(corpus, local=f"o'{corpus.draw().ascii_email().split('@')[0]}"),
        "letters of the language": lambda corpus: _mail(corpus, local=_word(corpus.draw().last_name())),
        "domain in the language": lambda corpus: _mail(corpus, host=_native(corpus)),
        "CAPITALS": lambda corpus: corpus.draw().email().upper(),
        "%40": lambda corpus: corpus.draw().email().replace("@", "%40"),
    },
    "url": {
        "as Faker writes it": lambda corpus: corpus.draw().url(),
        "any ending": lambda corpus: f"https://{_host(corpus)}/{corpus.draw().uri_path()}",
        "www.": lambda corpus: f"www.{_host(corpus)}/{corpus.draw().uri_page()}",
        "query and fragment": lambda corpus: f"{corpus.draw().uri()}?q={corpus.draw().user_name()}&n=1#top",
        "port and user": lambda corpus: f"http://{corpus.draw().user_name()}:x@{_host(corpus)}:8080/",
        "domain in the language": lambda corpus: f"https://{_native(corpus)}/{corpus.draw().uri_page()}",
        "path in the language": lambda corpus: f"https://{_host(corpus)}/{_word(corpus.draw().last_name())}",
        "another scheme": lambda corpus: f"{corpus.chance.choice(('ftp', 'ssh', 's3'))}://{_host(corpus)}/x",
    },
    "ip": {
        "IPv4": lambda corpus: corpus.draw().ipv4(),
        "IPv6": lambda corpus: corpus.draw().ipv6(),
        "IPv6, short": lambda corpus: str(_six(corpus)),
        "IPv6, long": lambda corpus: _six(corpus).exploded.upper(),
    },
    "iban": {
        "in one": _iban,
        "spaces": lambda corpus: _groups(_iban(corpus), " "),
        "no-break spaces": lambda corpus: _groups(_iban(corpus), "\u00a0"),
        "dots": lambda corpus: _groups(_iban(corpus), "."),
        "dashes": lambda corpus: _groups(_iban(corpus), "-"),
        "ends of lines": lambda corpus: _groups(_iban(corpus), "\n", 12),
        "small letters": lambda corpus: _iban(corpus).lower(),
    },
    "card": {
        "in one": _card,
        "spaces": lambda corpus: _groups(_card(corpus), " "),
        "no-break spaces": lambda corpus: _groups(_card(corpus), "\u00a0"),
        "dots": lambda corpus: _groups(_card(corpus), "."),
        "dashes": lambda corpus: _groups(_card(corpus), "-"),
        "ends of lines": lambda corpus: _groups(_card(corpus), "\n", 8),
    },
    "phone": {
        "+49 30 …": _written,
        "+4930…": lambda corpus: _example(corpus, PhoneNumberFormat.E164),
        "0049 30 …": lambda corpus: _written(corpus).replace("+", "00"),
        "(+49) 30 …": lambda corpus: re.sub(r"(\+\d+)", r"(\1)", _written(corpus), count=1),
        "+49 (0) 30 …": lambda corpus: _written(corpus).replace(" ", " (0) ", 1),
        "+49.30.…": lambda corpus: _written(corpus).replace(" ", ".").replace("-", "."),
        "+49/30/…": lambda corpus: _written(corpus).replace(" ", "/"),
        "+49-30-…": lambda corpus: _written(corpus).replace(" ", "-"),
    },
}


def measure(
    corpus: Corpus, texts: int, kinds: Collection[str] = tuple(FORMS)
) -> dict[str, dict[str, dict[str, Counts]]]:
    """Return the counts of each kind by surroundings and form, of so many texts each."""
    counts: dict[str, dict[str, dict[str, Counts]]] = {}
    for kind in kinds:
        for group, written in surroundings(corpus, kind).items():
            for form, make in FORMS[kind].items():
                counted = counts.setdefault(kind, {}).setdefault(group, {}).setdefault(form, [0, 0, 0])
                for number in range(texts):
                    # Every surrounding has its turn, and each form begins at another.
                    around = written[(number + len(counts[kind][group]) * texts) % len(written)]
                    before, after = map(corpus.filled, around)
                    value = make(corpus)
                    places = {(start, end) for _, start, end in patterns.find(f"{before}{value}{after}", [kind])}
                    wanted = range(len(before), len(before) + len(value))
                    hidden = {at for start, end in places for at in range(start, end)}
                    counted[0] += 1
                    counted[1] += hidden.issuperset(wanted)
                    counted[2] += (wanted.start, wanted.stop) in places
    return counts


def false_alarms(corpus: Corpus, texts: int) -> dict[str, dict[str, int]]:
    """Return the findings of each kind among as many texts of each sort that have none; ``texts`` counts them."""
    counts: dict[str, dict[str, int]] = {kind: {} for kind in ("texts", *patterns.PATTERNS)}
    for sort, text in _others(corpus, texts):
        counts["texts"][sort] = counts["texts"].get(sort, 0) + 1
        for kind in {label.lower() for label, _, _ in patterns.find(text, patterns.PATTERNS)}:
            counts[kind][sort] = counts[kind].get(sort, 0) + 1
    return counts


def _others(corpus: Corpus, texts: int) -> Iterator[tuple[str, str]]:
    for number in range(texts):
        sentences = corpus.sentences[None]
        yield "sentences", corpus.filled(sentences[number % len(sentences)])
        for method in OTHERS:
            fake = corpus.draw()
            yield method, f"{fake.word()} {getattr(fake, method, fake.name)()} {fake.word()}"


def _floor(part: int, whole: int, places: int) -> str:
    """Return a part in percent, rounded down, so that 100 is all."""
    return f"{math.floor(Fraction(100 * part * 10**places, whole)) / 10**places:.{places}f}"


def tables(results: Mapping[str, Any]) -> list[str]:
    """Return the tables of a results file, in which arrows lead from the oldest patterns to the newest."""
    versions = sorted(results, key=int)
    newest = results[versions[-1]]["found"]

    def percent(kind: str, which: int, group: str | None = None, form: str | None = None, places: int = 1) -> str:
        cells = []
        for version in versions:
            counts = [
                counts
                for one, forms in results[version]["found"][kind].items()
                for name, counts in forms.items()
                if group in {None, one} and form in {None, name}
            ]
            cells.append(_floor(sum(one[which] for one in counts), sum(one[0] for one in counts), places))
        return " → ".join(cells)

    def alarms(kind: str) -> str:
        counts = [results[version]["false alarms"] for version in versions]
        return " → ".join(f"{1000 * sum(one[kind].values()) / sum(one['texts'].values()):.1f}" for one in counts)

    by_kind = ["| kind | texts | found in whole, % | exactly, % | false alarms in 1,000 texts |"]
    by_kind += ["| --- | --: | --: | --: | --: |"]
    by_group = [f"| found in whole, % | {' | '.join(FORMS)} |", f"| --- {'| --: ' * len(FORMS)}|"]
    by_form = ["| kind | form | found in whole, % | exactly, % |", "| --- | --- | --: | --: |"]
    for kind, forms in FORMS.items():
        texts = sum(one[0] for counted in newest[kind].values() for one in counted.values())
        by_kind.append(f"| {kind} | {texts:,} | {percent(kind, 1)} | {percent(kind, 2)} | {alarms(kind)} |")
        by_form += [
            f"| {kind} | `{form}` | {percent(kind, 1, form=form)} | {percent(kind, 2, form=form)} |" for form in forms
        ]
    for group in newest["email"]:
        by_group.append(f"| {group} | {' | '.join(percent(kind, 1, group, places=0) for kind in FORMS)} |")
    return ["\n".join(table) + "\n" for table in (by_kind, by_group, by_form)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", type=Path, required=True, help="folder of the two packages' wheels")
    parser.add_argument("--texts", type=int, default=400, help="texts of each form in each group of surroundings")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    corpus = read_corpus(options.packages, options.seed)
    path = RESULTS / "redact.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    results[str(patterns.VERSION)] = {
        "found": measure(corpus, options.texts),
        "false alarms": false_alarms(corpus, options.texts),
    }
    path.write_text(json.dumps(results, ensure_ascii=False) + "\n")
    page = "\n".join([f"# redact\n\nPatterns {', then '.join(sorted(results, key=int))}.\n", *tables(results)])
    path.with_suffix(".md").write_text(page)
    sys.stdout.write(page)


if __name__ == "__main__":
    main()
