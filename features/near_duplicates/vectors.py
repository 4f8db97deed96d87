"""Near duplicates by their vectors: every pair is compared, block by block in bounded memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sqlalchemy import select

from docmill.features.near_duplicates.components import Components, Ids
from docmill.features.near_duplicates.methods import Advanced, ByVectors
from docmill.storage.core.database import Database
from docmill.storage.core.lookups import vector_length
from docmill.storage.core.schema import OutcomeRow
from docmill.storage.errors import NothingEmbedded
from docmill.storage.search.knn import matrix_of
from docmill.storage.search.search import choose

Matrix = npt.NDArray[np.float32]

THRESHOLD = 0.95
BLOCK = 2_048  # vectors compared at a time
KEPT_NUMBERS = 2**26  # numbers in the new vectors that stay in memory for one walk through all vectors: 256 MiB
_SLACK = 1e-4  # the most by which a cosine of float32 may be too low
_ROUNDING = 1e-6  # the most by which vectors of length 1 that are rounded to float32 change a cosine


def choose_method(database: Database, corpus: str, job_id: int | None, threshold: float | None = None) -> ByVectors:
    """Return the method that compares the vectors of a corpus's latest embed job, or of one job.

    Raises NotFound, and NothingEmbedded if there is no such job, or no vector for a whole document.
    """
    searched = choose(database, [corpus], job_id)
    if searched.keeps_windows:
        raise NothingEmbedded(
            f"job {searched.job_id} keeps a vector for each window, and near duplicates need one for each document: "
            "embed the corpus with --window-vectors mean"
        )
    return ByVectors(THRESHOLD if threshold is None else threshold, searched.spec_id, searched.job_id)


def connect(
    database: Database,
    method: ByVectors,
    content_ids: Ids,
    fresh: npt.NDArray[np.bool_],
    components: Components,
    advanced: Advanced,
) -> int:
    """Join the places of near duplicates among contents with vectors. At least one content of each pair is `fresh`.

    Return the number of compared pairs. A float32 product proposes pairs, and a cosine in float64 decides, so that
    it does not depend on a vector's place in a block. Raises NothingEmbedded if vectors differ in length.
    """
    n, new = len(content_ids), np.flatnonzero(fresh)
    with database.read() as transaction:
        dim = vector_length(transaction, method.spec_id)
    if dim is None:
        return 0
    n_kept = max(BLOCK, KEPT_NUMBERS // dim)
    compared = done = 0
    total = -(-len(new) // n_kept) * n
    for first in range(0, len(new), n_kept):
        places = new[first : first + n_kept]
        kept = _load(database, method, content_ids[places], dim)
        for start in range(0, n, BLOCK):
            advanced("comparing", done, total)
            theirs = np.arange(start, min(start + BLOCK, n))
            done += len(theirs)
            # A new vector is compared only with those new ones that come later, so that each pair counts once.
            theirs = theirs[~fresh[theirs] | (theirs > places[0])]
            vectors = _load(database, method, content_ids[theirs], dim)
            compared += _compare(kept, places, vectors, theirs, fresh, method.threshold, components)
    advanced("comparing", total, total)
    return compared


def _compare(
    kept: Matrix,
    places: Ids,
    vectors: Matrix,
    theirs: Ids,
    fresh: npt.NDArray[np.bool_],
    threshold: float,
    components: Components,
) -> int:
    compared = 0
    for first in range(0, len(places), BLOCK):
        ours = places[first : first + BLOCK]
        near = kept[first : first + BLOCK] @ vectors.T >= threshold - _SLACK
        counts = ~fresh[theirs][None] | (theirs[None] > ours[:, None])
        compared += int(counts.sum())
        rows, columns = np.nonzero(near & counts)
        apart = components.are_apart(ours[rows], theirs[columns])
        rows, columns = rows[apart], columns[apart]
        for start in range(0, len(rows), BLOCK):
            at = slice(start, start + BLOCK)
            pairs = kept[first : first + BLOCK][rows[at]].astype(np.float64), vectors[columns[at]].astype(np.float64)
            similar = np.einsum("ij,ij->i", *pairs) >= threshold - _ROUNDING
            for place, other in zip(ours[rows[at]][similar], theirs[columns[at]][similar], strict=True):
                components.join(int(place), int(other))
    return compared


def _load(database: Database, method: ByVectors, content_ids: Ids, dim: int) -> Matrix:
    """Return the vectors of contents (contents, dim), of length 1. Vectors that were removed meanwhile are 0."""
    query = select(OutcomeRow.content_id, OutcomeRow.vector).where(
        OutcomeRow.spec_id == method.spec_id, OutcomeRow.status == "done"
    )
    places = {content_id: place for place, content_id in enumerate(content_ids.tolist())}
    matrix: Matrix = np.zeros((len(places), dim), np.float32)
    with database.read() as transaction:
        for row in transaction.probe(query, OutcomeRow.content_id, list(places)):
            (vector,) = matrix_of([row.vector], dim)
            length = float(np.linalg.norm(vector.astype(np.float64)))
            matrix[places[row.content_id]] = vector / (length or 1.0)
    return matrix
