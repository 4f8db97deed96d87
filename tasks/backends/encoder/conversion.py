"""The conversion of an encoder-only model for OpenVINO: its encoder, its head, and the facts to open them again.

Raises Unsuited if OpenVINO's outputs differ from those of the model's own code.
"""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino
import torch
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import ACT2FN

from docmill.tasks.backends import Assignment, accelerator
from docmill.tasks.backends.convert import make_once
from docmill.tasks.backends.encoder import heads, int8
from docmill.tasks.backends.encoder.converted import (
    ARRAYS,
    ENCODER,
    ENCODERS,
    FACTS,
    HEAD,
    NUMBERS,
    STATES,
    TOKENIZER,
    ConvertedModel,
    Graph,
    facts_of,
)
from docmill.tasks.backends.encoder.heads import Array, EncoderModel, ReferenceStates
from docmill.tasks.backends.encoder.own_code import (
    TOLERANCES,
    NumbersOf,
    compute_reference,
    local_span,
    reads_padding,
)
from docmill.tasks.backends.encoder.packed import activation, has_berts_design, module_names
from docmill.tasks.backends.tokens import PlacedTokens, Tokens, padded
from docmill.tasks.errors import Unsuited
from docmill.tasks.models import families
from docmill.tasks.windows.windows import Encoded

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("docmill.backends")

# Raise this number with every change of the traced functions.
_FORMAT = 1
_MOST_KEPT = 64  # specs; one of MiniLM has 0.7 MB beside the encoder
# The most by which a head's numbers may differ from torch's, absolutely and relatively.
_TOLERANCE = 1e-4


def convert(assignment: Assignment, folder: Path, precision: str, threads: int) -> ConvertedModel:
    """Load a model, convert it into a folder of the cache, and open it from there.

    Raises Unsuited if it does not convert or its outputs differ, and the errors of loading.
    """
    spec, cache_dir = assignment.spec, assignment.cache_dir
    model = heads.load(assignment, torch.float32)
    encoder, tokens = model.encoder, model.tokens
    if encoder is None or tokens is None:
        raise Unsuited(f"{spec.model} has modules that read more than the encoder's last hidden states.")
    tokenizer = facts_of(tokens.tokenizer, tokens.stated_limit)
    if tokenizer is None:
        raise Unsuited(f"The tokenizer of {spec.model} gives different tokens from its tokenizer.json alone.")
    if reads_padding(model, TOLERANCES[torch.float32]):
        raise Unsuited(f"{spec.model} gives a text other numbers beside a longer text: its own code computes it.")
    form, make, compare = _plan(assignment, model, encoder, tokens, getattr(torch, precision))
    encoders = cache_dir / ENCODERS / f"{spec.revision.replace(':', '-')}-{form}"

    def build_encoder(building: Path) -> None:
        openvino.save_model(make(), building / ENCODER, compress_to_fp16=False)

    def build(building: Path) -> None:
        comparison = compare()
        facts, arrays = _describe(model, tokens, comparison)
        facts |= {"encoder": encoders.name, "tokenizer": tokenizer[1]}
        _build_head(model.head, comparison.states[0].shape[-1], building / HEAD)
        (building / FACTS).write_text(json.dumps(facts))
        (building / TOKENIZER).write_text(tokenizer[0], encoding="utf-8")
        np.savez(building / ARRAYS, **arrays)  # type: ignore[arg-type]  # names are not those of its options

    try:
        make_once(encoders, build_encoder, cache_dir)
        make_once(folder, build, cache_dir)
        _remove_unused(folder.parent)
        return ConvertedModel(folder, cache_dir, precision, threads)
    except (OSError, Unsuited):
        raise
    except Exception as error:  # whatever the converters raise on code that they cannot follow
        raise Unsuited(f"{spec.model} does not convert for OpenVINO: {type(error).__name__}.") from error


def _plan(
    assignment: Assignment, model: EncoderModel, encoder: PreTrainedModel, tokens: Tokens, dtype: torch.dtype
) -> int8.Conversion:
    """Return the version of the encoder's form, the function that makes it, and the function that compares it."""
    first_only = model.reads_first and has_berts_design(encoder)
    local = "-local" if local_span(encoder.config) else ""
    first = "-first" if first_only else ""
    form = f"{openvino.__version__.partition('-')[0]}-{version('transformers')}-{_FORMAT}{local}{first}"

    def trace() -> openvino.Model:
        return traced(encoder, tokens, first_only=first_only)

    if assignment.spec.quality == "int8":
        # Without the spec's prefix and limit, since all specs of a model share the encoder.
        limit = families.window_limit(encoder.config.to_dict(), tokens.stated_limit)
        return int8.quantization(form, trace, encoder, tokens.framed(""), limit, first_only=first_only)
    return form, trace, lambda: compute_reference(encoder, TOLERANCES[dtype], first_only=first_only)


def _describe(
    model: EncoderModel, tokens: Tokens, comparison: ReferenceStates
) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return the facts to open a model again, beside its graphs and its tokenizer, as JSON and as arrays."""
    arrays = {name: value for name, value in model.form.items() if isinstance(value, np.ndarray)}
    facts = {
        "placed": isinstance(tokens, PlacedTokens),
        "prefix": tokens.prefix,
        "limit_tokens": model.limit_tokens,
        "normalizes": model.traits.normalizes,
        "pairs": model.traits.pairs is not None,
        "library": model.library,
        "form": {name: value for name, value in model.form.items() if name not in arrays},
        "arrays": [*arrays],
        "comparison": {
            "texts": [
                [text.tokens, {name: [*text.feature(name)] for name in text.features}] for text in comparison.texts
            ],
            "tolerance": comparison.tolerance,
            "means": comparison.means,
        },
    }
    states = {f"states {place}": of_text for place, of_text in enumerate(comparison.states)}
    return facts, {**states, **{f"form {name}": value for name, value in arrays.items()}}


def _remove_unused(opened: Path) -> None:
    """Remove the specs that were opened longest ago. Otherwise each spec and release would add a folder for ever."""
    whole = [folder for folder in opened.iterdir() if (folder / FACTS).is_file()]
    for folder in sorted(whole, key=lambda folder: folder.stat().st_mtime_ns)[:-_MOST_KEPT]:
        shutil.rmtree(folder, ignore_errors=True)


class _Module(nn.Module):
    """A function of tensors as a module, for the tracer, with the model that holds the function's weights."""

    def __init__(self, function: Callable[..., Tensor], model: nn.Module | None) -> None:
        super().__init__()
        self._function = function
        self._model = model

    def forward(self, *values: Tensor) -> Tensor:
        return self._function(*values)


def _compute_last_states(model: PreTrainedModel, names: Sequence[str], *values: Tensor) -> Tensor:
    """Return an encoder's last hidden states from tensors, in the order of ``names``."""
    states: Tensor = model(**dict(zip(names, values, strict=True)), return_dict=False)[0]
    return states


def first_states(model: PreTrainedModel, names: Sequence[str], *values: Tensor) -> Tensor:
    """Return the last states of the first tokens, of shape (texts, 1, dim), by an encoder of BERT's design.

    The last layer computes only keys and values of the other tokens. In a model of six layers, this saves a seventh
    of all products.
    """
    layers = model.get_submodule(module_names(model).layers.removesuffix(".{}"))
    assert isinstance(layers, nn.ModuleList)
    last = layers[-1]
    del layers[-1]
    try:
        states = _compute_last_states(model, names, *values)
    finally:
        layers.append(last)
    return _compute_first(model, last, states, values[names.index("attention_mask")])


def _compute_first(model: PreTrainedModel, layer: nn.Module, states: Tensor, attention_mask: Tensor) -> Tensor:
    names, first, heads = module_names(model), states[:, :1], model.config.num_attention_heads
    projections = zip((first, states, states), names.projections, strict=True)
    query, key, value = (
        # From shape (texts, tokens, dim) to (texts, heads, tokens, dim of a head).
        layer.get_submodule(name)(inputs).view(*inputs.shape[:2], heads, -1).transpose(1, 2)
        for inputs, name in projections
    )
    seen = attention_mask[:, None, None, :].bool()
    mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
    mixed = layer.get_submodule(names.mixed)(mixed.transpose(1, 2).flatten(2))
    first = layer.get_submodule(names.attention_norm)(first + mixed)
    inner = ACT2FN[activation(model.config)](layer.get_submodule(names.inner)(first))
    output: Tensor = layer.get_submodule(names.output_norm)(first + layer.get_submodule(names.outer)(inner))
    return output


def traced(model: PreTrainedModel, tokens: Tokens, *, first_only: bool = False) -> openvino.Model:
    """Return the encoder as OpenVINO's model, from inputs of any shape, by the tokenizer's names, to last states."""
    # Two texts of different lengths, so that the tracer does not assume a mask of ones.
    features = padded([Encoded(5, {"input_ids": [1] * 5}), Encoded(3, {"input_ids": [1] * 3})], tokens)
    if "token_type_ids" in tokens.encode(["a"])[0].features:
        features["token_type_ids"] = torch.zeros_like(features["input_ids"])
    function = partial(first_states if first_only else _compute_last_states, model, list(features))
    with _written_out(model):
        return _trace(function, features, [-1, -1], STATES, model)


def _build_head(numbers_of: NumbersOf, dim: int, file: Path) -> None:
    """Convert a head into a file. Raises Unsuited if its numbers differ on random states."""
    draw = torch.Generator().manual_seed(0)
    mask = torch.tensor([[1] * 5, [1] * 3 + [0] * 2])
    features = {"token_embeddings": torch.randn(2, 5, dim, generator=draw), "attention_mask": mask}

    def function(*values: Tensor) -> Tensor:
        return numbers_of(dict(zip(features, values, strict=True)))

    made = _trace(function, features, [-1, -1, dim], NUMBERS)
    openvino.save_model(made, file, compress_to_fp16=False)
    states = torch.randn(4, 9, dim, generator=draw)
    mask = (torch.arange(9)[None, :] < torch.tensor([9, 1, 4, 8])[:, None]).long()
    others = {"token_embeddings": states, "attention_mask": mask}
    with torch.inference_mode():
        own = heads.as_array(numbers_of(others).float())
    numbers = Graph(file, "float32", 1)({name: value.numpy() for name, value in others.items()})
    if numbers.shape != own.shape or not np.allclose(numbers, own, rtol=_TOLERANCE, atol=_TOLERANCE):
        raise Unsuited("The model's head on OpenVINO does not give the same numbers.")


def _trace(
    function: Callable[..., Tensor],
    features: Mapping[str, Tensor],
    shape: Sequence[int],
    output: str,
    model: nn.Module | None = None,
) -> openvino.Model:
    """Return a function of these features as OpenVINO's model. ``model`` holds the function's weights.

    The first input has the ``shape``, with -1 for any size. The others have two dimensions of any size.
    """
    # The tracer warns at every `if` of the model's code.
    silent = warnings.catch_warnings(action="ignore")
    with accelerator.quiet(), silent, torch.no_grad(), _keep_root_logger():
        # Each opening compares the states, which proves more than the tracer's own check.
        decoder = TorchScriptPythonDecoder(
            _Module(function, model), example_input=tuple(features.values()), trace_kwargs={"check_trace": False}
        )
        made = openvino.convert_model(decoder)
    shapes = [shape, *([[-1, -1]] * (len(features) - 1))]
    # A head need not read the mask.
    for port, name, of_input in zip(made.inputs, features, shapes, strict=False):
        port.get_tensor().set_names({name})
        port.get_node().set_partial_shape(openvino.PartialShape([*of_input]))
    made.outputs[0].get_tensor().set_names({output})
    made.validate_nodes_and_infer_types()
    return made


@contextmanager
def _keep_root_logger() -> Iterator[None]:
    """Restore the root logger: the converter changes its level, and adds a filter and a handler."""
    root = logging.getLogger()
    level, filters, handlers = root.level, root.filters[:], root.handlers[:]
    try:
        yield
    finally:
        root.setLevel(level)
        root.filters[:], root.handlers[:] = filters, handlers


@contextmanager
def _written_out(model: PreTrainedModel) -> Iterator[None]:
    """Trace local attention as products.

    OpenVINO's fused attention gives NaN for a token that attends to no token, such as padding that is farther from
    the text than the span.
    """
    if not local_span(model.config):
        yield
        return
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)
