"""The options of CTranslate2 that carry out a model's generation settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from docmill.tasks.backends.encoder_decoder.generation import Generation, Written, as_ids
from docmill.tasks.errors import Unsuited
from docmill.tasks.outputs import Likelihood

if TYPE_CHECKING:
    from transformers import GenerationConfig

# Beams that end early are done at the number of hypotheses that CTranslate2 calls a patience of 1. Others go on for
# as long as a better end seems possible; this is how far CTranslate2 looks then.
_PATIENCE = 3.0


@dataclass(frozen=True)
class Options:
    """``arguments`` of translate_batch, ``prefix`` that starts every output, ``forced_end`` that ends the longest."""

    arguments: Mapping[str, Any]
    prefix: Sequence[str]
    forced_end: int | None
    ends: frozenset[int]
    most_new_tokens: int

    def written(self, ids: Sequence[int], score: float) -> Written:
        """The tokens as transformers would have them: with the end that it forces at the limit.

        A score is the sum of the tokens' log-probabilities, after masks, for a token raised to the length penalty.
        The prefix counts as tokens of probability 1.
        """
        chosen, total = len(ids) - len(self.prefix), score * len(ids) ** self.arguments.get("length_penalty", 1.0)
        cut = self.forced_end is not None and len(ids) == self.most_new_tokens - 1 and ids[-1:] != [self.forced_end]
        whole = [*ids, self.forced_end] if cut and self.forced_end is not None else list(ids)
        return Written(whole, Likelihood(total, None, chosen))


def inexact(generation: Generation) -> str | None:
    """The setting under which CTranslate2's beams write something else than transformers' ``generate``, or None.

    CTranslate2 normalizes scores again after tokens were masked, which transformers does with ``renormalize_logits``
    only. It ends a search at a number of outputs, and without a length penalty as soon as the best beam has ended:
    that is ``early_stopping`` in the first case, and its absence in the second.
    """
    if generation.beams == 1:
        # Its n-grams lack the token that an output starts from. No trained model writes that token again.
        return None
    settings = generation.settings
    early = settings.early_stopping is True
    if settings.length_penalty == 0 and early:
        return "early_stopping with a length_penalty of 0"
    if settings.length_penalty != 0 and not early:
        return f"num_beams={generation.beams} without early_stopping"
    ends = as_ids(settings.eos_token_id)
    masking = {
        "min_length": _least_new_tokens(settings),
        "no_repeat_ngram_size": settings.no_repeat_ngram_size,
        "bad_words_ids or suppress_tokens": _suppressed(settings, ends),
    }
    masks = [] if settings.renormalize_logits else [name for name, value in masking.items() if value]
    # At the limit transformers gives the forced end a place of its own; of several ends it looks at more candidates.
    others = {"forced_eos_token_id": settings.forced_eos_token_id is not None, "several ends": len(ends) > 1}
    found = [*masks, *(name for name, is_set in others.items() if is_set)]
    return f"{found[0]} with num_beams={generation.beams}" if found else None


def options(generation: Generation, model: str) -> Options:
    """Return the options that ask for what the settings say; raises Unsuited where CTranslate2 has none."""
    settings = generation.settings
    if unusual := generation.unusual:
        raise Unsuited(f"{model} sets {', '.join(unusual)}, which CTranslate2 does not do as asked.")
    ends, forced_ends = as_ids(settings.eos_token_id), as_ids(settings.forced_eos_token_id)
    prefixes = as_ids(settings.forced_bos_token_id)
    if not ends or len(prefixes) > 1 or len(forced_ends) > 1 or (forced_ends and forced_ends[0] not in ends):
        raise Unsuited(f"{model} has ends or beginnings that CTranslate2 does not know.")
    most = generation.most_new_tokens
    least = _least_new_tokens(settings)
    forced = forced_ends[0] if forced_ends and most > 1 else None
    longest = most if forced is None else most - 1  # the last place is the forced end's
    arguments: dict[str, Any] = {
        "beam_size": generation.beams,
        "max_decoding_length": longest,
        "min_decoding_length": min(least, longest),
        "no_repeat_ngram_size": settings.no_repeat_ngram_size or 0,
        "max_input_length": 0,
        "return_end_token": True,
        "return_scores": True,
        "end_token": [str(end) for end in ends],
    }
    if generation.beams > 1:
        arguments["length_penalty"] = 1.0 if settings.length_penalty is None else settings.length_penalty
        arguments["patience"] = 1.0 if settings.early_stopping is True else _PATIENCE
    if suppressed := _suppressed(settings, ends):
        arguments["suppress_sequences"] = suppressed
    return Options(arguments, tuple(map(str, prefixes)), forced, frozenset(ends), most)


def _least_new_tokens(settings: GenerationConfig) -> int:
    # min_length counts the start token.
    return max((settings.min_length or 0) - 1, settings.min_new_tokens or 0, 0)


def _suppressed(settings: GenerationConfig, ends: Sequence[int]) -> list[list[str]]:
    """Sequences that are never written; an end is never one of them, as in transformers."""
    sequences = [list(words) for words in settings.bad_words_ids or () if list(words) not in [[end] for end in ends]]
    sequences += [[token] for token in as_ids(settings.suppress_tokens)]
    return [list(map(str, words)) for words in sequences]
