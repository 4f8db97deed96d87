"""Embeddings through sentence-transformers, so that a model's own files say how its vectors are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import sentence_transformers
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

from storage.specs import Spec
from tasks import encoders, families, named_prompts
from tasks.backends import Assignment, Source, accelerator
from tasks.backends.convert import safe_folder
from tasks.backends.encoder.packed import PackedEncoder, proven_encoder
from tasks.backends.encoder.streams import Streams
from tasks.backends.encoder.warmup import WarmUp
from tasks.backends.loading import reported
from tasks.backends.static import Items, StaticLoop
from tasks.backends.tokens import Tokens, padded
from tasks.batches import Budget
from tasks.errors import CannotServe
from tasks.kinds.base import Traits
from tasks.outputs import Output, Vector
from tasks.windows import Encoded

# From a batch to ``token_embeddings`` and ``attention_mask``; called from several threads.
StatesOf = Callable[[Sequence[Encoded]], dict[str, torch.Tensor]]

_POOLING = {"cls": "cls", "mean": "mean", "last": "lasttoken"}
# Of each full batch may be padding: with more the next batch is cheaper, with less there are too many small ones
# (lengths of paragraphs, eight shards of them at hand: 1.5 to 2.5 % of all, 2.4 to 5.2 % without this bound).
_PADDING = 0.02
_BUDGETS = {
    "cpu": Budget(tokens=2048, rows=64, padding=_PADDING),
    "cuda": Budget(tokens=65_536, rows=1024, padding=_PADDING),
}
# Tokens of a batch that are tried when a model is opened on a device for the first time.
_SIZES = {"cpu": (1024, 2048, 4096), "cuda": (16_384, 32_768, 65_536, 131_072, 262_144)}
_WARM_UP_WORDS = 48
# Weights that no output depends on where a model gives its last hidden states: many are saved without them.
_POOLERS = ("pooler.",)


class SentenceModel:
    """An embedding model as its files describe it, and what it reads under a spec. Raises WeightsMissing."""

    def __init__(self, assignment: Assignment, dtype: torch.dtype) -> None:
        spec = assignment.spec
        encoders.require_dense(encoders.Description.of_folder(assignment.folder), spec.model)
        folder = safe_folder(assignment.folder, spec.revision, assignment.cache_dir)
        with accelerator.quiet(), reported() as report:
            self._model = SentenceTransformer(
                str(folder),
                device=assignment.device,
                trust_remote_code=False,
                local_files_only=True,
                model_kwargs={"dtype": dtype, "use_safetensors": True},
            )
        report.require(spec.model, spec.kind, unused=() if _uses_pooler(self._model) else _POOLERS)
        self._model.eval()
        self._prompt = named_prompts.prompt(spec, self._model.prompts, self._model.default_prompt_name)
        if (pooling := spec.params.get("pooling")) is not None:
            _set_pooling(self._model, _POOLING[pooling])
        self._tokens = self._tokenizer_of(self._model)
        self._limit_tokens = self._limit(spec.params.get("window_tokens"))

    @property
    def limit_tokens(self) -> int:
        return self._limit_tokens

    def _tokenizer_of(self, model: SentenceTransformer) -> Tokens | None:
        first = model[0]
        plain = type(first) is Transformer and hasattr(first.tokenizer, "pad")
        if not plain:
            return None
        tokens = Tokens(first.tokenizer, prefix=self._prompt)
        self._prompt_length = tokens.prefix_length
        return tokens

    def _limit(self, asked: int | None) -> int:
        if self._tokens is None:
            return asked or 1_000_000_000
        config = self._model[0].auto_model.config.to_dict()
        limit = families.window_limit(config, self._tokens.stated_limit, self._model.max_seq_length)
        return self._tokens.checked_limit(limit, asked)


class SentenceBackend(SentenceModel):
    """One embedding model. Plain transformers get token ids from the submitting thread; other first modules
    (bags of words, static embeddings) get the text and tokenise on their own. Encoders of BERT's design are computed
    without padding on a CPU (``tasks.backends.encoder.packed``)."""

    def __init__(self, assignment: Assignment) -> None:
        spec, device, cache_dir = assignment.spec, assignment.device, assignment.cache_dir
        self._device = device
        self._dtype = self._computed_in(spec.quality)
        super().__init__(assignment, self._loading_dtype())
        self._truncate_dim = self._model.truncate_dim
        fits = self._tokens is not None and _states_only(self._model)
        self._encoder = self._own_encoder(spec, cache_dir, fits)
        kind = device.partition(":")[0]
        budget = _BUDGETS[kind]
        if isinstance(self._encoder, PackedEncoder):
            budget = replace(budget, packed=True, padding=1.0)
        self._loop = StaticLoop(self._compute, budget)
        # Modules that tokenise on their own are not known to be safe for several threads.
        side_by_side = device == "cpu" and self._tokens is not None
        self._streams = Streams(self._loop, self._compute) if side_by_side else None
        self.traits = Traits(
            # Vectors cut to fewer dimensions have no length of 1 any more.
            normalizes=self._truncate_dim is None and any(isinstance(module, Normalize) for module in self._model)
        )
        self._warm_up = WarmUp(
            self._loop, self.run, self._short_window(), at_once=self._streams.count if self._streams else 1
        )
        if self._tokens is not None:
            here = f"{type(self).__name__} {accelerator.device_name(device)} {torch.get_num_threads()}"
            self._warm_up.find(_SIZES[kind], cache_dir / "batches", f"{spec.revision} {spec.quality} {here}")

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        if self._tokens is not None:
            return self._tokens.encode(texts)
        # Such modules have no limit worth cutting for; words are near enough for the batches.
        return [Encoded(max(1, len(text.split())), text) for text in texts]

    def run(self, source: Source) -> Iterator[tuple[int, Output]]:
        return (self._streams or self._loop).run(source)

    def tokens_per_s(self) -> float:
        """How fast short windows are computed here, by a measurement of a fraction of a second."""
        return self._warm_up.rate()

    def runtime(self) -> dict[str, Any]:
        found = accelerator.runtime("sentence-transformers", self._device, self._dtype)
        found["versions"]["sentence-transformers"] = sentence_transformers.__version__
        return found

    def close(self) -> None:
        if self._streams is not None:
            self._streams.close()
        del self._model, self._encoder
        accelerator.release(self._device)

    def _compute(self, items: Items) -> Sequence[Output]:
        with torch.inference_mode(), accelerator.memory_errors(self._device):
            vectors = self._pooled(self._states(items))["sentence_embedding"]
            if self._truncate_dim is not None:
                vectors = vectors[..., : self._truncate_dim]
            rows = vectors.float().cpu().numpy()
        return [Vector(np.ascontiguousarray(row)) for row in rows]

    def _computed_in(self, quality: str) -> torch.dtype:
        """The precision of what is computed; raises CannotServe for a quality that this backend does not have."""
        return accelerator.dtype_for(quality, self._device)

    def _loading_dtype(self) -> torch.dtype:
        """The precision in which the model is loaded."""
        return self._dtype

    def _own_encoder(self, spec: Spec, cache_dir: Path, fits: bool) -> StatesOf | None:
        """What computes the first module's states in its place; None where that does it itself.

        ``fits`` says whether the other modules need nothing but states and mask.
        """
        return proven_encoder(self._model[0].auto_model, self._device, self._dtype) if fits else None

    def _states(self, items: Items) -> dict[str, Any]:
        """What the model's first module gives for a batch."""
        if self._encoder is None:
            return dict(self._model[0](self._features(items)))
        states: dict[str, Any] = dict(self._encoder([item.encoded for item in items]))
        if self._prompt:
            states["prompt_length"] = self._prompt_length
        return states

    def _pooled(self, features: dict[str, Any]) -> dict[str, Any]:
        """The model's other modules in turn, in float32: a half precision's sums over a text's tokens and its norms
        are too coarse for a vector of length 1."""
        _, *others = self._model
        for name, value in features.items():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                features[name] = value.float()
        for module in others:
            features = module(features)
        return features

    def _features(self, items: Items) -> dict[str, Any]:
        """One batch as the model's own preprocessing would give it, without tokenising again."""
        features: dict[str, Any]
        if self._tokens is None:
            texts = [str(item.encoded.features) for item in items]
            features = dict(self._model.preprocess(texts, prompt=self._prompt or None))
        else:
            features = dict(padded([item.encoded for item in items], self._tokens))
            features["modality"] = "text"
            if self._prompt:
                features["prompt_length"] = self._prompt_length
        return {
            name: value.to(self._device) if isinstance(value, torch.Tensor) else value
            for name, value in features.items()
        }

    def _short_window(self) -> Encoded:
        """A window as most are: some dozens of tokens, or as many as the model takes."""
        words = _WARM_UP_WORDS
        while (window := self.encode(["word " * words])[0]).tokens > self._limit_tokens and words > 1:
            words //= 2
        return window


def _states_only(model: SentenceTransformer) -> bool:
    """Whether the modules after the first need nothing of it but its last hidden states."""
    first, *others = model
    output = first.modality_config["text"]["method_output_name"]
    last = output in ("last_hidden_state", ("last_hidden_state",), ["last_hidden_state"])
    more = first.auto_model.config.output_hidden_states
    return last and not more and all(type(module) in (Pooling, Normalize, Dense) for module in others)


def _uses_pooler(model: SentenceTransformer) -> bool:
    """Return True if a module reads its transformer's own pooler, and not the last hidden states."""
    readers = [module for module in model.modules() if isinstance(module, Transformer)]
    return any("pooler" in str(reader.modality_config) for reader in readers)


def _set_pooling(model: SentenceTransformer, mode: str) -> None:
    for number, module in enumerate(model):
        if isinstance(module, Pooling):
            if isinstance(module.pooling_mode, tuple):
                raise CannotServe("The model joins several poolings; --pooling cannot replace them.")
            model[number] = Pooling(module.embedding_dimension, mode, include_prompt=module.include_prompt)
            return
    raise CannotServe("The model has no pooling module that --pooling could replace.")
