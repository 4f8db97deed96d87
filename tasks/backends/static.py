"""The loop of the backends that compute one batch at a time, without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from docmill.storage.core.specs import Reason
from docmill.tasks.backends import WindowSource
from docmill.tasks.batching import Budget, Item
from docmill.tasks.errors import DeviceLost, OutOfMemory
from docmill.tasks.outputs import Failure, Output

Items = Sequence[Item[Any]]


def padded_tokens(items: Items) -> int:
    """Return the tokens of a batch, with rows padded to the longest."""
    return len(items) * max(item.tokens for item in items)


class StaticLoop:
    """Computes batches within a budget. If a batch does not fit in memory, the budget is lowered for good.

    ``compute`` returns the output of each item, in order. It raises OutOfMemory, DeviceLost (which passes through,
    since no document caused it), or any other error of a text or of the model. ``load`` returns the tokens of a
    batch.
    ``at_once`` is the number of batches that are computed at a time.
    """

    at_once = 1

    def __init__(
        self,
        compute: Callable[[Items], Sequence[Output]],
        budget: Budget,
        *,
        load: Callable[[Items], int] = padded_tokens,
    ) -> None:
        self._compute = compute
        self._load = load
        self._proven = False
        self.budget = budget

    def run(self, source: WindowSource) -> Iterator[tuple[int, Output]]:
        while batch := source.take(self.budget):
            yield from self._batch(batch)

    def close(self) -> None:
        """Stop the threads, if the loop has any."""

    def settle(self, batch: Items, compute: Callable[[], Sequence[Output]]) -> Iterator[tuple[int, Output]]:
        """Yield the outputs of a batch. If ``compute`` fails, try smaller batches.

        A window that fails alone gives a Failure. Raises DeviceLost.
        """
        # Retries happen outside the except blocks: there the traceback would keep the failed tensors alive.
        try:
            outputs = compute()
            assert len(outputs) == len(batch)
        except DeviceLost:
            raise
        except Exception as raised:
            error = raised.with_traceback(None)
        else:
            self._proven = True
            yield from zip((item.id for item in batch), outputs, strict=True)
            return
        yield from self.recover(batch, error)

    def recover(self, batch: Items, error: Exception) -> Iterator[tuple[int, Output]]:
        """Compute the windows of a batch that raised ``error`` in smaller batches, and yield their outputs."""
        if isinstance(error, OutOfMemory):
            yield from self._halves(batch)
        elif len(batch) == 1:
            yield batch[0].id, failure(error, Reason.DOCUMENT if self._proven else Reason.MODEL)
        else:
            yield from self._one_by_one(batch)

    def _batch(self, batch: Items) -> Iterator[tuple[int, Output]]:
        return self.settle(batch, lambda: self._compute(batch))

    def _halves(self, batch: Items) -> Iterator[tuple[int, Output]]:
        if len(batch) == 1:
            tokens = batch[0].tokens
            reason = f"A window of {tokens} tokens does not fit in the device's memory, even alone."
            yield batch[0].id, Failure(reason, Reason.DOCUMENT)
            return
        self.budget = self.budget.halved(self._load(batch))
        middle = len(batch) // 2
        yield from self._batch(batch[:middle])
        yield from self._batch(batch[middle:])

    def _one_by_one(self, batch: Items) -> Iterator[tuple[int, Output]]:
        """Yield the outputs of windows that are computed one by one. If all fail, the model is at fault."""
        results: list[tuple[int, Output]] = []
        errors: list[tuple[int, Exception]] = []
        for item in batch:
            try:
                results.append((item.id, self._compute([item])[0]))
            except DeviceLost:
                raise
            except OutOfMemory:
                results += self._halves([item])
            except Exception as error:
                errors.append((item.id, error.with_traceback(None)))
        some_good = any(not isinstance(output, Failure) for _, output in results)
        self._proven = self._proven or some_good
        at_fault = Reason.DOCUMENT if some_good else Reason.MODEL
        yield from results
        for number, raised in errors:
            yield number, failure(raised, at_fault)


def failure(error: Exception, reason_class: Reason) -> Failure:
    """Return a failure with the type of the error only: its message may quote the document."""
    return Failure(f"The model raised {type(error).__name__} on a window of this text.", reason_class)
