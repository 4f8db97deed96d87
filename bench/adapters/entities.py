"""The tagger: names of packages, languages, formats and licences, and addresses, in descriptions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.adapters.corpus import Description, fraction
from bench.adapters.silver_entities import LABELS, UNSURE, Entity
from bench.adapters.training import Example

TAGS = ("O", *(f"{part}-{label}" for label in LABELS for part in "BI"))
LONGEST_TOKENS = 160
_HELD_OUT = 0.15  # of the names of each label
_OFTEN = 150  # names in more descriptions are not held out
# Descriptions with a label are taken first for labels at the front.
_RARE = ("licence", "url", "format")
_RAREST = TAGS.index("B-licence")
_REPEATED = 4
_IGNORED = -100


@dataclass(frozen=True)
class Labelled:
    """A description with its silver entities."""

    row: Description
    entities: Sequence[Entity]

    @property
    def names(self) -> frozenset[tuple[str, str]]:
        """The labels and names that the text has, whatever their capitals."""
        return frozenset(self.name(one) for one in self.entities if one.label != UNSURE)

    def name(self, one: Entity) -> tuple[str, str]:
        return one.label, self.row.text[one.start : one.end].lower()


def held_out(texts: Iterable[Labelled]) -> frozenset[tuple[str, str]]:
    """Return the names that are kept out of the training."""
    times = Counter(name for text in texts for name in text.names)
    return frozenset(
        name for name, count in times.items() if count <= _OFTEN and fraction(" ".join(name)) < _HELD_OUT
    )


def chosen(texts: Iterable[Labelled], without: frozenset[tuple[str, str]], count: int) -> list[Labelled]:
    """Return descriptions without the names ``without``: those with rare labels, and others."""
    fit = [one for one in texts if one.names and not one.names & without]
    taken: dict[str, Labelled] = {}
    for label in _RARE:
        of_label = [one for one in fit if any(found.label == label for found in one.entities)]
        taken |= {one.row.id: one for one in of_label[: count // 8]}
    for one in fit:
        if len(taken) >= count:
            break
        taken[one.row.id] = one
    return list(taken.values())


def examples(texts: Iterable[Labelled], tokenizer: Any) -> list[Example]:
    """Encode descriptions, and give each token its tag. Tokens of which nothing is sure have no part in the loss.

    A description with the rarest label comes several times.
    """
    found = []
    for one in texts:
        encoded = tokenizer(one.row.text, truncation=True, max_length=LONGEST_TOKENS, return_offsets_mapping=True)
        places = encoded.pop("offset_mapping")
        example = Example(dict(encoded), {"labels": tags(places, one.entities)})
        found += [example] * (_REPEATED if _RAREST in example.wanted["labels"] else 1)
    return found


def tags(places: Sequence[tuple[int, int]], entities: Sequence[Entity]) -> list[int]:
    """Return the tag of each token by its place in the text."""
    found = []
    for start, end in places:
        inside = next((one for one in entities if start < one.end and one.start < end), None)
        if start == end or (inside is not None and inside.label == UNSURE):
            found.append(_IGNORED)
        elif inside is None:
            found.append(0)
        else:
            found.append(TAGS.index(f"{'B' if start <= inside.start else 'I'}-{inside.label}"))
    return found
