"""Embedding: one vector per text, or one per window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from docmill.storage.core.specs import READING_SIZE, Outcome
from docmill.storage.outputs.output_types import VECTOR, WEIGHTS, Output, keeps_windows
from docmill.tasks import prompts
from docmill.tasks.errors import BadOption
from docmill.tasks.kinds.base import Again, Computed, Plan, Recipe, TaskKind, windowed
from docmill.tasks.kinds.options import MOST, Embedding, Option, Tokenizer
from docmill.tasks.models.families import Family
from docmill.tasks.outputs import Head, Vector, Weights
from docmill.tasks.windows.windows import tokens_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def mean_vector(vectors: npt.NDArray[np.float32], weights: Sequence[int], normalize: bool) -> npt.NDArray[np.float32]:
    """Return the mean of vectors (windows, dim), weighted by their tokens, of shape (dim,).

    With ``normalize`` it has length 1, unless its length is 0.
    """
    import numpy as np

    if len(vectors) == 1:
        row: npt.NDArray[np.float32] = vectors[0]
        return row
    mean = np.average(vectors.astype(np.float64), axis=0, weights=weights)
    length = np.linalg.norm(mean)
    return (mean / length if normalize and length > 0 else mean).astype(np.float32)


@dataclass(frozen=True)
class Embed(Recipe):
    """Stores the mean vector of a text's windows, or with ``keep_all`` the vectors of all windows."""

    normalize: bool
    keep_all: bool

    def join(self, computed: Computed) -> Outcome | Again:
        import numpy as np

        rows = [output.values for output in computed.outputs if isinstance(output, Vector)]
        vectors = rows[0][np.newaxis] if len(rows) == 1 else np.stack(rows)
        if not np.isfinite(vectors).all():
            return computed.failed("The model's vector for this text is not finite.")
        spans = [[window.start, window.end] for window in computed.windows if window.encoded is not None]
        kept = vectors if self.keep_all else mean_vector(vectors, tokens_of(computed.windows), self.normalize)
        data = {"dim": int(vectors.shape[1]), "windows": spans} if self.keep_all else None
        stored = Output(vector=kept.astype("<f4").tobytes(), data=data)
        return computed.done(stored, flags=windowed(computed.windows))


class EmbedOptions(Embedding):
    """Options of `embed`."""

    tokenizer: Tokenizer = None
    pooling: Annotated[Literal["cls", "mean", "last"] | None, Field(description="Replace the model's pooling.")] = (
        None
    )
    windows: Annotated[
        Literal["mean", "all"] | None,
        Field(description="Vectors of a long document: the mean of its windows', or all.  [default: mean]"),
        Option("window-vectors"),
    ] = None


def check_prompt(prompt: str) -> None:
    """Raise BadOption for a prompt that no embedding model reads."""
    if prompts.check(prompt).fields:
        raise BadOption("--prompt: {meta.FIELD} has no meaning for an embedding, only {text}.")
    if prompts.around(prompt).after:
        raise BadOption("--prompt: for an embedding {text} stands at the end, as in 'passage: {text}'.")


def prompt_of_documents(plan: Plan) -> dict[str, str]:
    """Return the parameter with the name of the prompt for documents in the model's files, if they have one."""
    name = None if plan.stated is None else plan.stated.of_documents
    return {} if name is None else {"prompt_name": name}


def own_prompt(plan: Plan) -> dict[str, str]:
    """Return the parameter with the prompt for documents, unless an option names a prompt. Older specs lack it."""
    options, stated = plan.options, plan.stated
    if "prompt" in options:
        if "prompt_name" in options:
            raise BadOption("--model-prompt and --prompt do not go together: give one of them.")
        check_prompt(options["prompt"])
    if "prompt_name" in options and stated is not None and options["prompt_name"] not in stated.named:
        raise BadOption(
            f"--model-prompt {options['prompt_name']}: the prompts in the files of {plan.model} are: "
            f"{stated.listed}. To give the words themselves use --prompt, such as 'passage: {{text}}'."
        )
    return {} if options.keys() & {"prompt", "prompt_name"} else prompt_of_documents(plan)


EMBED = TaskKind(
    name="embed",
    summary="Compute an embedding vector of each document.",
    example="corpus.csv --text-field body",
    options=EmbedOptions,
    output=VECTOR,
    heading="vector",
    families=MappingProxyType(
        {Family.ENCODER: Head.POOLING, Family.DECODER: Head.POOLING, Family.SEQ2SEQ: Head.POOLING}
    ),
    recipe=lambda spec, traits: Embed(traits.normalizes, keep_all=keeps_windows(spec.params)),
    params=own_prompt,
    default_model="minilm",
    shard=READING_SIZE,
)


def combined(windows: Sequence[Weights]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return the ids and weights of a text's tokens, pooled over its windows as the model pools tokens."""
    import numpy as np

    if len(windows) == 1:
        return windows[0].ids, windows[0].values
    ids = np.concatenate([window.ids for window in windows])
    values = np.concatenate([window.values for window in windows])
    order = np.argsort(ids, kind="stable")
    distinct, firsts = np.unique(ids[order], return_index=True)
    pooled = np.add if windows[0].vocabulary.sums else np.maximum
    return distinct, pooled.reduceat(values[order], firsts)


@dataclass(frozen=True)
class Sparse(Recipe):
    """Keeps the ``top_k`` largest weights of a text: all if it is 0, as many as the model's files say if None."""

    top_k: int | None = None

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


class SparseOptions(Embedding):
    """Options of `sparse`."""

    top_k: Annotated[int | None, Field(ge=0, le=MOST, description="Keep the N largest weights; 0 means all.")] = None


SPARSE = TaskKind(
    name="sparse",
    verb="weigh tokens",
    summary="Compute a sparse embedding of each document: tokens with weights.",
    options=SparseOptions,
    output=WEIGHTS,
    heading="weights",
    families=MappingProxyType({Family.ENCODER: Head.VOCABULARY}),
    recipe=lambda spec, _traits: Sparse(spec.params.get("top_k")),
    params=own_prompt,
    shard=READING_SIZE,
)
