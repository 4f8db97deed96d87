"""Measure which values the patterns of redact find. Faker makes the values, and other projects' data surrounds them.

The sentences are templates of presidio-evaluator. The domain endings are the list in linkify-it-py. The telephone
numbers are libphonenumber's examples for every region. Brackets, quotation marks and punctuation are those of all of
Unicode. Only the surroundings of Markdown, of code and of scripts without spaces are written in this file. Two
packages need no installation: download them with `pip download --no-deps presidio-evaluator linkify-it-py`, and pass
their folder as ``--packages``.

The results file keeps the results of other versions of the patterns. So a run with PYTHONPATH on an older tree adds
the results of that tree.
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
# The kind of each placeholder in the templates of presidio-evaluator.
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
# Methods of Faker whose values are of no kind. Some look similar to a kind.
OTHERS = (
    "address", "bban", "catch_phrase", "color", "company", "date", "date_time", "ean13", "ean8", "file_path",
    "isbn10", "isbn13", "iso8601", "job", "latitude", "license_plate", "mac_address", "md5", "name", "pricetag",
    "sentence", "sha1", "ssn", "swift", "time", "unix_time", "user_agent", "user_name", "uuid4", "vin",
)  # fmt: skip

Surrounding: TypeAlias = tuple[str, str]
# Numbers of texts: all, those where the whole value was found, and those where exactly the value was found.
Counts: TypeAlias = list[int]


@dataclass(frozen=True)
class Corpus:
    """Generators of values, sentences by the kind of value that they need (None: no kind), and domain endings."""

    fakes: Sequence[Faker]
    sentences: Mapping[str | None, Sequence[str]]
    endings: Sequence[str]
    chance: random.Random

    def fill(self, sentence: str) -> str:
        """Return a template with values in its other placeholders."""
        fake = self.chance.choice(self.fakes)
        return re.sub(
            r"\{\{(\w+)\}\}",
            lambda match: str(getattr(fake, match[1], fake.last_name)()).replace("\n", " "),
            sentence,
        )

    def draw(self) -> Faker:
        """Return the generator of a random locale."""
        return self.chance.choice(self.fakes)


def read_corpus(packages: Path | None, seed: int) -> Corpus:
    """Return the corpus of a seed. The packages in a folder provide sentences and endings, if there is a folder."""
    fakes = [Faker(locale) for locale in LOCALES]
    for number, fake in enumerate(fakes):
        fake.seed_instance(seed + number)
    sentences: dict[str | None, list[str]] = {None: ["It is {{last_name}}."]}
    sentences |= {kind: [f"It is {{{{{name}}}}}."] for name, kind in PLACEHOLDERS.items()}
    endings: Sequence[str] = ENDINGS
    if packages is not None:
        lines = _read_member(packages, "presidio_evaluator-*.whl", "templates.txt").splitlines()
        for line in filter(str.strip, lines):
            kinds = {PLACEHOLDERS[name] for name in re.findall(r"\{\{(\w+)\}\}", line) if name in PLACEHOLDERS}
            for kind in kinds or (None,):
                sentences[kind].append(line.replace("\\n", "\n"))
        endings = re.findall(r'"([^"\s]+)"', _read_member(packages, "linkify_it_py-*.whl", "linkify_it/tlds.py"))
    return Corpus(fakes, sentences, endings, random.Random(seed))


def _read_member(folder: Path, package: str, name: str) -> str:
    """Return the text of the file in a package whose path ends with `name`."""
    (path,) = folder.glob(package)
    with zipfile.ZipFile(path) as archive:
        (member,) = (member for member in archive.namelist() if member.endswith(name))
        return archive.read(member).decode(errors="replace")


def list_surroundings(corpus: Corpus, kind: str) -> dict[str, list[Surrounding]]:
    """Return the surroundings of a kind by group. Each is the text before a value and the text after it."""

    def split(templates: Sequence[str], field: str = "{}") -> list[Surrounding]:
        return [(text[: text.index(field)], text[text.index(field) + len(field) :]) for text in templates]

    placeholder = next(name for name, its_kind in PLACEHOLDERS.items() if its_kind == kind)
    ascii_marks = [*((mark, "") for mark in string.punctuation), *(("", mark) for mark in string.punctuation)]
    ascii_marks += [(mark, mark) for mark in string.punctuation]
    marks = [chr(code) for code in range(0x80, 0x10000) if unicodedata.category(chr(code))[0] == "P"]
    pairs = [
        (mark, chr(ord(mark) + 1))
        for mark in (*"([{<", *marks)
        if unicodedata.category(mark) in {"Ps", "Pi"} and unicodedata.category(chr(ord(mark) + 1)) in {"Pe", "Pf"}
    ]
    unpaired = [mark for mark in marks if unicodedata.category(mark) in {"Po", "Pd"}]
    unicode_marks = [*((mark, "") for mark in unpaired), *(("", mark) for mark in unpaired)]
    return {
        "sentences": split(corpus.sentences[kind], f"{{{{{placeholder}}}}}"),
        "ASCII punctuation": ascii_marks,
        "Unicode's brackets and quotes": pairs,
        "Unicode's other punctuation": unicode_marks,
        "Markdown": split(MARKDOWN),
        "code and data": split(CODE),
        "scripts without spaces": split(WITHOUT_SPACES),
    }


def _group_digits(number: str, separator: str, size: int = 4) -> str:
    return separator.join(number[start : start + size] for start in range(0, len(number), size))


def _make_email(corpus: Corpus, local: str | None = None, host: str | None = None) -> str:
    fake = corpus.draw()
    return f"{local or fake.ascii_email().split('@')[0]}@{host or fake.ascii_safe_email().split('@')[1]}"


def _to_word(text: str) -> str:
    """Return the letters and digits of a text, in lower case."""
    return re.sub(r"[\W_]", "", text).lower() or "x"


def _make_host(corpus: Corpus) -> str:
    return f"{corpus.draw().domain_word()}.{corpus.chance.choice(corpus.endings)}"


def _make_native_host(corpus: Corpus) -> str:
    """Return a domain with letters of the locale's language."""
    return f"{_to_word(corpus.draw().last_name())}.{corpus.chance.choice(('com', 'de', 'org'))}"


def _make_iban(corpus: Corpus) -> str:
    """Return a valid IBAN. For some countries, Faker's are too short."""
    while not iban.is_valid(number := corpus.draw().iban(), check_country=False):
        pass
    return str(number)


def _make_card(corpus: Corpus) -> str:
    return str(corpus.draw().credit_card_number())


def _make_phone(corpus: Corpus, form: int) -> str:
    """Return an example number of a random region, in a form of libphonenumber."""
    region = corpus.chance.choice(sorted(phonenumbers.SUPPORTED_REGIONS))
    number = phonenumbers.example_number(region)
    assert number is not None
    return str(phonenumbers.format_number(number, form))


def _make_international_phone(corpus: Corpus) -> str:
    return _make_phone(corpus, PhoneNumberFormat.INTERNATIONAL)


def _make_ipv6(corpus: Corpus) -> ipaddress.IPv6Address:
    """Return an address, half of the time with 64 zero bits, which its short form omits."""
    address = ipaddress.IPv6Address(corpus.draw().ipv6())
    if corpus.chance.random() < 0.5:
        return ipaddress.IPv6Address(int(address) & ~(((1 << 64) - 1) << 16))
    return address


FORMS: Mapping[str, Mapping[str, Callable[[Corpus], str]]] = {
    "email": {
        "as Faker writes it": lambda corpus: corpus.draw().email(),
        "any ending": lambda corpus: _make_email(corpus, host=_make_host(corpus)),
        "+tag": lambda corpus: _make_email(corpus, f"{corpus.draw().user_name()}+{_to_word(corpus.draw().word())}"),
        "o'neil": lambda corpus: _make_email(corpus, local=f"o'{corpus.draw().ascii_email().split('@')[0]}"),
        "letters of the language": lambda corpus: _make_email(corpus, local=_to_word(corpus.draw().last_name())),
        "domain in the language": lambda corpus: _make_email(corpus, host=_make_native_host(corpus)),
        "CAPITALS": lambda corpus: corpus.draw().email().upper(),
        "%40": lambda corpus: corpus.draw().email().replace("@", "%40"),
    },
    "url": {
        "as Faker writes it": lambda corpus: corpus.draw().url(),
        "any ending": lambda corpus: f"https://{_make_host(corpus)}/{corpus.draw().uri_path()}",
        "www.": lambda corpus: f"www.{_make_host(corpus)}/{corpus.draw().uri_page()}",
        "query and fragment": lambda corpus: f"{corpus.draw().uri()}?q={corpus.draw().user_name()}&n=1#top",
        "port and user": lambda corpus: f"http://{corpus.draw().user_name()}:x@{_make_host(corpus)}:8080/",
        "domain in the language": lambda corpus: f"https://{_make_native_host(corpus)}/{corpus.draw().uri_page()}",
        "path in the language": lambda corpus: f"https://{_make_host(corpus)}/{_to_word(corpus.draw().last_name())}",
        "another scheme": lambda corpus: f"{corpus.chance.choice(('ftp', 'ssh', 's3'))}://{_make_host(corpus)}/x",
    },
    "ip": {
        "IPv4": lambda corpus: corpus.draw().ipv4(),
        "IPv6": lambda corpus: corpus.draw().ipv6(),
        "IPv6, short": lambda corpus: str(_make_ipv6(corpus)),
        "IPv6, long": lambda corpus: _make_ipv6(corpus).exploded.upper(),
    },
    "iban": {
        "in one": _make_iban,
        "spaces": lambda corpus: _group_digits(_make_iban(corpus), " "),
        "no-break spaces": lambda corpus: _group_digits(_make_iban(corpus), "\u00a0"),
        "dots": lambda corpus: _group_digits(_make_iban(corpus), "."),
        "dashes": lambda corpus: _group_digits(_make_iban(corpus), "-"),
        "ends of lines": lambda corpus: _group_digits(_make_iban(corpus), "\n", 12),
        "small letters": lambda corpus: _make_iban(corpus).lower(),
    },
    "card": {
        "in one": _make_card,
        "spaces": lambda corpus: _group_digits(_make_card(corpus), " "),
        "no-break spaces": lambda corpus: _group_digits(_make_card(corpus), "\u00a0"),
        "dots": lambda corpus: _group_digits(_make_card(corpus), "."),
        "dashes": lambda corpus: _group_digits(_make_card(corpus), "-"),
        "ends of lines": lambda corpus: _group_digits(_make_card(corpus), "\n", 8),
    },
    "phone": {
        "+49 30 …": _make_international_phone,
        "+4930…": lambda corpus: _make_phone(corpus, PhoneNumberFormat.E164),
        "0049 30 …": lambda corpus: _make_international_phone(corpus).replace("+", "00"),
        "(+49) 30 …": lambda corpus: re.sub(r"(\+\d+)", r"(\1)", _make_international_phone(corpus), count=1),
        "+49 (0) 30 …": lambda corpus: _make_international_phone(corpus).replace(" ", " (0) ", 1),
        "+49.30.…": lambda corpus: _make_international_phone(corpus).replace(" ", ".").replace("-", "."),
        "+49/30/…": lambda corpus: _make_international_phone(corpus).replace(" ", "/"),
        "+49-30-…": lambda corpus: _make_international_phone(corpus).replace(" ", "-"),
    },
}


def measure(
    corpus: Corpus, texts: int, kinds: Collection[str] = tuple(FORMS)
) -> dict[str, dict[str, dict[str, Counts]]]:
    """Return the counts of each kind by group of surroundings and by form. Each has `texts` texts."""
    counts: dict[str, dict[str, dict[str, Counts]]] = {}
    for kind in kinds:
        for group, contexts in list_surroundings(corpus, kind).items():
            for form, make in FORMS[kind].items():
                of_form = counts.setdefault(kind, {}).setdefault(group, {}).setdefault(form, [0, 0, 0])
                for number in range(texts):
                    # The surroundings take turns, and each form begins with another.
                    surrounding = contexts[(number + len(counts[kind][group]) * texts) % len(contexts)]
                    before, after = map(corpus.fill, surrounding)
                    value = make(corpus)
                    places = {(start, end) for _, start, end in patterns.find(f"{before}{value}{after}", [kind])}
                    expected = range(len(before), len(before) + len(value))
                    covered = {position for start, end in places for position in range(start, end)}
                    of_form[0] += 1
                    of_form[1] += covered.issuperset(expected)
                    of_form[2] += (expected.start, expected.stop) in places
    return counts


def false_alarms(corpus: Corpus, texts: int) -> dict[str, dict[str, int]]:
    """Return, for each kind, how many texts of each sort have a false finding. ``texts`` counts all texts."""
    counts: dict[str, dict[str, int]] = {kind: {} for kind in ("texts", *patterns.PATTERNS)}
    for sort, text in _make_others(corpus, texts):
        counts["texts"][sort] = counts["texts"].get(sort, 0) + 1
        for kind in {label.lower() for label, _, _ in patterns.find(text, patterns.PATTERNS)}:
            counts[kind][sort] = counts[kind].get(sort, 0) + 1
    return counts


def _make_others(corpus: Corpus, texts: int) -> Iterator[tuple[str, str]]:
    """Yield `texts` texts of each sort, as (sort, text). They contain no value of any kind."""
    for number in range(texts):
        sentences = corpus.sentences[None]
        yield "sentences", corpus.fill(sentences[number % len(sentences)])
        for method in OTHERS:
            fake = corpus.draw()
            yield method, f"{fake.word()} {getattr(fake, method, fake.name)()} {fake.word()}"


def _format_percent(part: int, whole: int, places: int) -> str:
    """Return a part in percent, rounded down, so that only the whole gives 100."""
    return f"{math.floor(Fraction(100 * part * 10**places, whole)) / 10**places:.{places}f}"


def format_tables(results: Mapping[str, Any]) -> list[str]:
    """Return the tables of a results file. Arrows lead from the oldest version of the patterns to the newest."""
    versions = sorted(results, key=int)
    newest = results[versions[-1]]["found"]

    def format_share(
        kind: str, index: int, group: str | None = None, form: str | None = None, places: int = 1
    ) -> str:
        shares = []
        for version in versions:
            rows = [
                counts
                for its_group, forms in results[version]["found"][kind].items()
                for its_form, counts in forms.items()
                if group in {None, its_group} and form in {None, its_form}
            ]
            shares.append(_format_percent(sum(row[index] for row in rows), sum(row[0] for row in rows), places))
        return " → ".join(shares)

    def format_alarms(kind: str) -> str:
        alarms = [results[version]["false alarms"] for version in versions]
        rates = [1000 * sum(counts[kind].values()) / sum(counts["texts"].values()) for counts in alarms]
        return " → ".join(f"{rate:.1f}" for rate in rates)

    by_kind = ["| kind | texts | found in whole, % | exactly, % | false alarms in 1,000 texts |"]
    by_kind += ["| --- | --: | --: | --: | --: |"]
    by_group = [f"| found in whole, % | {' | '.join(FORMS)} |", f"| --- {'| --: ' * len(FORMS)}|"]
    by_form = ["| kind | form | found in whole, % | exactly, % |", "| --- | --- | --: | --: |"]
    for kind, forms in FORMS.items():
        texts = sum(counts[0] for by_name in newest[kind].values() for counts in by_name.values())
        whole, exact = format_share(kind, 1), format_share(kind, 2)
        by_kind.append(f"| {kind} | {texts:,} | {whole} | {exact} | {format_alarms(kind)} |")
        for form in forms:
            whole, exact = format_share(kind, 1, form=form), format_share(kind, 2, form=form)
            by_form.append(f"| {kind} | `{form}` | {whole} | {exact} |")
    for group in newest["email"]:
        by_group.append(f"| {group} | {' | '.join(format_share(kind, 1, group, places=0) for kind in FORMS)} |")
    return ["\n".join(table) + "\n" for table in (by_kind, by_group, by_form)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", type=Path, required=True, help="the folder with the wheels of the two packages")
    parser.add_argument("--texts", type=int, default=400, help="texts of each form in each group")
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
    page = "\n".join([f"# redact\n\nPatterns {', then '.join(sorted(results, key=int))}.\n", *format_tables(results)])
    path.with_suffix(".md").write_text(page)
    sys.stdout.write(page)


if __name__ == "__main__":
    main()
