"""Real texts with near duplicates among them, made by edits of words."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import combinations

from docmill.features.near_duplicates.methods import ByText, jaccard
from tests.storage.builders import Text
from tests.worker.harness import EXAMPLES


def edit(text: str, share: float, chance: random.Random) -> str:
    """Return a text of which a share of the words was replaced, dropped or doubled."""
    words = text.split()
    for place in sorted(chance.sample(range(len(words)), max(1, round(share * len(words)))), reverse=True):
        words[place : place + 1] = chance.choice([[chance.choice(words)], [], [words[place]] * 2])
    return " ".join(words)


def corpus(n: int, seed: int = 1) -> list[Text]:
    """Return descriptions of packages, each followed by copies of which 1 to 20 % of the words were edited."""
    chance = random.Random(seed)
    texts = []
    with (EXAMPLES / "descriptions.jsonl").open() as lines:
        for record in [json.loads(line) for line in lines][:n]:
            texts.append((record["id"], record["text"]))
            for share in (0.01, 0.05, 0.1, 0.2):
                texts.append((f"{record['id']}~{share}", edit(record["text"], share, chance)))
    return texts


def find_similar(texts: list[Text], method: ByText) -> Iterator[tuple[str, str]]:
    """Yield all pairs of ids whose texts are near duplicates, by comparing every pair."""
    sets = [(key, method.shingles(text)) for key, text in texts]
    for (key, ours), (other, theirs) in combinations(sets, 2):
        if jaccard(ours, theirs) >= method.threshold:
            yield key, other


def find_clusters(texts: list[Text], pairs: list[tuple[str, str]]) -> set[frozenset[str]]:
    """Return the connected components of two ids or more."""
    of = {key: {key} for key, _ in texts}
    for key, other in pairs:
        if of[key] is not of[other]:
            joined = of[key] | of[other]
            of |= dict.fromkeys(joined, joined)
    return {frozenset(members) for members in of.values() if len(members) > 1}
