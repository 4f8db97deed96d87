"""Near duplicates by their words: sign the texts, and compare each pair of candidates exactly.

MinHash signatures by the library rensa are divided into bands. Texts that share a band's hash are candidates. This is
locality-sensitive hashing as in Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, chapter 3.4. With `n_bands`
bands of `n_rows` rows each, two texts of similarity s share a band with the probability 1 - (1 - s^n_rows)^n_bands.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt
import orjson
from sqlalchemy import select

from docmill.features.near_duplicates.components import Components, Ids
from docmill.features.near_duplicates.methods import Advanced, ByText, jaccard
from docmill.features.near_duplicates.tables import Signature
from docmill.storage.core.database import Database
from docmill.storage.core.lookups import n_chars, read_texts
from docmill.storage.core.transaction import Columns, Transaction

Bands = npt.NDArray[np.uint32]  # (texts, bands)
PERMUTATIONS = 128
LEAST_PROBABILITY = 0.99  # of a pair at the threshold to become a candidate
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 divided by the golden ratio (Fibonacci hashing, Knuth)
_SHIFT = np.uint64(32)
NEIGHBORS = 100  # texts that a text is compared with in one band: those nearest in size
LOOK = 5_000  # texts whose signatures are read at a time
PAGE_CHARS = 4_000_000  # characters of the texts that are signed in one transaction
BATCH_SHINGLES = 500_000  # of the texts that are compared at a time
KEPT_SHINGLES = 1_000_000  # of the texts that were compared last; they take about 100 MB


def connect(
    database: Database,
    method: ByText,
    content_ids: Ids,
    fresh: npt.NDArray[np.bool_],
    components: Components,
    advanced: Advanced,
) -> int:
    """Join the places of near duplicates among these texts. At least one text of each pair is `fresh`.

    Return the number of compared pairs.
    """
    signed = _sign_all(database, method, content_ids, fresh, advanced)
    n_bands = signed.bands.shape[1]
    shingles = _Shingles(database, method)
    compared = 0
    for band in range(n_bands):
        advanced("comparing", band, n_bands)
        for ones, others in propose_pairs(signed, method.threshold, components, band):
            compared += len(ones)
            for first, last in _batches(signed.sizes, ones, others):
                pairs = ones[first:last], others[first:last]
                for place, other in _find_similar(shingles, method.threshold, content_ids, *pairs):
                    components.join(place, other)
    advanced("comparing", n_bands, n_bands)
    return compared


def _sign_all(
    database: Database,
    method: ByText,
    content_ids: Ids,
    fresh: npt.NDArray[np.bool_],
    advanced: Advanced,
) -> Signed:
    """Return the signatures of texts, and store those that are not stored yet."""
    n = len(content_ids)
    bands: Bands = np.zeros((n, PERMUTATIONS // choose_rows(method.threshold)), np.uint32)
    sizes: Ids = np.zeros(n, np.int64)
    recipe = make_recipe(method)
    query = select(Signature.content_id, Signature.bands, Signature.n_shingles).where(Signature.recipe == recipe)
    for start in range(0, n, LOOK):
        advanced("signing texts", start, n)
        page = content_ids[start : start + LOOK]
        with database.read() as transaction:
            rows = transaction.probe(query, Signature.content_id, page.tolist())
        place = {content_id: start + at for at, content_id in enumerate(page.tolist())}
        for row in rows:
            at = place.pop(row.content_id)
            bands[at], sizes[at] = np.frombuffer(row.bands, "<u4"), row.n_shingles
        for ids in _pages_to_sign(database, [*place]):
            of_page, n_shingles = database.write(partial(_sign, method=method, recipe=recipe, content_ids=ids))
            places = [place[content_id] for content_id in ids]
            bands[places], sizes[places] = of_page, n_shingles
    advanced("signing texts", n, n)
    return Signed(bands, sizes, fresh)


def _pages_to_sign(database: Database, content_ids: Sequence[int]) -> Iterator[list[int]]:
    """Yield the texts in pages of a few million characters."""
    with database.read() as transaction:
        lengths = n_chars(transaction, content_ids)
    page: list[int] = []
    page_chars = 0
    for content_id, length in sorted(lengths.items()):
        if page and page_chars + length > PAGE_CHARS:
            yield page
            page, page_chars = [], 0
        page.append(content_id)
        page_chars += length
    if page:
        yield page


def _sign(
    transaction: Transaction, method: ByText, recipe: int, content_ids: Sequence[int]
) -> tuple[Bands, list[int]]:
    """Sign texts and store their signatures. A text that was removed meanwhile gets the signature of an empty one."""
    transaction.keep_contents()
    texts = read_texts(transaction, content_ids)
    shingles = [method.shingles(texts.get(content_id, "")) for content_id in content_ids]
    bands = hash_bands(shingles, choose_rows(method.threshold), method.seed)
    sizes = [len(members) for members in shingles]
    there = [at for at, content_id in enumerate(content_ids) if content_id in texts]
    columns: Columns = {
        "content_id": [content_ids[at] for at in there],
        "recipe": [recipe] * len(there),
        "bands": [bands[at].astype("<u4").tobytes() for at in there],
        "n_shingles": [sizes[at] for at in there],
    }
    transaction.insert_missing(Signature, columns)
    return bands, sizes


def _batches(sizes: Ids, ones: Ids, others: Ids) -> Iterator[tuple[int, int]]:
    """Yield ranges of pairs whose texts have a bounded number of shingles."""
    ends = np.cumsum(sizes[ones] + sizes[others])
    first, before = 0, 0
    while first < len(ones):
        last = max(first + 1, int(np.searchsorted(ends, before + BATCH_SHINGLES)))
        yield first, last
        first, before = last, int(ends[last - 1])


class _Shingles:
    """The sets of shingles of the texts that were compared last."""

    def __init__(self, database: Database, method: ByText) -> None:
        self._database = database
        self._method = method
        self._kept: OrderedDict[int, set[str]] = OrderedDict()
        self._n_kept = 0

    def of(self, content_ids: Sequence[int]) -> Mapping[int, set[str]]:
        """Return the sets of these texts. A text that was removed meanwhile has an empty set."""
        kept = self._kept
        lacking = [content_id for content_id in content_ids if content_id not in kept]
        for content_id in content_ids:
            if content_id in kept:
                kept.move_to_end(content_id)
        with self._database.read() as transaction:
            texts = read_texts(transaction, lacking)
        for content_id in lacking:
            kept[content_id] = self._method.shingles(texts.get(content_id, ""))
            self._n_kept += len(kept[content_id])
        sets = {content_id: kept[content_id] for content_id in content_ids}
        while self._n_kept > KEPT_SHINGLES:
            self._n_kept -= len(kept.popitem(last=False)[1])
        return sets


def _find_similar(
    shingles: _Shingles, threshold: float, content_ids: Ids, ones: Ids, others: Ids
) -> Iterator[tuple[int, int]]:
    """Yield the pairs of places whose texts are near duplicates."""
    sets = shingles.of(np.unique(content_ids[np.concatenate([ones, others])]).tolist())
    for place, other in zip(ones.tolist(), others.tolist(), strict=True):
        if jaccard(sets[int(content_ids[place])], sets[int(content_ids[other])]) >= threshold:
            yield place, other


def choose_rows(threshold: float) -> int:
    """Return the most rows of a band that still proposes a pair at the threshold with a probability of 0.99.

    Longer bands propose fewer pairs below the threshold. For low thresholds a band has one row.
    """
    fitting = (n_rows for n_rows in range(16, 1, -1) if probability(threshold, n_rows) >= LEAST_PROBABILITY)
    return next(fitting, 1)


def probability(similarity: float, n_rows: int) -> float:
    """Return the probability that a pair of this similarity shares a band of so many rows."""
    return float(1 - (1 - similarity**n_rows) ** (PERMUTATIONS // n_rows))


def make_recipe(method: ByText) -> int:
    """Return a hash of the options that signatures depend on, and of the library's algorithm."""
    import rensa

    n_rows = choose_rows(method.threshold)
    of_library = int(rensa.RMinHash.ALGORITHM_VERSION)
    parts = [of_library, method.seed, method.unit, method.size, PERMUTATIONS // n_rows, n_rows]
    return int.from_bytes(hashlib.sha256(orjson.dumps(parts)).digest()[:6], "little")


def hash_bands(shingles: Sequence[Set[str]], n_rows: int, seed: int) -> Bands:
    """Return the hashes of the bands of each set of shingles. The hashes of an empty set match no other set."""
    import rensa

    n_bands = PERMUTATIONS // n_rows
    if not shingles:
        return np.empty((0, n_bands), np.uint32)
    matrix = rensa.RMinHash.digest_matrix_from_token_sets(shingles, n_bands * n_rows, seed)
    rows = np.array(matrix.to_rows(), np.uint64).reshape(len(shingles), n_bands, n_rows)
    hashes = np.zeros(rows.shape[:2], np.uint64)
    for place in range(n_rows):
        hashes = (hashes ^ rows[:, :, place]) * _MULTIPLIER
        hashes ^= hashes >> _SHIFT
    return hashes.astype(np.uint32)


@dataclass(frozen=True)
class Signed:
    """The hashes of the texts' bands, and the sizes of their sets of shingles, by the texts' places.

    Texts that are not `fresh` were compared with each other before.
    """

    bands: Bands
    sizes: Ids
    fresh: npt.NDArray[np.bool_]

    @cached_property
    def crowded(self) -> npt.NDArray[np.bool_]:
        """Return (texts, bands): True if too many texts share a band's hash to compare each pair of them."""
        crowded = np.empty(self.bands.shape, np.bool_)
        for band in range(self.bands.shape[1]):
            _, place, counts = np.unique(self.bands[:, band], return_inverse=True, return_counts=True)
            crowded[:, band] = counts[place] > NEIGHBORS + 1
        return crowded


def propose_pairs(signed: Signed, threshold: float, components: Components, band: int) -> Iterator[tuple[Ids, Ids]]:
    """Yield pairs of places that share a band's hash and no hash of an earlier band that is not crowded.

    Arrays may be empty. Texts with one hash are sorted by their sizes. Each is paired with the next text first, then
    with the one after, and so on. The caller joins near duplicates between two yields, and pairs that are joined
    already are not yielded. So most pairs within a cluster are never compared. Pairs whose sizes differ too much are
    left out.
    """
    keys = signed.bands[:, band]
    order = np.lexsort((signed.sizes, keys)).astype(np.int64)
    order = order[signed.sizes[order] > 0]
    starts = np.arange(len(order))
    for lag in range(1, NEIGHBORS + 1):
        starts = starts[starts + lag < len(order)]
        starts = starts[keys[order[starts]] == keys[order[starts + lag]]]
        if not len(starts):
            return
        ones, others = order[starts], order[starts + lag]
        is_candidate = signed.fresh[ones] | signed.fresh[others]
        is_candidate &= signed.sizes[ones] / np.maximum(signed.sizes[others], 1) >= threshold
        ones, others = ones[is_candidate], others[is_candidate]
        if band:
            same = signed.bands[ones, :band] == signed.bands[others, :band]
            met = (same & ~signed.crowded[ones, :band]).any(axis=1)
            ones, others = ones[~met], others[~met]
        apart = components.are_apart(ones, others)
        yield ones[apart], others[apart]
