"""Decoder-only models on transformers, with continuous batching. The start that all prompts share is computed once.

transformers' own processors choose the tokens, in the order of its ``generate``. Each row has its own processors and
random generator, so its output does not depend on the rest of the batch. The output is that of ``generate`` for the
text alone, with torch seeded by the row's seed.

The win over static batches of transformers is recorded in bench/results/generate.md.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from llguidance import LLMatcher
from transformers import (
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.cache_utils import Cache, DynamicLayer

from docmill.tasks.backends import Assignment, WindowSource, accelerator
from docmill.tasks.backends.decoder_only.instructed import Constraint, completion_of, label_ids
from docmill.tasks.backends.decoding import Decoding, seed_of
from docmill.tasks.backends.loading import Opening, require_keys_and_values
from docmill.tasks.backends.static import Items, StaticLoop
from docmill.tasks.batching import Budget, Item
from docmill.tasks.errors import DeviceLost, OutOfMemory
from docmill.tasks.kinds import LINE_END
from docmill.tasks.outputs import Failure, Generated, Labels, Likelihood, Output, Several
from docmill.tasks.windows.windows import Encoded

# The most tokens on the device at once, read and still to be written, and the most rows.
_BUDGETS = {"cpu": Budget(tokens=49_152, rows=64), "cuda": Budget(tokens=262_144, rows=256)}
# For labels, logits of all tokens of a label are on the device at once for each row.
_SCORING_BUDGETS = {"cpu": Budget(tokens=8_192, rows=16), "cuda": Budget(tokens=65_536, rows=64)}
# New rows join when this share of the rows is free: the others wait while the new prompts are read.
_FREE = 0.25
# Two texts that share nothing: the common start of their prompts is the template.
_PROBES = ("a", "7")
# The most tokens for one character of a stop text.
_PER_CHARACTER = 4
_SLACK_COLUMNS = 64


@dataclass
class ContinuedWindow:
    """A window whose output is being written. ``number`` counts the window's outputs from 0."""

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
        """The tokens of the prompt and of the output so far."""
        return [*self.ids, *self.written]


@dataclass
class DecodingBatch:
    """The rows on the device, and the keys and values of all their tokens but the last, which the next step reads.

    A window has a row for each of the ``numbers`` of its outputs.
    """

    numbers: range
    cache: RowCache
    rows: list[ContinuedWindow] = field(default_factory=list)
    done: dict[int, dict[int, Output]] = field(default_factory=dict)  # by window and number, if there are several


class CausalBackend:
    """One decoder-only model under one spec."""

    def __init__(self, assignment: Assignment) -> None:
        spec, device = assignment.spec, assignment.device
        self._device = device
        self._dtype = accelerator.dtype_for(spec.quality, device)
        opening = Opening.of(assignment)
        self._model = opening.model(self._dtype)
        require_keys_and_values(self._model, spec.model)
        self._model.to(device)
        self._completion = completion_of(opening)
        self._decoding = self._completion.decoding
        self._batch_processors = batch_processors(self._decoding, device)
        self._constraint = Constraint.of(opening, self._decoding.ends)
        self.limit_tokens = self._completion.limit_tokens
        # transformers 5.24 renamed the argument.
        named = inspect.signature(self._model.forward).parameters
        self._cache_argument = "cache" if "cache" in named else "past_key_values"
        self._seen_stop = _PER_CHARACTER * max(map(len, (*self._decoding.stop, *self._decoding.closing)), default=0)
        budget = _BUDGETS[device.partition(":")[0]]
        self._loop = StaticLoop(self._compute, budget, load=self._load)
        with torch.inference_mode(), accelerator.memory_errors(device):
            self._template, self._template_cache = self._read_template()
        self.traits = self._completion.traits

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        return self._completion.tokens.encode(texts)

    def run(self, source: WindowSource) -> Iterator[tuple[int, Output]]:
        flight = DecodingBatch(range(self._decoding.n), RowCache())
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
            flight = DecodingBatch(flight.numbers, RowCache())
            if isinstance(error, OutOfMemory) and len(lost) == 1 < self._decoding.n:
                yield from self._loop.settle(lost, partial(self._compute_halves, lost, flight.numbers))
            else:
                yield from self._loop.recover(lost, error)

    def runtime(self) -> dict[str, Any]:
        return accelerator.runtime("transformers", self._device, self._dtype)

    def close(self) -> None:
        del self._model, self._template_cache
        accelerator.release(self._device)

    def _room(self, flight: DecodingBatch) -> Budget:
        """Return the budget for new rows. It has no rows until enough of them are free."""
        whole, longest = self._loop.budget, max((row.tokens for row in flight.rows), default=0)
        output = self._decoding.max_new_tokens
        most = self._decoding.max_tokens  # of a row at its end, if outputs may fill the context
        used = len(flight.rows) * (most or longest + output)
        if used and (
            whole.tokens - used < whole.tokens * _FREE or whole.rows - len(flight.rows) < whole.rows * _FREE
        ):
            return Budget(tokens=0, rows=0)
        left, n = whole.tokens - used, self._decoding.n
        rows = min(whole.rows - len(flight.rows), left // (most or output + self._completion.tokens.overhead))
        return Budget(tokens=max(1, (left - rows * output) // n), rows=max(1, rows // n), spread=whole.spread)

    def _load(self, items: Items) -> int:
        """Return the tokens of rows at their end, without padding.

        With padding they may exceed the budget: rows are padded to the length of a longer row that they join.
        """
        most, output = self._decoding.max_tokens, self._decoding.max_new_tokens
        return self._decoding.n * sum(most or item.tokens + output for item in items)

    def _compute(self, items: Items) -> Sequence[Output]:
        """Compute a batch from its beginning to its end."""
        return self._outputs(items, range(self._decoding.n))

    def _outputs(self, items: Items, numbers: range) -> Sequence[Output]:
        """Compute the outputs with these numbers for each window of a batch."""
        flight = DecodingBatch(numbers, RowCache())
        try:
            outputs = dict(self._advance(flight, items))
            while flight.rows:
                outputs.update(self._advance(flight, ()))
        except OutOfMemory:
            if len(items) > 1 or len(numbers) == 1:
                raise
            del flight  # the halves need its memory
        else:
            return [outputs[item.id] for item in items]
        return self._compute_halves(items, numbers)

    def _compute_halves(self, items: Items, numbers: range) -> Sequence[Output]:
        """Compute one window's outputs in two halves, since they do not fit in memory together."""
        middle = len(numbers) // 2
        outputs: list[Output] = []
        for half in (numbers[:middle], numbers[middle:]):
            [output] = self._outputs(items, half)
            outputs += output.outputs if isinstance(output, Several) else [output]
        return [join_outputs(outputs)]

    def _advance(self, flight: DecodingBatch, joining: Items) -> list[tuple[int, Output]]:
        """Write the next token of every row, or the first token of new rows. Return the windows that are done."""
        with torch.inference_mode(), accelerator.memory_errors(self._device):
            if not joining:
                return self._take_out(flight, self._step(flight))
            group, logits = self._begin(joining, flight.numbers)
            # A row whose output has one token never joins.
            done = self._take_out(group, logits)
            if group.rows:
                flight.cache.join(group.cache)
                flight.rows += group.rows
                flight.done |= group.done
            return done

    def _begin(self, items: Items, numbers: range) -> tuple[DecodingBatch, torch.Tensor]:
        """Read prompts, without the start that each shares with the template."""
        rows = [self._row(item, number) for item in items for number in numbers]
        longest = max(row.tokens for row in rows)
        # The last token of each prompt is always read.
        shared = min(common_length(self._template, row.ids[:-1]) for row in rows)
        # All rows read as many tokens as the longest has beyond the template. A shorter row reads the end of the
        # template instead of padding.
        fresh = longest - shared
        known = [max(0, row.tokens - fresh) for row in rows]
        cache = self._begin_cache(known, shared)
        ids = torch.zeros((len(rows), fresh), dtype=torch.long)
        for line, row in zip(ids, rows, strict=True):
            new = row.ids[-fresh:]
            line[fresh - len(new) :] = torch.tensor(new)
        lengths = torch.tensor([row.tokens for row in rows])
        return DecodingBatch(numbers, cache, rows), self._forward(cache, ids, lengths)

    def _row(self, item: Item[Any], number: int) -> ContinuedWindow:
        ids = list(item.encoded.ids)
        decoding, device = self._decoding, self._device
        return ContinuedWindow(
            item,
            ids,
            row_processors(decoding, len(ids), device),
            torch.Generator(device).manual_seed(seed_of(decoding.seed, ids, number)) if decoding.samples else None,
            number,
            matcher=self._constraint.begin() if self._constraint else None,
        )

    def _begin_cache(self, known: Sequence[int], columns: int) -> RowCache:
        """Return a cache with the first ``known`` tokens of the template for each row."""
        if columns == 0:
            return RowCache()
        places = torch.arange(columns) - (columns - torch.tensor(known)).unsqueeze(1)
        return self._template_cache.select(places.clamp(min=0).to(self._device))

    def _read_template(self) -> tuple[Sequence[int], RowCache]:
        """Return the tokens that every prompt begins with, and their keys and values."""
        ids, other = (list(code.ids) for code in self.encode(_PROBES))
        length, cache = common_length(ids, other), RowCache()
        if length:
            self._forward(cache, torch.tensor([ids[:length]]), torch.tensor([length]))
        return ids[:length], cache

    def _step(self, flight: DecodingBatch) -> torch.Tensor:
        """Read the last token of every row, and return the logits of the next one."""
        ids = torch.tensor([[row.written[-1]] for row in flight.rows])
        return self._forward(flight.cache, ids, torch.tensor([row.tokens for row in flight.rows]))

    def _forward(self, cache: RowCache, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Read ``ids`` (rows, tokens), the ends of texts with these ``lengths``. Return the next logits, float32."""
        return self._logits(cache, ids, lengths, 1)[:, -1]

    def _logits(self, cache: RowCache, ids: torch.Tensor, lengths: torch.Tensor, kept: int) -> torch.Tensor:
        """Read ``ids`` as `_forward` does. Return the logits after the last ``kept`` ids: (rows, kept, tokens)."""
        columns = cache.columns + ids.shape[1]
        places = torch.arange(columns) - (columns - lengths).unsqueeze(1)  # of each column in the row's text
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

    def _take_out(self, flight: DecodingBatch, logits: torch.Tensor) -> list[tuple[int, Output]]:
        """Choose each row's next token, and take out the rows that end with it."""
        rows = flight.rows
        self._choose(rows, logits)
        done = [(place, output) for place, row in enumerate(rows) if (output := self._find_output(row)) is not None]
        outputs = self._complete(flight, [(rows[place], output) for place, output in done])
        for place, _ in reversed(done):
            flight.cache.drop(place)
            rows[place] = rows[-1]
            rows.pop()
        if done and rows:
            flight.cache.trim(max(row.tokens for row in rows) - 1)
        if not rows:
            flight.cache = RowCache()
        return outputs

    def _choose(self, rows: Sequence[ContinuedWindow], logits: torch.Tensor) -> None:
        """Choose each row's next token, and note its log-probability among the tokens that a schema allows."""
        scores = apply_row_processors(logits, rows)
        if self._constraint is not None:
            scores = self._constraint.masked(scores, [row.matcher for row in rows if row.matcher is not None])
            logits = logits.masked_fill(scores.isneginf(), float("-inf")) if scores is not logits else logits
        tokens = next_tokens(scores, rows, self._batch_processors)
        # One pass over the logits; logsumexp makes several.
        chosen = logits.log_softmax(dim=-1).gather(-1, tokens[:, None])[:, 0]
        for row, token, log_probability in zip(rows, tokens.tolist(), chosen.tolist(), strict=True):
            row.written.append(token)
            row.log_probabilities.append(log_probability)
            if row.matcher is not None:
                row.matcher.consume_token(token)

    def _complete(
        self, flight: DecodingBatch, done: Sequence[tuple[ContinuedWindow, Output]]
    ) -> list[tuple[int, Output]]:
        """Return the windows whose last row is among these. A window has a row for each output."""
        if self._decoding.n == 1:
            return [(row.item.id, output) for row, output in done]
        whole: list[tuple[int, Output]] = []
        for row, output in done:
            siblings = flight.done.setdefault(row.item.id, {})
            siblings[row.number] = output
            if len(siblings) == len(flight.numbers):
                outputs = [output for _, output in sorted(flight.done.pop(row.item.id).items())]
                whole.append((row.item.id, join_outputs(outputs)))
        return whole

    def _find_output(self, row: ContinuedWindow) -> Generated | Failure | None:
        """Return the output if the row has ended, else None."""
        written, decoding = row.written, self._decoding
        if row.matcher is not None and row.matcher.is_stopped():
            assert self._constraint is not None
            return self._constraint.output(row.matcher, written, Likelihood.of(row.log_probabilities))
        at_end = written[-1] in decoding.ends
        stopped = bool(decoding.stop) and self._completion.stops(written[-self._seen_stop :])
        closed = bool(decoding.closing) and self._completion.closes(written[-self._seen_stop :])
        full = len(written) >= decoding.most_new_tokens(len(row.ids))
        if not (at_end or stopped or closed or full):
            return None
        return self._completion.generated(
            written, at_end=at_end or closed, likelihood=Likelihood.of(row.log_probabilities)
        )


class LikelihoodBackend(CausalBackend):
    """One decoder-only model under one spec with labels. It scores each label by its probability after the prompt.

    The log-probability of a label is the sum of the log-probabilities of its tokens and of an end: one of the model's
    end tokens, or the end of the line in a base model's pattern. The sum is not divided by the length. The scores are
    the softmax of these sums: the probability that the model writes the label, given that it writes one of the labels
    (Brown et al. 2020, section 2.4, without a normalization by length).

    The prompts of a batch are read once. Each label is then read over the same keys and values.
    """

    def __init__(self, assignment: Assignment) -> None:
        super().__init__(assignment)
        tokenizer = self._completion.tokens.tokenizer
        self._labels = label_ids(tokenizer, assignment.spec.params["labels"])
        line_end = tokenizer(LINE_END, add_special_tokens=False)["input_ids"][-1:]
        ends = {*self._decoding.ends, *(() if tokenizer.chat_template is not None else line_end)}
        self._ends = torch.tensor(sorted(ends), dtype=torch.long, device=self._device)
        self._loop = StaticLoop(self._compute, _SCORING_BUDGETS[self._device.partition(":")[0]])

    def run(self, source: WindowSource) -> Iterator[tuple[int, Output]]:
        return self._loop.run(source)

    def _compute(self, items: Items) -> Sequence[Output]:
        with torch.inference_mode(), accelerator.memory_errors(self._device):
            flight, logits = self._begin(items, range(1))
            first = torch.log_softmax(logits, dim=-1)
            sums = [self._log_probability(flight, first, ids) for ids in self._labels.values()]
            scores = torch.stack(sums, dim=1).double().softmax(dim=1).tolist()
        return [Labels(dict(zip(self._labels, row, strict=True))) for row in scores]

    def _log_probability(self, flight: DecodingBatch, first: torch.Tensor, ids: Sequence[int]) -> torch.Tensor:
        """Return the log-probability of a label after each row, shape (rows,).

        ``first`` has the log-probabilities of all tokens after the prompts.
        """
        lengths = torch.tensor([row.tokens + len(ids) for row in flight.rows])
        rows = torch.tensor([ids] * len(flight.rows))
        later = torch.log_softmax(self._logits(flight.cache, rows, lengths, len(ids)), dim=-1)
        flight.cache.shorten(len(ids))
        total = first[:, ids[0]]
        for place, token in enumerate(ids[1:]):
            total = total + later[:, place, token]
        return total + later[:, -1, self._ends].logsumexp(dim=-1) if len(self._ends) else total


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the length of the common start of two sequences."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (token, other) in pairs if token != other), min(len(first), len(second)))


def join_outputs(outputs: Sequence[Output]) -> Output:
    """Return the outputs of one window as one output, or the first failure among them."""
    failures = [output for output in outputs if isinstance(output, Failure)]
    return failures[0] if failures else Several(tuple(output for output in outputs if isinstance(output, Generated)))


def row_processors(decoding: Decoding, prompt_tokens: int, device: str) -> LogitsProcessorList:
    """Return the processors that depend on a row's tokens. They process the scores of one row."""
    processors, ends = LogitsProcessorList(), sorted(decoding.ends)
    if decoding.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(decoding.repetition_penalty))
    if decoding.no_repeat_ngram_size:
        processors.append(NoRepeatNGramLogitsProcessor(decoding.no_repeat_ngram_size))
    if decoding.bad_words_ids:
        processors.append(NoBadWordsLogitsProcessor([list(words) for words in decoding.bad_words_ids], ends or None))
    if decoding.min_length and ends:
        processors.append(MinLengthLogitsProcessor(decoding.min_length, ends, device))
    if decoding.min_new_tokens and ends:
        processors.append(MinNewTokensLengthLogitsProcessor(prompt_tokens, decoding.min_new_tokens, ends, device))
    return processors


def batch_processors(decoding: Decoding, device: str) -> LogitsProcessorList:
    """Return the processors that depend on scores only. They process a whole batch, after the processors of rows."""
    processors = LogitsProcessorList()
    if decoding.suppress_tokens:
        processors.append(SuppressTokensLogitsProcessor(list(decoding.suppress_tokens), device))
    if not decoding.samples:
        return processors
    if decoding.temperature != 1:
        processors.append(TemperatureLogitsWarper(decoding.temperature))
    if decoding.top_k:
        processors.append(TopKLogitsWarper(decoding.top_k))
    if decoding.top_p < 1:
        processors.append(TopPLogitsWarper(decoding.top_p))
    if decoding.min_p:
        processors.append(MinPLogitsWarper(decoding.min_p))
    return processors


def apply_row_processors(logits: torch.Tensor, rows: Sequence[ContinuedWindow]) -> torch.Tensor:
    """Return the ``logits`` (rows, vocabulary), float32, as each row's own processors change them."""
    if not any(row.processors for row in rows):
        return logits
    changed = [
        row.processors(torch.tensor([row.seen], device=logits.device), line[None])
        for row, line in zip(rows, logits, strict=True)
    ]
    return torch.cat(changed)


def next_tokens(logits: torch.Tensor, rows: Sequence[ContinuedWindow], of_batch: LogitsProcessorList) -> torch.Tensor:
    """Return the next token of each row, shape (rows,), from ``logits`` (rows, vocabulary), float32."""
    scores: torch.Tensor = of_batch(None, logits)
    generators = [row.generator for row in rows]
    if all(generator is None for generator in generators):
        return scores.argmax(dim=-1)
    # The sample of transformers' generate for the row alone, with torch's generator in the same state.
    draws = [
        torch.multinomial(line[None], 1, generator=generator)[0]
        for line, generator in zip(scores.softmax(dim=-1), generators, strict=True)
    ]
    return torch.cat(draws)


class RowLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values: ``rows`` rows, in the columns ``start`` to ``end`` of larger buffers."""

    def __init__(self, rows: int = 0) -> None:
        super().__init__()
        self.rows = rows
        self.start = self.end = 0
        self._buffers: tuple[torch.Tensor, ...] = ()  # keys and values, once there are some

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append columns. Return all keys and values."""
        self.rows = key_states.shape[0]
        self._reserve((key_states, value_states), self.rows, self.end - self.start + key_states.shape[-2])
        added = slice(self.end, self.end + key_states.shape[-2])
        keys, values = self._buffers
        keys[: self.rows, :, added] = key_states
        values[: self.rows, :, added] = value_states
        self.end = added.stop
        self.is_initialized = True
        return self.view(keys), self.view(values)

    def view(self, buffer: torch.Tensor) -> torch.Tensor:
        return buffer[: self.rows, :, self.start : self.end]

    def get_seq_length(self) -> int:
        return self.end - self.start

    def drop(self, row: int) -> None:
        """Remove a row: the last row takes its place."""
        self.rows -= 1
        for buffer in self._buffers if row != self.rows else ():
            buffer[row, :, self.start : self.end] = buffer[self.rows, :, self.start : self.end]

    def join(self, other: RowLayer) -> None:
        """Add the rows of another layer.

        Columns that a new row does not use are cleared: a removed row may have left NaN, and 0 · NaN is NaN.
        """
        columns, rows = other.get_seq_length(), self.rows + other.rows
        self._reserve(other._buffers, rows, max(columns, self.end - self.start), at_left=True)
        for mine, theirs in zip(self._buffers, other._buffers, strict=True):
            mine[self.rows : rows, :, self.end - columns : self.end] = other.view(theirs)
            mine[self.rows : rows, :, self.start : self.end - columns] = 0
            mine[: self.rows, :, self.end - columns : self.start] = 0
        self.start = min(self.start, self.end - columns)
        self.rows = rows

    def select(self, places: torch.Tensor) -> RowLayer:
        """Return a layer whose rows have columns of this layer's only row: those in ``places`` (rows, columns)."""
        selected = RowLayer(len(places))
        columns = places.shape[1]
        selected._reserve(self._buffers, selected.rows, columns)
        for buffer, shared in zip(selected._buffers, self._buffers, strict=True):
            buffer[: selected.rows, :, :columns] = self.view(shared)[0, :, places].transpose(0, 1)
        selected.end = columns
        selected.is_initialized = True
        return selected

    def _reserve(self, likes: Sequence[torch.Tensor], rows: int, columns: int, *, at_left: bool = False) -> None:
        """Make room for these rows, and for these columns from ``start``, or, ``at_left``, up to ``end``.

        ``likes`` are keys and values with the same heads, dimensions and type.
        """
        kept_rows = rows
        if self._buffers:
            kept_rows, _, kept_columns, _ = self._buffers[0].shape
            if rows <= kept_rows and columns <= (self.end if at_left else kept_columns - self.start):
                return
        now = self.end - self.start
        begin = columns - now if at_left else 0
        shape = max(rows, kept_rows), columns + _SLACK_COLUMNS
        grown = tuple(like.new_zeros((shape[0], like.shape[1], shape[1], like.shape[-1])) for like in likes)
        for old, new in zip(self._buffers, grown, strict=False):
            new[: old.shape[0], :, begin : begin + now] = old[:, :, self.start : self.end]
        self._buffers = grown
        self.start, self.end = begin, begin + now


class RowCache(Cache):  # type: ignore[misc]
    """A cache for ``transformers`` models: the keys and values of many texts, each in a row.

    All texts have their last token in the last column. So a text of any length joins as a new row. A text that is
    done leaves by one copy of another row into its place, and the columns that only it needed are cut off without a
    copy. Distances between columns are distances between tokens, as sliding windows need them.
    """

    layers: list[RowLayer]

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=RowLayer)

    @property
    def columns(self) -> int:
        return int(self.get_seq_length())

    def trim(self, columns: int) -> None:
        """Keep only the last columns."""
        for layer in self.layers:
            layer.start = layer.end - columns

    def shorten(self, columns: int) -> None:
        """Remove the last columns."""
        for layer in self.layers:
            layer.end -= columns

    def drop(self, row: int) -> None:
        for layer in self.layers:
            layer.drop(row)

    def join(self, other: RowCache) -> None:
        """Add the rows of another cache. An empty cache takes the other's layers without a copy."""
        if not self.layers:
            self.layers = other.layers
            return
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            mine.join(theirs)

    def select(self, places: torch.Tensor) -> RowCache:
        """Return a cache whose rows have columns of this cache's only row: those in ``places`` (rows, columns)."""
        selected = RowCache()
        selected.layers = [layer.select(places) for layer in self.layers]
        return selected
