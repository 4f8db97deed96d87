"""The languages of a translation model, from its name and its files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from docmill.storage.json_values import Json
from docmill.tasks import languages
from docmill.tasks.errors import BadOption
from docmill.tasks.models.json_files import content, table

# opus-mt-es-en, opus-mt-tc-big-cat_oci_spa-en; a language's code there is never longer than three letters.
_OPUS = re.compile(r"opus-mt-(?:tc-(?:big|base|bible-big)-)?([a-z_]+)-([a-z_]+)", re.IGNORECASE)
_TOKEN = re.compile(r">>(.+)<<")


@dataclass(frozen=True)
class Direction:
    """The languages of either side, by codes; a side that nothing is known of is empty.

    ``tokens`` are those that the model has target tokens for, such as ``>>fra<<``, by its own codes.
    """

    sources: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()

    def __str__(self) -> str:
        sides = (("from", self.sources), ("into", self.targets))
        return " ".join(f"{word} {languages.listed(codes)}" for word, codes in sides if codes)


UNKNOWN = Direction()


def of_name(model: str) -> Direction:
    """Return the languages in the name of an OPUS model such as `Helsinki-NLP/opus-mt-es-en`."""
    match = _OPUS.fullmatch(model.rstrip("/").rpartition("/")[2])
    return Direction(_codes(match.group(1)), _codes(match.group(2))) if match else UNKNOWN


def of_folder(folder: Path) -> Direction:
    """Return the languages of a Marian model from its files, else from its folder's name; UNKNOWN for others."""
    if table(content(folder / "config.json")).get("model_type") != "marian":
        return UNKNOWN
    named, tokenizer = of_name(folder.name), table(content(folder / "tokenizer_config.json"))
    matches = [_TOKEN.fullmatch(token) for token in table(content(folder / "vocab.json"))]
    tokens = tuple(sorted(match.group(1) for match in matches if match))
    return Direction(
        _codes(tokenizer.get("source_lang")) or named.sources,
        () if tokens else _codes(tokenizer.get("target_lang")) or named.targets,
        tokens,
    )


def require(direction: Direction, source: str | None, target: str | None, model: str) -> None:
    """Raise BadOption for languages that contradict what is known of the model, or for one that it must be told."""
    for option, asked, codes in (("--from", source, direction.sources), ("--to", target, direction.targets)):
        if asked is not None and codes and not any(languages.same_language(asked, code) for code in codes):
            raise BadOption(f"{option} {asked}: {model} translates {direction}.")
    if direction.tokens and target is not None:
        languages.match(target, direction.tokens)
    elif len(direction.tokens) > 1:
        some = ", ".join(direction.tokens[:12])
        raise BadOption(f"{model} translates into several languages: give --to, one of {some}.")


def _codes(stated: Json) -> tuple[str, ...]:
    """The languages of a side such as ``en``, ``fra_Latn`` or ``cat+oci+spa``, if every one is known.

    Groups of languages (``ROMANCE``, ``gem``, ``mul``) are not: what belongs to them is not written down anywhere.
    """
    if not isinstance(stated, str):
        return ()
    parts = [stated] if languages.short_code(stated) else re.split(r"[+_,\s]+", stated)
    codes = [languages.short_code(part) for part in parts]
    return tuple(code for code in codes if code is not None) if all(codes) else ()
