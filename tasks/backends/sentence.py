"""Embeddings through sentence-transformers, so that a model's own files say how its vectors are made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sentence_transformers
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

from storage.specs import Spec
from tasks import families
from tasks.backends import Source, accelerator
from tasks.backends.convert import safe_folder
from tasks.backends.static import Items, StaticLoop
from tasks.backends.tokens import Tokens, padded
from tasks.batches import Budget
from tasks.errors import CannotServe
from tasks.outputs import Output, Vector
from tasks.recipes import Traits
from tasks.windows import Encoded

_POOLING = {"cls": "cls", "mean": "mean", "last": "lasttoken"}
_BUDGETS = {"cpu": Budget(tokens=4096, rows=64), "cuda": Budget(tokens=65_536, rows=1024)}


class SentenceBackend:
    """One embedding model. Plain transformers get token ids from the submitting thread; other first modules
    (bags of words, static embeddings) get the text and tokenise on their own."""

    def __init__(self, spec: Spec, folder: Path, *, device: str, cache_dir: Path) -> None:
        self._device = device
        self._dtype = accelerator.dtype_for(spec.quality, device)
        folder = safe_folder(folder, spec.revision, cache_dir)
        with accelerator.quiet():
            self._model = SentenceTransformer(
                str(folder),
                device=device,
                trust_remote_code=False,
                local_files_only=True,
                model_kwargs={"dtype": self._dtype, "use_safetensors": True},
            )
        self._model.eval()
        self._prompt = _default_prompt(self._model)
        if (pooling := spec.params.get("pooling")) is not None:
            _set_pooling(self._model, _POOLING[pooling])
        self._tokens = self._tokenizer_of(self._model)
        self._limit_tokens = self._limit(spec.params.get("window_tokens"))
        self._truncate_dim = self._model.truncate_dim
        self._loop = StaticLoop(self._compute, _BUDGETS[device.partition(":")[0]])
        self.traits = Traits(
            # Vectors cut to fewer dimensions have no length of 1 any more.
            normalizes=self._truncate_dim is None and any(isinstance(module, Normalize) for module in self._model)
        )

    @property
    def limit_tokens(self) -> int:
        return self._limit_tokens

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        if self._tokens is not None:
            return self._tokens.encode(texts)
        # Such modules have no limit worth cutting for; words are near enough for the batches.
        return [Encoded(max(1, len(text.split())), text) for text in texts]

    def run(self, source: Source) -> Iterator[tuple[int, Output]]:
        return self._loop.run(source)

    def runtime(self) -> dict[str, Any]:
        found = accelerator.runtime("sentence-transformers", self._device, self._dtype)
        found["versions"]["sentence-transformers"] = sentence_transformers.__version__
        return found

    def close(self) -> None:
        del self._model
        accelerator.release(self._device)

    def _compute(self, items: Items) -> Sequence[Output]:
        with torch.inference_mode(), accelerator.memory_errors(self._device):
            features = self._features(items)
            vectors = self._forward(features)["sentence_embedding"]
            if self._truncate_dim is not None:
                vectors = vectors[..., : self._truncate_dim]
            rows = vectors.float().cpu().numpy()
        return [Vector(np.ascontiguousarray(row)) for row in rows]

    def _forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """The model's modules in turn, all but the first in float32: a half precision's sums over a text's tokens
        and its norms are too coarse for a vector of length 1."""
        first, *others = self._model
        features = first(features)
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


def _default_prompt(model: SentenceTransformer) -> str:
    """The prompt that the model's files put before every text, if they name a default."""
    name = model.default_prompt_name
    return str(model.prompts.get(name) or "") if name else ""


def _set_pooling(model: SentenceTransformer, mode: str) -> None:
    for number, module in enumerate(model):
        if isinstance(module, Pooling):
            if isinstance(module.pooling_mode, tuple):
                raise CannotServe("The model joins several poolings; --pooling cannot replace them.")
            model[number] = Pooling(module.embedding_dimension, mode, include_prompt=module.include_prompt)
            return
    raise CannotServe("The model has no pooling module that --pooling could replace.")
