"""Make silver labels of entities, from patterns for fixed forms and the names of packages in the catalogue."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from bench.adapters.corpus import Description

LABELS = ("package", "language", "format", "licence", "url")
# Neither trained on nor scored: the text may be a name or not.
UNSURE = "unsure"

_LANGUAGES = (
    "Ada|Agda|Assembler|AWK|Bash|BASIC|C#|C\\+\\+|Clojure|COBOL|CoffeeScript|Coq|Common Lisp|Crystal|Cython|Dart|"
    "Delphi|Eiffel|Elixir|Emacs Lisp|Elisp|Erlang|F#|Forth|Fortran|GNU R|Golang|Groovy|Guile|Haskell|Haxe|Java|"
    "JavaScript|Julia|Kotlin|Lisp|Lua|Modula-2|Modula-3|Nim|Objective-C|OCaml|Octave|Pascal|Perl|PHP|Prolog|"
    "Python(?: ?[23](?:\\.\\d+)?)?|Raku|Ruby|Rust|Scala|Scheme|Smalltalk|SQL|Standard ML|Swift|Tcl|TypeScript|Vala|"
    "VHDL|Verilog"
)
# Names that are also words count only beside words that show that they are names.
_SHORT_LANGUAGES = (
    r"(?:(?:written|programs?|library|libraries|code|bindings|implemented|programming|functions?) (?:in|for) "
    r"(?:pure |plain |ANSI |portable |the )?|\bpure |\bplain |\bANSI )(C|R|Go|D|S|J)(?![\w+#'-])(?!\.\w)|"
    r"(?<![\w.-])(C|Go|R|D)(?= (?:library|libraries|program|language|programming|compiler|API|code|bindings|"
    r"functions?|preprocessor|implementation|headers?|packages?|interface|source)\b)|"
    r"(?<![\w.-])(C)(?=(?:/| and |, )C\+\+)"
)
_FORMATS = (
    "AAC|AIFF|ASCII|ASF|ASN\\.1|Atom|AVI|AVIF|BibTeX|BMP|BSON|CBOR|CHM|CSV|CUE|DEB|DICOM|DjVu|DocBook|DVI|DXF|"
    "ELF|EPS|EPUB|Exif|FASTA|FASTQ|FITS|FLAC|GeoJSON|GIF|GPX|gzip|H\\.26[45]|HDF5|HEIC|HEIF|HTML5?|iCalendar|INI|"
    "ISO 9660|JPEG(?: ?2000|-XL| XL)?|JSON|KML|LaTeX|Markdown|Matroska|MIDI|MOBI|"
    "MP[34]|MPEG(?:-[1-4])?|MSI|NetCDF|ODF|ODT|"
    "Ogg(?: Vorbis)?|OpenDocument|OpenType|Opus|PCX|PDF|PGN|PNG|PNM|POD|PostScript|PPM|Protobuf|RAR|reStructuredText|"
    "RSS|RTF|SGML|SGF|SGML|SMILES|Speex|SVG|SWF|TAR|tarballs?|TGA|Theora|TIFF|TOML|TrueType|UTF-8|vCard|Vorbis|VRML|"
    "WAV|WebM|WebP|WMA|WMV|WOFF2?|XHTML|XLSX?|XML|XPM|XSLT|YAML|ZIP"
)
_PATTERNS: tuple[tuple[str, str], ...] = (
    ("url", r"(?:https?|ftp|git)://[^\s<>\"'`)\]]*[^\s<>\"'`)\].,;:!?]"),
    ("url", r"(?<![\w/.@-])www\.[\w-]+(?:\.[\w-]+)+(?:/[^\s<>\"'`)\]]*[^\s<>\"'`)\].,;:!?])?"),
    (UNSURE, r"(?<![\w/.-])[a-z][\w.+-]*\([1-9][a-z]{0,2}\)"),
    (UNSURE, r"(?<![\w.])/(?:usr/(?:local/)?)?s?bin/[\w.+-]*\w"),
    (
        UNSURE,
        r"(?:(?<=command )|(?<=program )|(?<=utility )|(?<=running )|(?<=run )|(?<=type ))"
        r"['\"]([a-z][\w.+-]*)(?=['\"])",
    ),
    (UNSURE, r"(?<=['\"])([a-z][\w.+-]*(?: [\w.+/=-]+){0,2})(?=['\"] (?:command|program|utility|tool)\b)"),
    (UNSURE, r"(?<![\w/-])(?:apt(?:-get)? install|dpkg-reconfigure|systemctl \w+|update-\w+) [a-z][\w.+-]*\w"),
    (
        "licence",
        r"(?<![\w-])(?:GNU )?(?:Lesser |Affero |Library )?General Public Licen[sc]e"
        r"(?:,? (?:version |v)?[23](?:\.\d)?)?",
    ),
    ("licence", r"(?<![\w-])(?:GNU )?[LA]?GPL(?:[ -]?v?[23](?:\.\d)?)?(?:\+|(?![\w-]))"),
    (
        "licence",
        r"(?<![\w-])(?:\d-clause |new |modified |simplified )?"
        r"(?:BSD|MIT|MIT/X11|X11|Apache|Artistic|Mozilla Public|ISC|zlib|Boost"
        r"(?: Software)?|Eclipse Public|Python|PHP|Ruby|Academic Free|Common Public|PostgreSQL|LaTeX Project Public|"
        r"SIL Open Font|Open Font|Open Database|Creative Commons(?: [\w-]+){0,3}|Free Documentation|"
        r"GNU Free Documentation)"
        r"(?:[ -](?:style))? [Ll]icen[sc]e(?:,? (?:version |v)?\d(?:\.\d)?)?",
    ),
    (
        "licence",
        r"(?<![\w-])(?:CC[- ]BY(?:-[A-Z]{2})*(?:[ -]\d\.\d)?|CC0|MPL|OFL|GFDL|"
        r"WTFPL|CeCILL(?:-[BC])?|CDDL|LPPL)(?![\w-])",
    ),
    ("format", rf"(?<![\w.-])(?:{_FORMATS})(?![\w+#-])"),
    ("format", r"(?<![\w*])\*?\.(?:[a-z][a-z0-9]{1,4})(?= (?:files?|format|archives?|images?|documents?)\b)"),
    ("format", r"(?<![\w.-])[A-Z][A-Z0-9]{2,4}(?= (?:files?|format|images?)\b)"),
    ("language", rf"(?<![\w.-])(?:{_LANGUAGES})(?![\w+#-])(?! [Ll]icen[sc]e)"),
    (
        "language",
        r"(?<![\w./-])(?:[Jj]ava[Ss]cript|golang|haskell|java|lua|ocaml|perl|php|python[23]?|ruby)(?![\w+#-])",
    ),
    ("language", _SHORT_LANGUAGES),
    ("package", r"(?<![\w:])[A-Z]\w+(?:::[A-Z]\w+)+"),
    (UNSURE, r"(?<=[`'\"])[\w.:+-]+(?: [\w.+/=-]+){0,3}(?=[`'\"])"),
    (UNSURE, r"(?<![\w:])\w+(?:::\w+)+"),
)
_COMPILED = tuple((label, re.compile(pattern)) for label, pattern in _PATTERNS)

_VERBS = (
    "is|are|was|provides|allows|contains|implements|enables|lets|can|offers|aims|supports|helps|makes|uses|consists|"
    "includes|adds|gives|reads|converts|takes|features|works|will|has|does|comes|extends|generates|displays|shows|"
    "manages|performs|checks|creates|handles|runs|tries|stands|parses|defines|wraps|integrates|automatically"
)
SUBJECT = re.compile(
    rf"(?:^|(?<=\n)|(?<=[.!?] )|(?<=\n\n))(?:The )?([\w.:/@'~+#!-]+(?: [\w.:/@'~+#!-]+){{0,3}}?)"
    rf"(?: \([^()]{{1,60}}\))?,? (?=(?:{_VERBS})\b)"
)
_PREFIXES = re.compile(
    r"^(?:lib(?:js-|r-)?|python3?-(?:django-|sphinx-)?|ruby-|golang-(?:[a-z]+-)?|node-|r-(?:cran|bioc|other)-|php-|"
    r"haskell-|fonts-|ttf-|texlive-|gir1\.2-|librust-|elpa-|lua-|cl-|xfonts-|gnome-shell-extension-|"
    r"gstreamer\d?\.?\d?-|pd-|vim-)"
)
_SUFFIXES = re.compile(
    r"(?:-(?:dev|doc|docs|data|common|bin|utils|tools?|perl|java|ruby|cil|el|mode|plugins?|dbg|ocaml|core|base|"
    r"server|client|gtk|qt[56]?|gui|cli|console|extra|examples|all|full|lite|runtime|headers|nox|x11|cran|"
    r"jni|ghc|prof|source)|"
    r"-?v?\d[\w.+]*|t64)$"
)
_NO_NAMES = frozenset({"bluetooth", "debian", "github", "javascript", "linux", "posix", "ubuntu", "unix"})
_WORD = re.compile(r"(?<![\w/.@:+-])[A-Za-z0-9][\w+.-]*[\w+](?![\w/@-])|(?<![\w/.@:+-])[A-Za-z](?![\w/@+-])")


@dataclass(frozen=True)
class Entity:
    """A labelled part of a text. Its label may be UNSURE."""

    label: str
    start: int
    end: int


class Catalogue:
    """Names of packages, and common words that are mostly no names."""

    def __init__(self, ids: Iterable[str], common: Collection[str]) -> None:
        """Take the ids of all packages, and the common words in small letters."""
        self._ids = frozenset(ids)
        self._common = frozenset(common)
        variants = {variant for package in self._ids for variant in list_variants(package)}
        self._stems = frozenset(variant for variant in variants if len(variant) >= 4 and variant not in self._common)

    def find_entities(self, description: Description) -> list[Entity]:
        """Return the entities of a description, in order and without overlaps."""
        text = description.text
        candidates = [*_match_patterns(text), *self._find_subjects(description), *self._find_names(text)]
        entities: list[Entity] = []
        for candidate in candidates:  # of those that overlap, the first is kept
            if all(candidate.end <= entity.start or entity.end <= candidate.start for entity in entities):
                entities.append(candidate)
        return sorted(entities, key=lambda entity: entity.start)

    def _find_subjects(self, description: Description) -> Iterator[Entity]:
        """Yield each occurrence of the package's own name, and of subjects that may be other names."""
        own_variants = list_variants(description.id)
        for match in SUBJECT.finditer(description.text):
            name = match[1]
            if simplify(name) in own_variants or f"lib{simplify(name)}" in own_variants:
                yield from _find_everywhere(description.text, name, "package")
            elif any(letter.isupper() for letter in name[1:]) or name[0].isdigit():
                yield from _find_everywhere(description.text, name, UNSURE)

    def _find_names(self, text: str) -> Iterator[Entity]:
        for match in _WORD.finditer(text):
            word = match[0].rstrip(".")
            if (label := self._choose_label(word)) is not None:
                yield Entity(label, match.start(), match.start() + len(word))

    def _choose_label(self, word: str) -> str | None:
        """Return "package" for a name in the catalogue, UNSURE for a word that may be a name, and else None."""
        lower = word.lower()
        if lower in _NO_NAMES:
            return None
        if word == lower:
            if word in self._ids and re.search(r"[a-z]", word):
                return "package" if re.search(r"[-\d+]", word) or word not in self._common else None
            parts = re.split(r"[-.+_]", word)
            is_composed = len(parts) > 1 and any(len(part) > 2 and part not in self._common for part in parts)
            return UNSURE if is_composed or re.search(r"[a-z]\d|^lib(?!rar|re)", word) else None
        if simplify(word) in self._stems:
            return UNSURE if word.isupper() else "package"
        has_mixed_case = any(letter.isupper() for letter in word[1:]) and any(letter.islower() for letter in word)
        return UNSURE if has_mixed_case or (lower in self._ids and lower in self._common) else None


def simplify(name: str) -> str:
    """Return a name in small letters and without punctuation, except for that of C++ and C#."""
    return re.sub(r"[^a-z0-9+#]", "", name.lower())


def list_variants(package: str) -> frozenset[str]:
    """Return the simplified forms in which a text may write a package's name."""
    without_prefix = _PREFIXES.sub("", package)
    variants = {package, without_prefix}
    for name in (package, without_prefix):
        longer = name
        while (shorter := _SUFFIXES.sub("", longer)) != longer and len(shorter) > 1:
            variants.add(shorter)
            longer = shorter
    return frozenset(simplify(variant) for variant in variants)


def _match_patterns(text: str) -> Iterator[Entity]:
    for label, pattern in _COMPILED:
        for match in pattern.finditer(text):
            group = match.lastindex or 0
            yield Entity(label, match.start(group), match.end(group))


def _find_everywhere(text: str, name: str, label: str) -> Iterator[Entity]:
    for match in re.finditer(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text):
        yield Entity(label, match.start(), match.end())
