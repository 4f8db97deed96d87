"""Sparse embeddings: a weight for each token of a model's vocabulary that fits the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from docmill.storage.core.specs import READING_SIZE, Outcome, Spec
from docmill.storage.outputs.output_types import WEIGHTS
from docmill.tasks.kinds.base import Again, Computed, TaskKind, Traits, windowed
from docmill.tasks.kinds.embed import own_prompt
from docmill.tasks.kinds.options import MOST, Embedding
from docmill.tasks.models.families import Family
from docmill.tasks.outputs import Head, Weights
from docmill.tasks.windows.windows import Coder, Window, cut

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def combined(windows: Sequence[Weights]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return the ids and weights of a text's tokens from those of its windows, as the model pools tokens."""
    import numpy as np

    if len(windows) == 1:
        return windows[0].ids, windows[0].values
    ids = np.concatenate([window.ids for window in windows])
    values = np.concatenate([window.values for window in windows])
    order = np.argsort(ids, kind="stable")
    distinct, firsts = np.unique(ids[order], return_index=True)
    if not len(distinct):
        return ids, values
    pooled = np.add if windows[0].vocabulary.sums else np.maximum
    return distinct, pooled.reduceat(values[order], firsts)


@dataclass(frozen=True)
class Sparse:
    """``top_k`` weights of a text are kept; 0 keeps all, None as many as the model's files say."""

    top_k: int | None = None

    def cut(self, texts: Sequence[str], coder: Coder) -> list[list[Window]]:
        return cut(texts, coder)

    def join(self, computed: Computed) -> Outcome | Again:
        import numpy as np

        outputs = [output for output in computed.outputs if isinstance(output, Weights)]
        vocabulary = outputs[0].vocabulary
        ids, values = combined(outputs)
        if not np.isfinite(values).all():
            return computed.failed("The model's weights for this text are not finite.")
        best = np.lexsort((ids, -values))[: (vocabulary.most if self.top_k is None else self.top_k) or None]
        weights = zip(ids[best].tolist(), values[best].tolist(), strict=True)
        stored = WEIGHTS.stored((vocabulary.tokens[number], number, weight) for number, weight in weights)
        return computed.done(stored, flags=windowed(computed.windows))


def _recipe(spec: Spec, _traits: Traits) -> Sparse:
    return Sparse(spec.params.get("top_k"))


class SparseOptions(Embedding):
    """Options of `sparse`."""

    top_k: Annotated[int | None, Field(ge=0, le=MOST, description="Keep the K largest weights; 0 means all.")] = None


SPARSE = TaskKind(
    name="sparse",
    verb="weigh tokens",
    summary="Compute a sparse embedding of each document: tokens with weights.",
    options=SparseOptions,
    output=WEIGHTS,
    heading="weights",
    families=MappingProxyType({Family.ENCODER: Head.VOCABULARY}),
    recipe=_recipe,
    params=own_prompt,
    shard=READING_SIZE,
    sample_texts=64,
)
