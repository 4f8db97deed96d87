"""Count the tokens that a served model will read, by its tokenizer, without sending the texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from docmill.storage.core.specs import Spec
from docmill.tasks import kinds
from docmill.tasks.errors import CannotServe, ServerUnreachable
from docmill.tasks.specs import pinning
from docmill.worker.engines.engines import opener
from docmill.worker.engines.throughput import SampleFailed
from docmill.worker.settings import Settings

if TYPE_CHECKING:
    from docmill.tasks.backends import Backend
    from docmill.tasks.kinds.base import Recipe

Count = Callable[[Sequence[str]], int]


@contextmanager
def counting(settings: Settings, device: str, spec: Spec) -> Iterator[Count | None]:
    """Yield a function that counts the tokens of texts in their windows; None if the spec names no tokenizer.

    The server is asked for the length of a window. Raises SampleFailed with the reason if the model cannot be served,
    and ServerUnreachable if the server does not answer.
    """
    if pinning.TOKENIZER not in spec.params:
        yield None
        return
    try:
        backend = opener(settings, device)(spec)
    except ServerUnreachable:
        raise
    except CannotServe as error:
        raise SampleFailed(str(error)) from error
    recipe = kinds.recipe(spec, backend.traits)
    try:
        yield lambda texts: _counted(recipe, backend, texts)
    finally:
        backend.close()


def _counted(recipe: Recipe, backend: Backend, texts: Sequence[str]) -> int:
    """Return the tokens of the first round. A text that cannot be cut will fail, and costs nothing."""
    from docmill.tasks.engine.documents import cut_each

    windows = [one for found in cut_each(recipe, backend, texts) if not isinstance(found, Exception) for one in found]
    return sum(one.encoded.tokens for one in windows if one.encoded is not None)
