"""Searches whose batch shrinks as texts are done, for transformers' generate: greedy, and by beams.

The rows of a batch may also be sampled, each by a generator of its own.

Their wins over generate's own are recorded in bench/results/inference.md, translate.md and summarize.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from transformers.modeling_outputs import BaseModelOutput

from tasks.backends.draws import drawn
from tasks.backends.log_probabilities import Tally, Written, of_chosen
from tasks.outputs import Likelihood

if TYPE_CHECKING:
    from transformers import Cache, GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList

# Rows leave when they are so large a share of the batch: each leaving copies what is known of the others.
_LEAVING = 0.125
_CACHES = ("cache", "past_key_values")
# What is added to a score that must not be chosen. Not infinite, so that what processors forbid is worse still.
_NEVER = -1e9


def shrinking_rows(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    generators: Sequence[torch.Generator] | None = None,
    **model_kwargs: Any,
) -> list[Written]:
    """Return what generate's own search without beams writes for each row, with the token that it begins with.

    It is greedy, or draws samples if ``generators`` has one for each row. A ``custom_generate`` of encoder-decoder
    models: generate prepares the encoder's states, the cache and the processors, whose scores must not depend on the
    place of a row.
    """
    name = _cache_name(model_kwargs)
    states, mask, cache = model_kwargs["encoder_outputs"][0], model_kwargs["attention_mask"], model_kwargs[name]
    rows, over = torch.arange(len(input_ids)), torch.zeros(len(input_ids), dtype=torch.bool)
    ids = input_ids
    written: list[torch.Tensor] = [ids[0]] * len(input_ids)
    tallies = [Tally() for _ in input_ids]
    while True:
        logits = _next_logits(model, states, mask, ids[:, -1:], {name: cache}).float()
        scores = logits_processor(ids, logits)
        if generators is None:
            tokens = scores.argmax(dim=-1)
        else:
            tokens = drawn(scores, [generators[row] for row in rows.tolist()])
        if not _forces(generation_config, ids.shape[1]):
            log_probabilities = of_chosen(logits, tokens).tolist()
            for row, value, ended in zip(rows.tolist(), log_probabilities, over.tolist(), strict=True):
                if not ended:
                    tallies[row].add(value)
        ids = torch.cat([ids, tokens[:, None]], dim=-1)
        ending = stopping_criteria(ids, None).cpu() & ~over
        for place in ending.nonzero()[:, 0].tolist():
            written[rows[place]] = ids[place]
        over |= ending
        if bool(over.all()):
            break
        if over.sum() >= max(1, _LEAVING * len(over)):
            staying = (~over).nonzero()[:, 0]
            rows, over = rows[staying], over[staying]
            there = staying.to(ids.device)
            ids, states, mask = ids[there], states[there], mask[there]
            for part in (cache.self_attention_cache, cache.cross_attention_cache):
                part.batch_select_indices(there)
    return [Written(row.tolist(), tally.likelihood) for row, tally in zip(written, tallies, strict=True)]


def _forces(settings: GenerationConfig, length: int) -> bool:
    """Return True if the token after ``length`` others is one that the settings force."""
    at_limit = length == settings.max_length - 1 and settings.forced_eos_token_id is not None
    return at_limit or (length == 1 and settings.forced_bos_token_id is not None)


@dataclass(frozen=True, slots=True)
class End:
    """An output of a text, with its score for a token."""

    score: float
    ids: torch.Tensor
    likelihood: Likelihood


@dataclass(eq=False)
class Ends:
    """The best outputs of one text so far, at most ``beams``, best first, by their score for a token.

    Nothing is added once its search is ``over``, however long the text stays in the batch.
    """

    beams: int
    found: list[End] = field(default_factory=list)
    over: bool = False

    def add(self, end: End) -> None:
        if not self.over:
            self.found = sorted([*self.found, end], key=lambda one: -one.score)[: self.beams]

    def settle(self, hope: float, early: bool) -> None:
        """The search is over when there are enough outputs and none with a score of ``hope`` would be among them."""
        enough = len(self.found) == self.beams
        self.over = self.over or (enough and (early or not hope > self.found[-1].score))


def shrinking_beams(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    **model_kwargs: Any,
) -> list[Written]:
    """Return what generate's own search by beams writes for each text, with the token that it begins with.

    Each text has as many outputs as ``num_return_sequences`` says, the best first.

    A ``custom_generate`` of encoder-decoder models. By the rules of transformers' ``_beam_search`` no text depends
    on the others, so a text leaves when its own search is over. The first step is the same for all beams of a text
    and is computed once, and what the decoder keeps of the encoder's states is never reordered.
    """
    name = _cache_name(model_kwargs)
    beams, cache = generation_config.num_beams, model_kwargs[name]
    early, penalty = generation_config.early_stopping, generation_config.length_penalty
    end_ids = torch.as_tensor(generation_config.eos_token_id).flatten()
    n_candidates = max(2, 1 + len(end_ids)) * beams
    states, mask = model_kwargs["encoder_outputs"][0][::beams], model_kwargs["attention_mask"][::beams]
    ids, prompt = input_ids, input_ids.shape[1]

    found = [Ends(beams) for _ in states]
    open_texts = list(found)
    scores = torch.full((len(found), beams), _NEVER, device=ids.device)
    scores[:, 0] = 0  # or else all beams of a text would write the same
    # Of each beam the sum and the least of its tokens' log-probabilities, before processors change them.
    sums, leasts = torch.zeros_like(scores), torch.zeros_like(scores)
    chosen_tokens = 0
    logits = _next_logits(model, states, mask, ids[::beams], {name: cache}).repeat_interleave(beams, dim=0)
    states, mask = states.repeat_interleave(beams, dim=0), mask.repeat_interleave(beams, dim=0)
    cache.self_attention_cache.batch_repeat_interleave(beams)
    cache.cross_attention_cache.batch_repeat_interleave(beams)
    while True:
        own = torch.log_softmax(logits.float(), dim=-1)
        best, rows, tokens = _candidates(logits_processor(ids, own), scores, n_candidates)
        of_tokens = own[rows, tokens]
        if _forces(generation_config, ids.shape[1]):
            of_tokens = torch.zeros_like(of_tokens)
        else:
            chosen_tokens += 1
        totals = sums.flatten()[rows] + of_tokens
        least = leasts.flatten()[rows].minimum(of_tokens)
        longer = torch.cat([ids[rows], tokens[..., None]], dim=-1)
        ending = stopping_criteria(longer.flatten(0, 1), None).view_as(best)
        length = longer.shape[-1] - prompt
        final = (best / length**penalty).tolist()
        for text, place in ending[:, :beams].nonzero().tolist():
            likelihood = Likelihood(float(totals[text, place]), float(least[text, place]), chosen_tokens)
            open_texts[text].add(End(final[text][place], longer[text, place], likelihood))
        scores, chosen = (best + ending * _NEVER).topk(beams)
        sums, leasts = totals.gather(1, chosen), least.gather(1, chosen)
        most = generation_config.max_length - prompt if early == "never" and penalty > 0 else length
        hopes = (scores[:, 0] / most**penalty).tolist()
        for ends, hope in zip(open_texts, hopes, strict=True):
            ends.settle(hope, early is True)
        staying = [place for place, ends in enumerate(open_texts) if not ends.over]
        if not staying or bool(ending.all()):
            break
        rows, ids = rows.gather(1, chosen), longer[torch.arange(len(longer), device=ids.device)[:, None], chosen]
        if len(staying) <= (1 - _LEAVING) * len(open_texts):
            open_texts = [open_texts[place] for place in staying]
            there = torch.tensor(staying, device=ids.device)
            rows, ids, scores, sums, leasts = (one[there] for one in (rows, ids, scores, sums, leasts))
            of_texts = (there[:, None] * beams + torch.arange(beams, device=ids.device)).flatten()
            states, mask = states[of_texts], mask[of_texts]
            cache.cross_attention_cache.reorder_cache(of_texts)
        ids = ids.flatten(0, 1)
        cache.self_attention_cache.reorder_cache(rows.flatten())
        logits = _next_logits(model, states, mask, ids[:, -1:], {name: cache})
    kept = [end for ends in found for end in ends.found[: generation_config.num_return_sequences]]
    return [Written(end.ids.tolist(), end.likelihood) for end in kept]


def _candidates(
    log_probs: torch.Tensor, scores: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The best continuations of each text: scores, the rows that they continue and their tokens, (texts, count)."""
    texts, beams = scores.shape
    best, tokens = log_probs.topk(min(count, log_probs.shape[-1]))
    each = best.shape[-1]
    together = (best.view(texts, beams, each) + scores[..., None]).flatten(1)
    chosen_scores, chosen = together.topk(count)
    first_rows = torch.arange(texts, device=scores.device)[:, None] * beams
    return chosen_scores, first_rows + chosen // each, tokens.view(texts, -1).gather(1, chosen)


def _cache_name(model_kwargs: Mapping[str, Any]) -> str:
    """Return the name that this release of transformers has for the cache."""
    return next(name for name in _CACHES if name in model_kwargs)


def _next_logits(
    model: PreTrainedModel, states: torch.Tensor, mask: torch.Tensor, last: torch.Tensor, cache: dict[str, Cache]
) -> torch.Tensor:
    """Return the logits (rows, vocabulary) after the ``last`` tokens; ``cache`` goes by the name of its argument."""
    step = model(
        encoder_outputs=BaseModelOutput(last_hidden_state=states),
        attention_mask=mask,
        decoder_input_ids=last,
        use_cache=True,
        return_dict=True,
        **cache,
    )
    logits: torch.Tensor = step.logits[:, -1]
    return logits
