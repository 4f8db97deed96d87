"""A head for tests: the logits of a token classifier, all of a window's as one vector."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer

from docmill.tasks.backends import Assignment, accelerator
from docmill.tasks.backends.encoder.heads import EncoderModel, own_states
from docmill.tasks.backends.tokens import Tokens
from docmill.tasks.kinds.base import Traits
from docmill.tasks.models import families
from docmill.tasks.outputs import Output, Vector
from docmill.tasks.windows.windows import Encoded


def load(assignment: Assignment, dtype: torch.dtype) -> EncoderModel:
    with accelerator.quiet():
        model = AutoModelForTokenClassification.from_pretrained(assignment.folder, dtype=dtype).eval()
        tokens = Tokens(AutoTokenizer.from_pretrained(assignment.folder))
    classifier = model.classifier.float()

    def outputs(batch: Sequence[Encoded], states: dict[str, torch.Tensor]) -> Sequence[Output]:
        logits = classifier(states["token_embeddings"])
        return [
            Vector(np.ascontiguousarray(rows[: one.tokens].numpy().ravel()))
            for one, rows in zip(batch, logits, strict=True)
        ]

    encoder = model.base_model
    limit = tokens.checked_limit(families.window_limit(model.config.to_dict(), tokens.stated_limit), None)
    own = own_states(encoder, tokens, assignment.device)
    return EncoderModel(tokens, limit, encoder, own, outputs, Traits(), "transformers")
