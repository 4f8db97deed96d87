"""A greedy search whose batch shrinks as texts end, for transformers' generate.

Its win over generate's own is recorded in bench/results/inference.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutput

# Rows leave when they are so large a share of the batch: each leaving copies what is known of the others.
LEAVING = 0.125
_CACHES = ("cache", "past_key_values")


def cache_name(model_kwargs: Mapping[str, Any]) -> str:
    """Return the name that this release of transformers has for the cache."""
    return next(name for name in _CACHES if name in model_kwargs)


def shrinking_greedy(
    model: Any,
    input_ids: torch.Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    **model_kwargs: Any,
) -> torch.Tensor:
    """Return what generate's own greedy search writes, shape (rows, longest), with the end token after each end.

    A ``custom_generate`` of encoder-decoder models: generate prepares the encoder's states, the cache and the
    processors, whose scores must not depend on the place of a row.
    """
    name = cache_name(model_kwargs)
    states, mask, cache = model_kwargs["encoder_outputs"][0], model_kwargs["attention_mask"], model_kwargs[name]
    ends = generation_config.eos_token_id
    end = ends[0] if isinstance(ends, list) else ends
    rows, over = torch.arange(len(input_ids)), torch.zeros(len(input_ids), dtype=torch.bool)
    ids = input_ids
    written: list[torch.Tensor] = [ids[0]] * len(input_ids)
    while True:
        step = model(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=mask,
            decoder_input_ids=ids[:, -1:],
            use_cache=True,
            return_dict=True,
            **{name: cache},
        )
        scores = logits_processor(ids, step.logits[:, -1].float())
        ids = torch.cat([ids, scores.argmax(dim=-1, keepdim=True)], dim=-1)
        ending = stopping_criteria(ids, None).cpu() & ~over
        for place in ending.nonzero()[:, 0].tolist():
            written[rows[place]] = ids[place]
        over |= ending
        if bool(over.all()):
            break
        if over.sum() >= max(1, LEAVING * len(over)):
            staying = (~over).nonzero()[:, 0]
            rows, over = rows[staying], over[staying]
            there = staying.to(ids.device)
            ids, states, mask = ids[there], states[there], mask[there]
            for part in (cache.self_attention_cache, cache.cross_attention_cache):
                part.batch_select_indices(there)
    return torch.nn.utils.rnn.pad_sequence(written, batch_first=True, padding_value=end)
