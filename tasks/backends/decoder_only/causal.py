"""Decoder-only models on transformers, with continuous batching and a shared prefix that is computed once.

The win over static batches of transformers is recorded in bench/results/generate.md.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM, LogitsProcessorList

from docmill.tasks.backends import Assignment, Source, accelerator
from docmill.tasks.backends.decoder_only.constraint import Constraint
from docmill.tasks.backends.decoder_only.instructed import Completion
from docmill.tasks.backends.decoder_only.next_tokens import (
    batch_processors,
    next_tokens,
    of_rows,
    row_generator,
    row_processors,
)
from docmill.tasks.backends.decoder_only.rowcache import RowCache
from docmill.tasks.backends.generation_files import Opening, require_keys_and_values
from docmill.tasks.backends.static import Computed, Items, StaticLoop
from docmill.tasks.batching import Budget, Item
from docmill.tasks.errors import DeviceLost
from docmill.tasks.outputs import Failure, Generated, Likelihood, Output, Several
from docmill.tasks.windows.windows import Encoded

if TYPE_CHECKING:
    from llguidance import LLMatcher

# Tokens that may be on the device at once, what is read and what may be written, and the most rows.
_BUDGETS = {"cpu": Budget(tokens=49_152, rows=64), "cuda": Budget(tokens=262_144, rows=256)}
# Others join when so large a share of the rows is free: each joining stops those that write.
_FREE = 0.25
# Two texts that share nothing: what prompts over them share is the template.
_PROBES = ("a", "7")
# Tokens that may hold the last character of a text to stop at.
_PER_CHARACTER = 4


@dataclass
class Row:
    """A window that is being continued; ``number`` counts its outputs from 0."""

    item: Item[Any]
    ids: Sequence[int]
    processors: LogitsProcessorList
    generator: torch.Generator | None
    number: int = 0
    written: list[int] = field(default_factory=list)
    matcher: LLMatcher | None = None
    log_probabilities: list[float] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return len(self.ids) + len(self.written)

    @property
    def seen(self) -> list[int]:
        return [*self.ids, *self.written]


@dataclass
class Flight:
    """The rows on the device, and the keys and values of all their tokens but the last, which is to be read next."""

    rows: list[Row] = field(default_factory=list)
    cache: RowCache | None = None
    done: dict[int, dict[int, Output]] = field(default_factory=dict)  # by window, those of several outputs


class CausalBackend:
    """One decoder-only model under one spec."""

    def __init__(self, assignment: Assignment) -> None:
        spec, device = assignment.spec, assignment.device
        self._device = device
        self._dtype = accelerator.dtype_for(spec.quality, device)
        opening = Opening.of(spec, assignment.folder, assignment.cache_dir)
        self._model = opening.model(AutoModelForCausalLM, self._dtype)
        require_keys_and_values(self._model, spec.model)
        self._model.to(device)
        self._completion = self._completed(opening)
        self._decoding = self._completion.decoding
        self._of_batch = batch_processors(self._decoding, device)
        self._constraint = Constraint.of(opening, self._decoding.ends)
        self.limit_tokens = self._completion.limit_tokens
        # transformers 5.24 gave the argument another name.
        named = inspect.signature(self._model.forward).parameters
        self._cache_argument = "cache" if "cache" in named else "past_key_values"
        self._seen_stop = _PER_CHARACTER * max(map(len, (*self._decoding.stop, *self._decoding.closing)), default=0)
        budget = _BUDGETS[device.partition(":")[0]]
        self._loop = StaticLoop(self._together, budget)
        with torch.inference_mode(), accelerator.memory_errors(device):
            self._shared, self._lead = self._read_template()
        self.traits = self._completion.traits

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        return self._completion.tokens.encode(texts)

    def run(self, source: Source) -> Iterator[Computed]:
        flight = Flight()
        while True:
            items = source.take(self._room(flight))
            if not items and not flight.rows:
                return
            # Retries happen outside the except block, whose traceback would keep the failed tensors alive.
            lost = [*{row.item.id: row.item for row in flight.rows}.values(), *items]
            try:
                done = self._advance(flight, items)
            except DeviceLost:
                raise
            except Exception as raised:
                error = raised.with_traceback(None)
            else:
                yield from done
                continue
            flight = Flight()
            yield from self._loop.recover(lost, error)

    def runtime(self) -> dict[str, Any]:
        return accelerator.runtime("transformers", self._device, self._dtype)

    def close(self) -> None:
        del self._model, self._lead
        accelerator.release(self._device)

    def _completed(self, opening: Opening) -> Completion:
        return Completion(opening)

    def _room(self, flight: Flight) -> Budget:
        """Return the budget of what may join now; no rows until enough of them are free."""
        whole, longest = self._loop.budget, max((row.tokens for row in flight.rows), default=0)
        output = self._decoding.max_new_tokens
        most = self._decoding.max_tokens  # which a row has at the end, however long its prompt is
        used = len(flight.rows) * (most or longest + output)
        if used and (
            whole.tokens - used < whole.tokens * _FREE or whole.rows - len(flight.rows) < whole.rows * _FREE
        ):
            return Budget(tokens=0, rows=0)
        left, n = whole.tokens - used, self._decoding.n
        rows = min(whole.rows - len(flight.rows), left // (most or output + self._completion.tokens.overhead))
        return Budget(tokens=max(1, (left - rows * output) // n), rows=max(1, rows // n), spread=whole.spread)

    def _together(self, items: Items) -> Sequence[Output]:
        """One batch from its beginning to its end."""
        flight = Flight()
        found = dict(self._advance(flight, items))
        while flight.rows:
            found.update(self._advance(flight, ()))
        return [found[item.id] for item in items]

    def _advance(self, flight: Flight, joining: Items) -> list[Computed]:
        """Write the next token of every row, or the first of those that join; the outputs of those that are done."""
        with torch.inference_mode(), accelerator.memory_errors(self._device):
            if not joining:
                return self._take_out(flight, self._step(flight))
            group, logits = self._begin(joining)
            # Rows that are done with their first token never join.
            done = self._take_out(group, logits)
            if group.rows and flight.cache is not None and group.cache is not None:
                flight.cache.join(group.cache)
                flight.rows += group.rows
                flight.done |= group.done
            elif group.rows:
                flight.rows, flight.cache, flight.done = group.rows, group.cache, group.done
            return done

    def _begin(self, items: Items) -> tuple[Flight, torch.Tensor]:
        """Read whole prompts. What each begins with and the template does too is not read again."""
        rows = [self._row(item, number) for item in items for number in range(self._decoding.n)]
        longest = max(row.tokens for row in rows)
        shared = min(self._shared_with(row.ids) for row in rows)
        # All rows read as many tokens as the longest has beyond the template: so none of these is padding
        # where a text is shorter, but the end of the template.
        fresh = longest - shared
        known = [max(0, row.tokens - fresh) for row in rows]
        cache = self._led(known, shared)
        ids = torch.zeros((len(rows), fresh), dtype=torch.long)
        for line, row in zip(ids, rows, strict=True):
            new = row.ids[-fresh:]
            line[fresh - len(new) :] = torch.tensor(new)
        lengths = torch.tensor([row.tokens for row in rows])
        return Flight(rows, cache), self._forward(cache, ids, lengths)

    def _row(self, item: Item[Any], number: int = 0) -> Row:
        ids = list(item.encoded.ids)
        how, device = self._decoding, self._device
        return Row(
            item,
            ids,
            row_processors(how, len(ids), device),
            row_generator(how, ids, number, device),
            number,
            matcher=self._constraint.begin() if self._constraint else None,
        )

    def _shared_with(self, ids: Sequence[int]) -> int:
        """Count the tokens that the window begins with as the template does; one at least is left to be read."""
        most = min(len(self._shared), len(ids) - 1)
        return next((place for place in range(most) if ids[place] != self._shared[place]), most)

    def _led(self, known: Sequence[int], columns: int) -> RowCache:
        """A cache whose rows end with so many known tokens of the template."""
        if self._lead is None or columns == 0:
            return RowCache()
        places = torch.arange(columns) - (columns - torch.tensor(known)).unsqueeze(1)
        return self._lead.leading(places.clamp(min=0).to(self._device))

    def _read_template(self) -> tuple[Sequence[int], RowCache | None]:
        """The tokens that every prompt begins with, and their keys and values."""
        one, other = (self._row(Item(0, code, None)).ids for code in self.encode(_PROBES))
        length = next(
            (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
        )
        if length == 0:
            return (), None
        cache = RowCache()
        self._forward(cache, torch.tensor([one[:length]]), torch.tensor([length]))
        return one[:length], cache

    def _step(self, flight: Flight) -> torch.Tensor:
        """Read the last token of every row; the logits of the next."""
        assert flight.cache is not None
        ids = torch.tensor([[row.written[-1]] for row in flight.rows])
        return self._forward(flight.cache, ids, torch.tensor([row.tokens for row in flight.rows]))

    def _forward(self, cache: RowCache, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Read ``ids`` (rows, tokens), which end texts of these ``lengths``; the logits of what follows, float32."""
        return self._logits(cache, ids, lengths, 1)[:, -1]

    def _logits(self, cache: RowCache, ids: torch.Tensor, lengths: torch.Tensor, kept: int) -> torch.Tensor:
        """Read ``ids`` as `_forward` does; the logits after the last ``kept`` of them, (rows, kept, tokens)."""
        columns = cache.columns + ids.shape[1]
        places = torch.arange(columns) - (columns - lengths).unsqueeze(1)  # of every column in its text
        answer = self._model(
            input_ids=ids.to(self._device),
            attention_mask=(places >= 0).long().to(self._device),
            position_ids=places[:, -ids.shape[1] :].clamp(min=0).to(self._device),
            use_cache=True,
            logits_to_keep=kept,
            **{self._cache_argument: cache},
        )
        logits: torch.Tensor = answer.logits[:, -kept:].float()
        return logits

    def _take_out(self, flight: Flight, logits: torch.Tensor) -> list[Computed]:
        """Choose each row's next token, and take those out that end with it."""
        rows = flight.rows
        self._choose(rows, logits)
        done = [(place, output) for place, row in enumerate(rows) if (output := self._ended(row)) is not None]
        outputs = self._complete(flight, [(rows[place], output) for place, output in done])
        assert flight.cache is not None
        for place, _ in reversed(done):
            flight.cache.drop(place)
            rows[place] = rows[-1]
            rows.pop()
        if done and rows:
            flight.cache.trim(max(row.tokens for row in rows) - 1)
        if not rows:
            flight.cache = None
        return outputs

    def _choose(self, rows: Sequence[Row], logits: torch.Tensor) -> None:
        """Choose each row's next token, and note its log-probability among those that a schema allows."""
        scores = of_rows(logits, rows)
        if self._constraint is not None:
            scores = self._constraint.masked(scores, [row.matcher for row in rows if row.matcher is not None])
            logits = logits.masked_fill(scores.isneginf(), float("-inf")) if scores is not logits else logits
        tokens = next_tokens(scores, rows, self._of_batch)
        # In one pass over the logits, which logsumexp makes several of.
        chosen = logits.log_softmax(dim=-1).gather(-1, tokens[:, None])[:, 0]
        for row, token, log_probability in zip(rows, tokens.tolist(), chosen.tolist(), strict=True):
            row.written.append(token)
            row.log_probabilities.append(log_probability)
            if row.matcher is not None:
                row.matcher.consume_token(token)

    def _complete(self, flight: Flight, done: Sequence[tuple[Row, Output]]) -> list[Computed]:
        """Return the windows that are done, now that these rows are. A window may have several rows."""
        if self._decoding.n == 1:
            return [(row.item.id, output) for row, output in done]
        whole: list[Computed] = []
        for row, output in done:
            found = flight.done.setdefault(row.item.id, {})
            found[row.number] = output
            if len(found) == self._decoding.n:
                outputs = [one for _, one in sorted(flight.done.pop(row.item.id).items())]
                whole.append((row.item.id, Several(tuple(one for one in outputs if isinstance(one, Generated)))))
        return whole

    def _ended(self, row: Row) -> Generated | Failure | None:
        """The output, if the row's last token is its last."""
        written, how = row.written, self._decoding
        if row.matcher is not None and row.matcher.is_stopped():
            assert self._constraint is not None
            return self._constraint.output(row.matcher, written, Likelihood.of(row.log_probabilities))
        at_end = written[-1] in how.ends
        stopped = bool(how.stop) and self._completion.stops(written[-self._seen_stop :])
        closed = bool(how.closing) and self._completion.closes(written[-self._seen_stop :])
        full = len(written) >= how.most_new_tokens(len(row.ids))
        if not (at_end or stopped or closed or full):
            return None
        return self._completion.generated(
            written, at_end=at_end or closed, likelihood=Likelihood.of(row.log_probabilities)
        )
