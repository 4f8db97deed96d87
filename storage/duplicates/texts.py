"""Near duplicates by their words: sign the texts, and compare each pair of candidates exactly."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
from sqlalchemy import select

from docmill.storage.core import advisory_locks
from docmill.storage.core.database import Database
from docmill.storage.core.schema import Content, Signature
from docmill.storage.core.transaction import Columns, Transaction
from docmill.storage.duplicates.candidates import Signed, candidates
from docmill.storage.duplicates.components import Components, Ids
from docmill.storage.duplicates.methods import ByText, require_library
from docmill.storage.duplicates.progress import Advanced
from docmill.storage.duplicates.shingles import Shingling, jaccard
from docmill.storage.duplicates.signatures import Bands, bands_of, layout_for, recipe_of

LOOK = 5_000  # texts whose signatures are looked for at a time
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
    """Join the places of near duplicates among these texts; at least one of each pair is `fresh`.

    Return the number of compared pairs. Raises LibraryMissing.
    """
    require_library()
    signed = _signed(database, method, content_ids, fresh, advanced)
    n_bands = signed.bands.shape[1]
    shingles = _Shingles(database, method.shingling)
    compared = 0
    for band in range(n_bands):
        advanced("compare", band, n_bands)
        for ones, others in candidates(signed, method.threshold, components, band):
            compared += len(ones)
            for first, last in _batches(signed.sizes, ones, others):
                pairs = ones[first:last], others[first:last]
                for one, other in _similar(shingles, method.threshold, content_ids, *pairs):
                    components.join(one, other)
    advanced("compare", n_bands, n_bands)
    return compared


def _signed(
    database: Database,
    method: ByText,
    content_ids: Ids,
    fresh: npt.NDArray[np.bool_],
    advanced: Advanced,
) -> Signed:
    """Return the signatures of texts, and store those that are not stored yet."""
    n = len(content_ids)
    bands: Bands = np.zeros((n, layout_for(method.threshold).n_bands), np.uint32)
    sizes: Ids = np.zeros(n, np.int64)
    recipe = recipe_of(method)
    query = select(Signature.content_id, Signature.bands, Signature.n_shingles).where(Signature.recipe == recipe)
    for start in range(0, n, LOOK):
        advanced("sign", start, n)
        page = content_ids[start : start + LOOK]
        with database.read() as transaction:
            rows = transaction.probe(query, Signature.content_id, page.tolist())
        place = {content_id: start + at for at, content_id in enumerate(page.tolist())}
        for row in rows:
            at = place.pop(row.content_id)
            bands[at], sizes[at] = np.frombuffer(row.bands, "<u4"), row.n_shingles
        for ids in _pages_to_sign(database, [*place]):
            found, n_shingles = database.write(partial(_sign, method=method, recipe=recipe, content_ids=ids))
            places = [place[content_id] for content_id in ids]
            bands[places], sizes[places] = found, n_shingles
    advanced("sign", n, n)
    return Signed(bands, sizes, fresh)


def _pages_to_sign(database: Database, content_ids: Sequence[int]) -> Iterator[list[int]]:
    """Yield the texts in pages of a few million characters."""
    with database.read() as transaction:
        lengths = transaction.probe(select(Content.id, Content.n_chars), Content.id, content_ids)
    page: list[int] = []
    n_chars = 0
    for row in sorted(lengths):
        if page and n_chars + row.n_chars > PAGE_CHARS:
            yield page
            page, n_chars = [], 0
        page.append(row.id)
        n_chars += row.n_chars
    if page:
        yield page


def _sign(
    transaction: Transaction, method: ByText, recipe: int, content_ids: Sequence[int]
) -> tuple[Bands, list[int]]:
    """Sign texts and store their signatures. A text that was removed meanwhile gets the signature of an empty one."""
    advisory_locks.refer(transaction)
    texts = _texts(transaction, content_ids)
    shingles = [method.shingling.of(texts.get(content_id, "")) for content_id in content_ids]
    bands = bands_of(shingles, layout_for(method.threshold), method.seed)
    sizes = [len(one) for one in shingles]
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

    def __init__(self, database: Database, shingling: Shingling) -> None:
        self._database = database
        self._shingling = shingling
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
            texts = _texts(transaction, lacking)
        for content_id in lacking:
            kept[content_id] = self._shingling.of(texts.get(content_id, ""))
            self._n_kept += len(kept[content_id])
        found = {content_id: kept[content_id] for content_id in content_ids}
        while self._n_kept > KEPT_SHINGLES:
            self._n_kept -= len(kept.popitem(last=False)[1])
        return found


def _similar(
    shingles: _Shingles, threshold: float, content_ids: Ids, ones: Ids, others: Ids
) -> Iterator[tuple[int, int]]:
    """Yield the pairs of places whose texts are near duplicates."""
    sets = shingles.of(np.unique(content_ids[np.concatenate([ones, others])]).tolist())
    for one, other in zip(ones.tolist(), others.tolist(), strict=True):
        if jaccard(sets[int(content_ids[one])], sets[int(content_ids[other])]) >= threshold:
            yield one, other


def _texts(transaction: Transaction, content_ids: Sequence[int]) -> dict[int, str]:
    found = transaction.probe(select(Content.id, Content.text), Content.id, content_ids)
    return {row.id: row.text for row in found}
