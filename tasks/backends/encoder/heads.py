"""The seam between a fast encoder and its head.

An encoder-only model is an encoder, which gives a state for each token, and a head, which makes the task's outputs of
the states. The encoder takes nearly all of the time, so what makes it fast (batches without padding, another
library) is written once and serves every head. A new head is one module with a ``load`` function, and one line of
``LOADERS``.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from docmill.tasks.outputs import Head
from docmill.tasks.windows.windows import Coder, Encoded

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from docmill.tasks.backends import Assignment
    from docmill.tasks.backends.encoder.kept_heads import KeptHead
    from docmill.tasks.backends.tokens import Tokens
    from docmill.tasks.kinds.base import Traits
    from docmill.tasks.outputs import Output

# By the function's name: ``load(assignment, dtype)`` gives the model of a head.
LOADERS: Mapping[Head, str] = MappingProxyType(
    {
        Head.POOLING: "docmill.tasks.backends.encoder.pooling:load",
        Head.CLASSIFICATION: "docmill.tasks.backends.encoder.classification:load",
        Head.TAGGING: "docmill.tasks.backends.encoder.token_classification:load",
        Head.ANSWERING: "docmill.tasks.backends.encoder.question_answering:load",
        Head.VOCABULARY: "docmill.tasks.backends.encoder.weighting:load",
    }
)

# From a batch to its ``token_embeddings`` in float32, of shape (windows, longest, dim), and their ``attention_mask``
# of shape (windows, longest), with any more that a model's own code gives. Called from several threads.
StatesOf = Callable[[Sequence[Encoded]], "dict[str, torch.Tensor]"]


@dataclass(frozen=True)
class EncoderModel:
    """A loaded model, taken apart into what reads texts, its encoder and its head.

    ``tokens`` is None for a model that tokenises on its own; its windows hold their text.

    ``encoder`` is transformers' encoder if the head reads its last hidden states and nothing else; only then may a
    fast encoder compute in its place. It holds no weights of the head, since its own are dropped then.
    ``own_states`` computes by the model's own code.

    ``outputs`` is the head: from a batch and its states to one output for each window, in order. It computes in
    float32 and in torch, also where another library computes the encoder: next to the encoder a head takes hardly
    any time. ``library`` names the package that ran the model's own code. ``kept`` is the same head without that
    library, or None.

    With ``reads_first`` the head reads the state of a window's first token and no other: a fast encoder may give that
    state alone, as a window of one token. With ``reads_padding`` a window's output depends on the padding beside it:
    such a model has no ``encoder``, and its batches hold windows of one length.
    """

    tokens: Tokens | None
    limit_tokens: int
    encoder: PreTrainedModel | None
    own_states: StatesOf
    outputs: Callable[[Sequence[Encoded], dict[str, torch.Tensor]], Sequence[Output]]
    traits: Traits
    library: str
    kept: KeptHead | None = None
    reads_first: bool = False
    reads_padding: bool = False

    @property
    def coder(self) -> Coder:
        """The model as it reads texts: beside a sentence if it reads pairs."""
        return self if self.traits.pairs is None else self.traits.pairs("Is this a sentence?")

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Return what the model will read for each text."""
        if self.tokens is not None:
            return self.tokens.encode(texts)
        # Such models have no limit worth cutting for; words are near enough for the batches.
        return [Encoded(max(1, len(text.split())), text) for text in texts]


def load(assignment: Assignment, dtype: torch.dtype) -> EncoderModel:
    """Load the model of an assignment's head, its encoder in ``dtype``. Raises WeightsMissing and CannotServe."""
    loader: Callable[[Assignment, torch.dtype], EncoderModel] = pkgutil.resolve_name(LOADERS[assignment.head])
    return loader(assignment, dtype)


def libraries(head: Head) -> list[str]:
    """Return the modules that the first opening of a model with this head imports."""
    return ["docmill.tasks.backends.encoder.library", LOADERS[head].partition(":")[0]]


def own_states(encoder: PreTrainedModel, tokens: Tokens, device: str) -> StatesOf:
    """Return a function that computes the last hidden states by the encoder's own code, on padded batches."""
    from docmill.tasks.backends.tokens import padded

    def states_of(batch: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        features = {name: value.to(device) for name, value in padded(batch, tokens).items()}
        states = encoder(**features).last_hidden_state.float()
        return {"token_embeddings": states, "attention_mask": features["attention_mask"]}

    return states_of
