"""The head of a sparse encoder as numbers and weights, computed in torch alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn import functional

from docmill.tasks.outputs import Output, Vocabulary, Weights
from docmill.tasks.windows.windows import Encoded

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# The modules of a masked language model's head: a product, a norm, and the product with the vocabulary.
_MODULES: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {
        "BertForMaskedLM": (
            "cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.decoder",
        ),
        "DistilBertForMaskedLM": ("vocab_transform", "vocab_layer_norm", "vocab_projector"),
        **{
            f"{name}ForMaskedLM": ("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder")
            for name in ("Roberta", "XLMRoberta", "Camembert")
        },
    }
)  # fmt: skip
_PARTS = ("dense", "norm", "decoder")


def parts_of(model: PreTrainedModel) -> tuple[dict[str, Any], dict[str, Tensor], list[str]] | None:
    """Return the settings of a model's head, its tensors, and the names that files may have for the largest tensor.

    None for a model of another design. The first activation is taken for GELU.
    """
    modules = _MODULES.get(type(model).__name__)
    if modules is None:
        return None
    found = {part: model.get_submodule(module) for part, module in zip(_PARTS, modules, strict=True)}
    tensors = {
        f"{part}.{name}": getattr(module, name).detach()
        for part, module in found.items()
        for name in ("weight", "bias")
    }
    # A head that shares its weights with the encoder has no name of its own in the files.
    embeddings = f"{model.base_model_prefix}.embeddings.word_embeddings.weight"
    return {"epsilon": found["norm"].eps}, tensors, [f"{modules[-1]}.weight", embeddings]


def outputs_of(
    settings: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> Callable[[Sequence[Encoded], dict[str, Tensor]], Sequence[Output]]:
    """Return the function from a batch and its states to the weights of each window."""
    vocabulary = Vocabulary(settings["vocabulary"], sums=settings["sums"], most=settings["most"])

    def logits_of(states: Tensor) -> Tensor:
        found = functional.gelu(functional.linear(states, tensors["dense.weight"], tensors["dense.bias"]))
        size, epsilon = found.shape[-1:], settings["epsilon"]
        found = functional.layer_norm(found, size, tensors["norm.weight"], tensors["norm.bias"], epsilon)
        return functional.linear(found, tensors["decoder.weight"], tensors["decoder.bias"])

    def outputs(_: Sequence[Encoded], states: dict[str, Tensor]) -> Sequence[Output]:
        windows = zip(states["token_embeddings"], states["attention_mask"].bool(), strict=True)
        return [
            weights(vocabulary, logits_of(window[real].unsqueeze(0))[0], twice=settings["twice"])
            for window, real in windows
        ]

    return outputs


def weights(vocabulary: Vocabulary, logits: Tensor, *, twice: bool) -> Weights:
    """Return the weights for logits (tokens, vocabulary); ``twice`` takes the logarithm once more."""
    scores = logits.float().relu_()
    if not vocabulary.sums:  # the highest stays the highest
        scores = scores.amax(dim=0)
    for _ in range(2 if twice else 1):
        scores = scores.log1p_()
    if vocabulary.sums:
        scores = scores.sum(dim=0)
    [ids] = scores.nonzero(as_tuple=True)
    return Weights(vocabulary, ids.cpu().numpy(), scores[ids].cpu().numpy())
