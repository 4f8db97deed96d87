"""Embedding: one vector per text, or one per window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from storage.outcomes import Outcome, Reason, Status
from storage.specs import Spec
from tasks.families import Family
from tasks.heads import Head
from tasks.kinds.base import Again, Computed, TaskKind, Traits, windowed
from tasks.outputs import Vector
from tasks.windows import Coder, Window, cut

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def mean_vector(vectors: npt.NDArray[np.float32], weights: Sequence[int], normalize: bool) -> npt.NDArray[np.float32]:
    """The mean of the rows, weighted by their tokens, and of length 1 again if the model's vectors are.

    ``vectors`` has shape (windows, dim), the result (dim,). A mean of length 0 is left as it is.
    """
    import numpy as np

    if len(vectors) == 1:
        row: npt.NDArray[np.float32] = vectors[0]
        return row
    mean = np.average(vectors.astype(np.float64), axis=0, weights=weights)
    length = np.linalg.norm(mean)
    return (mean / length if normalize and length > 0 else mean).astype(np.float32)


@dataclass(frozen=True)
class Embed:
    normalize: bool
    keep_all: bool

    def cut(self, texts: Sequence[str], coder: Coder) -> list[list[Window]]:
        return cut(texts, coder)

    def join(self, computed: Computed) -> Outcome | Again:
        import numpy as np

        rows, weights, spans = [], [], []
        for window, output in zip(computed.windows, computed.outputs, strict=True):
            if window.encoded is None:  # only white space
                continue
            assert isinstance(output, Vector)
            rows.append(output.values)
            weights.append(window.encoded.tokens)
            spans.append([window.start, window.end])
        vectors = np.stack(rows)
        if not np.isfinite(vectors).all():
            return Outcome(
                computed.content_id,
                Status.FAILED,
                reason="The model's vector for this text is not finite.",
                reason_class=Reason.MODEL,
                tokens_in=computed.tokens_in,
            )
        kept = vectors if self.keep_all else mean_vector(vectors, weights, self.normalize)
        return Outcome(
            computed.content_id,
            Status.DONE,
            vector=kept.astype("<f4").tobytes(),
            data={"dim": int(vectors.shape[1]), "windows": spans} if self.keep_all else None,
            flags=windowed(computed.windows),
            tokens_in=computed.tokens_in,
        )


def _recipe(spec: Spec, traits: Traits) -> Embed:
    return Embed(normalize=traits.normalizes, keep_all=spec.params.get("windows") == "all")


EMBED = TaskKind(
    name="embed",
    summary="Make a vector of each document, for search and comparison.",
    families=MappingProxyType(
        {Family.ENCODER: Head.POOLING, Family.DECODER: Head.POOLING, Family.SEQ2SEQ: Head.POOLING}
    ),
    recipe=_recipe,
    default_model="minilm",
    sample_texts=64,
)
