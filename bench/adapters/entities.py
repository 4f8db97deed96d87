"""Make the tagger's examples: packages, languages, formats, licences and addresses in descriptions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.adapters.corpus import Description, hash_to_fraction
from bench.adapters.silver_entities import LABELS, UNSURE, Entity
from bench.adapters.training import Example

TAGS = ("O", *(f"{part}-{label}" for label in LABELS for part in "BI"))
LONGEST_TOKENS = 160
_HELD_OUT_SHARE = 0.15  # of the names of each label
_OFTEN = 150  # a name in more descriptions is not held out
# Descriptions with these labels are selected first, in this order.
_RARE_LABELS = ("licence", "url", "format")
_RAREST_TAG = TAGS.index("B-licence")
_REPEATS_OF_RAREST = 4
_IGNORED = -100  # PyTorch's loss ignores tokens with this label


@dataclass(frozen=True)
class LabelledText:
    """A description with its silver entities."""

    description: Description
    entities: Sequence[Entity]

    @property
    def names(self) -> frozenset[tuple[str, str]]:
        """The labels and names of the sure entities, in small letters."""
        return frozenset(self.get_name(entity) for entity in self.entities if entity.label != UNSURE)

    def get_name(self, entity: Entity) -> tuple[str, str]:
        """Return the label and the name of an entity, in small letters."""
        return entity.label, self.description.text[entity.start : entity.end].lower()


def select_held_out(texts: Iterable[LabelledText]) -> frozenset[tuple[str, str]]:
    """Return the labels and names to keep out of the training."""
    counts = Counter(name for text in texts for name in text.names)
    return frozenset(
        name
        for name, count in counts.items()
        if count <= _OFTEN and hash_to_fraction(" ".join(name)) < _HELD_OUT_SHARE
    )


def select_texts(
    texts: Iterable[LabelledText], held_out: frozenset[tuple[str, str]], count: int
) -> list[LabelledText]:
    """Return up to ``count`` texts without the names in ``held_out``, first those with rare labels."""
    allowed = [text for text in texts if text.names and not text.names & held_out]
    selected: dict[str, LabelledText] = {}
    for label in _RARE_LABELS:
        with_label = [text for text in allowed if any(entity.label == label for entity in text.entities)]
        selected |= {text.description.id: text for text in with_label[: count // 8]}
    for text in allowed:
        if len(selected) >= count:
            break
        selected[text.description.id] = text
    return list(selected.values())


def encode_examples(texts: Iterable[LabelledText], tokenizer: Any) -> list[Example]:
    """Encode texts, and give each token its tag. Tokens of unsure entities have no part in the loss.

    A text with the rarest label becomes several examples.
    """
    examples = []
    for text in texts:
        encoded = tokenizer(
            text.description.text, truncation=True, max_length=LONGEST_TOKENS, return_offsets_mapping=True
        )
        offsets = encoded.pop("offset_mapping")
        example = Example(dict(encoded), {"labels": tag_tokens(offsets, text.entities)})
        examples += [example] * (_REPEATS_OF_RAREST if _RAREST_TAG in example.targets["labels"] else 1)
    return examples


def tag_tokens(offsets: Sequence[tuple[int, int]], entities: Sequence[Entity]) -> list[int]:
    """Return the tag of each token. ``offsets`` has the start and the end of each token in the text."""
    tags = []
    for start, end in offsets:
        entity = next((entity for entity in entities if start < entity.end and entity.start < end), None)
        if start == end or (entity is not None and entity.label == UNSURE):
            tags.append(_IGNORED)
        elif entity is None:
            tags.append(0)
        else:
            tags.append(TAGS.index(f"{'B' if start <= entity.start else 'I'}-{entity.label}"))
    return tags
