"""Names that languages spell in their own ways: places and dates by Babel, and a few words and acronyms."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from functools import cache

# Ordinary words that texts shout, and the marks of notes by a translator.
_EMPHASIS = """
NOT PAS AND NOTE NOTA REMARQUE WARNING AVERTISSEMENT ATTENTION AVISO ADVERTENCIA IMPORTANT IMPORTANTE ONLY MUST ALL
ANY THE YOU ARE THIS NON SIN NICHT NUR CAUTION TODO NdT NDT
"""
EMPHASIS = frozenset(_EMPHASIS.split())
# Acronyms, places and words that are often written as names: the same in English, French and Spanish.
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


def spellings(name: str) -> frozenset[str]:
    """Return how languages spell a name or acronym, in small letters; nothing for a name that is not listed."""
    return _SPELLINGS.get(name, frozenset())


@cache
def counterparts(source: str | None, target: str | None) -> Mapping[str, frozenset[str]]:
    """Return the other language's words for places, languages, months and days, by those of one, in small letters."""
    found: dict[str, set[str]] = {}
    one, other = _words_of_names(source), _words_of_names(target)
    for key in one.keys() & other.keys():
        for words, others in ((one[key], other[key]), (other[key], one[key])):
            for word in words:
                found.setdefault(word, set()).update(others)
    return {word: frozenset(others) for word, others in found.items()}


@cache
def places(language: str | None) -> frozenset[str]:
    """Return the words in the names of places, languages, months and days as a language has them, in small letters.

    Where the language is not known, these are English, French and Spanish names.
    """
    codes = (language,) if language else ("en", "fr", "es")
    return frozenset().union(*(words for code in codes for words in _words_of_names(code).values()))


@cache
def _words_of_names(language: str | None) -> Mapping[tuple[str, str], frozenset[str]]:
    """Return the words in the names of Babel, by its kinds of names and their codes; nothing for no language."""
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
    folded = "".join(one for one in unicodedata.normalize("NFKD", name) if not unicodedata.combining(one))
    return frozenset((*_WORD.findall(name.casefold()), *_WORD.findall(folded.casefold())))
