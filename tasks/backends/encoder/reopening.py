"""Open an encoder again without the libraries that describe it, which take most of the time of a short command.

The first opening of a spec reads the model's files with transformers or sentence-transformers, and compares the fast
encoder with the model's own code. The cache then keeps the tokenizer, the head, the places of the weights, and the
states that the model's own code gave. Later openings need only these, and make the same comparison. A folder that
does not pass is removed, and the model is opened as if for the first time. All of them may be deleted at any time.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from docmill.tasks.backends import Assignment, accelerator
from docmill.tasks.backends.convert import index_files, is_whole, made_once, safe_folder
from docmill.tasks.backends.encoder import fast_tokenizer, openings
from docmill.tasks.backends.encoder.comparison import Comparison, Measure
from docmill.tasks.backends.encoder.heads import EncoderModel, StatesOf
from docmill.tasks.backends.encoder.kept_heads import KeptHead
from docmill.tasks.backends.encoder.openings import FACTS, TENSORS, TOKENIZER
from docmill.tasks.backends.tokens import Tokens
from docmill.tasks.outputs import Output, SpanScores, TokenScores, Vector, Weights
from docmill.tasks.windows.windows import Encoded

log = logging.getLogger("docmill.backends")

_MOST_KEPT = 64  # openings; one of MiniLM has 0.7 MB
# Texts of several lengths, on which heads are compared.
_TEXTS = ("", "A word.", "Two words, or some more. " * 3, "word " * 40, "word " * 100)
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


@dataclass(frozen=True)
class Reopened:
    """A model that was opened again, and its fast encoder."""

    model: EncoderModel
    encoder: StatesOf


class Unkept(Exception):
    """Raised where the cache does not keep enough to open a model again, or where that does not hold any more."""


def folder(assignment: Assignment, implementation: str) -> Path:
    """Return the folder of the cache for a spec on a backend's class, under the libraries that are installed."""
    device = accelerator.device_name(assignment.device)
    return openings.folder(assignment, implementation, device, torch.get_num_threads())


def is_kept(assignment: Assignment, implementation: str) -> bool:
    """Return True if the cache keeps an opening of the spec on a backend's class."""
    return is_whole(folder(assignment, implementation), assignment.cache_dir)


def keep(
    ready: Path, assignment: Assignment, model: EncoderModel, encoder: Mapping[str, Any], comparison: Comparison
) -> None:
    """Keep a model's opening in the folder, with facts about its fast encoder, if it can be opened again so."""
    tokens, head = model.tokens, model.kept
    if assignment.device != "cpu" or tokens is None or head is None or model.traits.language_coders is not None:
        return
    tokenizer = fast_tokenizer.kept(tokens.tokenizer, tokens.stated_limit)
    if tokenizer is None or not _same(head, model, comparison.states[0].shape[-1]):
        return
    text, facts = tokenizer
    places = _places(assignment, head)
    facts = {
        "tokenizer": facts,
        "tokens": f"{type(tokens).__module__}:{type(tokens).__qualname__}",
        "prefix": tokens.prefix,
        "limit_tokens": model.limit_tokens,
        "normalizes": model.traits.normalizes,
        "pairs": model.traits.pairs is not None,
        "library": model.library,
        "head": dict(head.settings),
        "head_places": places,
        "encoder": dict(encoder),
        "comparison": {
            "texts": [
                [one.tokens, {name: [*one.feature(name)] for name in one.features}] for one in comparison.texts
            ],
            "tolerance": comparison.tolerance,
            "measure": comparison.measure,
        },
    }
    tensors = {f"head {name}": one for name, one in head.tensors.items() if name not in places}
    tensors |= {f"states {place}": one for place, one in enumerate(comparison.states)}

    def build(building: Path) -> None:
        (building / FACTS).write_text(json.dumps(facts))
        (building / TOKENIZER).write_text(text, encoding="utf-8")
        save_file({name: one.contiguous().clone() for name, one in tensors.items()}, building / TENSORS)

    try:
        made_once(ready, build, assignment.cache_dir)
        _remove_unused(ready.parent)
    except OSError as error:  # the next one opens it as we did
        log.warning("opening_not_kept path=%s error=%s", ready, error)


def _remove_unused(openings: Path) -> None:
    """Remove the openings that were used longest ago, which would else gather with each spec and each release."""
    whole = [one for one in openings.iterdir() if (one / FACTS).is_file()]
    for one in sorted(whole, key=lambda one: one.stat().st_mtime_ns)[:-_MOST_KEPT]:
        shutil.rmtree(one, ignore_errors=True)


def reopen(
    ready: Path,
    assignment: Assignment,
    encoder_of: Callable[[Mapping[str, Any], Tokens], StatesOf],
) -> Reopened | None:
    """Return the model as the folder keeps it; None if it must be opened as if for the first time.

    ``encoder_of`` makes the fast encoder of its facts.
    """
    if not is_whole(ready, assignment.cache_dir):
        return None
    try:
        facts, tensors = json.loads((ready / FACTS).read_bytes()), load_file(ready / TENSORS)
        in_files = weights_of(assignment, facts["head_places"], torch.float32)
        tensors |= {f"head {name}": one for name, one in in_files.items()}
        model = _model(facts, tensors, (ready / TOKENIZER).read_text(encoding="utf-8"))
        assert model.tokens is not None
        encoder = encoder_of(facts["encoder"], model.tokens)
        comparison = _comparison(facts["comparison"], tensors)
        distance = comparison.distance(encoder)
        if not distance <= comparison.tolerance:
            raise Unkept(f"difference={distance:.2g}")
    except Exception as error:  # whatever libraries raise on files or tensors that they do not know
        log.info("opening_not_repeated folder=%s error=%r", ready, error)
        shutil.rmtree(ready, ignore_errors=True)
        return None
    with suppress(OSError):  # a cache that is only read
        os.utime(ready)  # the time of its last use
    return Reopened(model, encoder)


def weights_in(assignment: Assignment, weights: Mapping[str, Tensor], prefix: str) -> dict[str, tuple[str, str]]:
    """Return for each of a model's weights the file and the name under which the model's folder has this tensor.

    Names in the file may begin with the ``prefix`` of a model with a head. Raises Unkept if a weight is not there.
    """
    folder = _weights_folder(assignment)
    found: dict[str, tuple[str, str]] = {}
    for path in _files(folder):
        with safe_open(str(path), framework="pt") as file:
            there = set(file.keys())
            for name, weight in weights.items():
                key = next((key for key in (name, f"{prefix}.{name}") if key in there), None)
                if key is not None and torch.equal(file.get_tensor(key).to(weight.dtype), weight):
                    found[name] = (path.relative_to(folder).as_posix(), key)
    if missing := weights.keys() - found.keys():
        raise Unkept(f"{len(missing)} weights are not in the files as they are computed with.")
    return found


def weights_of(assignment: Assignment, places: Mapping[str, Sequence[str]], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return weights from the places that ``weights_in`` found."""
    folder = _weights_folder(assignment)
    weights: dict[str, Tensor] = {}
    for name in sorted({file for file, _ in places.values()}):
        with safe_open(str(folder / name), framework="pt") as file:
            weights |= {ours: file.get_tensor(key).to(dtype) for ours, (at, key) in places.items() if at == name}
    return weights


def _places(assignment: Assignment, head: KeptHead) -> dict[str, tuple[str, str]]:
    """Return the places in the model's files of the head's large tensors, as far as they are there."""
    found = {}
    for name, ours in head.in_files.items():
        for one in ours:
            with suppress(Unkept):
                found[name] = weights_in(assignment, {one: head.tensors[name]}, "")[one]
    return found


def _same(head: KeptHead, model: EncoderModel, dim: int) -> bool:
    """Return True if the kept head gives exactly what the model's own gives for states drawn at random."""
    batch = model.encode(_TEXTS)
    mask = torch.zeros(len(batch), max(one.tokens for one in batch), dtype=torch.long)
    for one, row in zip(batch, mask, strict=True):
        row[: one.tokens] = 1
    drawn = torch.randn(*mask.shape, dim, generator=torch.Generator().manual_seed(0)) * mask.unsqueeze(-1)
    with torch.inference_mode():
        own, found = (
            outputs(batch, {"token_embeddings": drawn.clone(), "attention_mask": mask})
            for outputs in (model.outputs, head.outputs())
        )
    return [_bits(output) for output in own] == [_bits(output) for output in found]


def _bits(output: Output) -> object:
    if isinstance(output, Vector):
        return output.values.tobytes()
    if isinstance(output, Weights):
        return output.ids.tobytes(), output.values.tobytes()
    if isinstance(output, TokenScores):
        return output.labels, output.scores.tobytes()
    if isinstance(output, SpanScores):
        return output.starts.tobytes(), output.ends.tobytes(), output.null
    return output


def _model(facts: Mapping[str, Any], tensors: Mapping[str, Tensor], tokenizer: str) -> EncoderModel:
    """Return the model of kept facts, without an encoder."""
    tokens = openings.tokens_of(facts, tokenizer)
    head = KeptHead(facts["head"], {name.removeprefix("head "): one for name, one in tensors.items()})

    def own_states(_: Sequence[Encoded]) -> dict[str, Tensor]:
        raise AssertionError("a model that was opened again has a fast encoder")

    limit, traits = facts["limit_tokens"], openings.traits_of(facts, tokens)
    return EncoderModel(tokens, limit, None, own_states, head.outputs(), traits, facts["library"], head)


def _comparison(kept: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Comparison:
    texts = [Encoded(tokens, features) for tokens, features in kept["texts"]]
    states = [tensors[f"states {place}"] for place in range(len(texts))]
    return Comparison(texts, states, kept["tolerance"], Measure(kept["measure"]))


def _weights_folder(assignment: Assignment) -> Path:
    return safe_folder(assignment.folder, assignment.spec.revision, assignment.cache_dir)


def _files(folder: Path) -> list[Path]:
    """Return the files of weights in a folder, or in its folders of modules."""
    found = []
    for place in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        whole, index = (place / name for name in _WEIGHTS)
        found += [whole] if whole.is_file() else index_files(index) if index.is_file() else []
    return found
