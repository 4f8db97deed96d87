"""Cut a text into the windows of a spec as the engine would, without the model's weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docmill.storage.core.specs import Spec
from docmill.tasks import kinds, languages, patterns
from docmill.tasks.backends import Assignment
from docmill.tasks.engine.documents import cut_each
from docmill.tasks.errors import BadOption, CannotServe, ModelError
from docmill.tasks.kinds.base import Traits
from docmill.tasks.models import families, null, served, weightless
from docmill.tasks.models.families import Family
from docmill.tasks.specs import adapters, per_language, pinning
from docmill.tasks.windows.windows import Encoded, LanguageCoders, Window

if TYPE_CHECKING:
    from docmill.tasks.backends.reading import Reading


@dataclass(frozen=True)
class ReadWindow:
    """A window of a text: ``[start, end)`` in characters, and what the model read for it.

    ``tokens`` includes special tokens and the prompt; ``prompt`` is the string that these tokens are. Both are None
    for a window that was copied. ``part`` says that it is one of several that a section had to be cut into. ``round``
    counts from 1; the windows of a later round are of the outputs of the one before.
    """

    start: int
    end: int
    tokens: int | None
    prompt: str | None
    part: bool = False
    round: int = 1


def read(reading: Reading, spec: Spec, text: str) -> list[ReadWindow]:
    """Return the windows of a text's first round. Raises CannotServe for a text that cannot be cut."""
    (windows,) = cut_each(kinds.recipe(spec, reading.traits), reading.coder, [text])
    if isinstance(windows, Exception):
        raise CannotServe(f"The text cannot be cut: {windows}")
    return [described(reading, window) for window in windows]


def described(reading: Reading, window: Window, number: int = 1) -> ReadWindow:
    """Return a window of a round with the prompt that the model read for it."""
    encoded = window.encoded
    tokens, prompt = (None, None) if encoded is None else (encoded.tokens, reading.shown(encoded))
    return ReadWindow(window.start, window.end, tokens, prompt, window.part, number)


def open_reading(spec: Spec, *, models_dir: Path | None, cache_dir: Path) -> Reading:
    """Return what reads texts as the model of a spec does. Raises CannotServe with the reason."""
    from docmill.tasks.backends.reading import reading_of

    try:
        languages.require_detector_for(spec)
        patterns.require_for(spec)
        if specs := per_language.specs_of(spec):
            return _of_languages(specs, partial(open_reading, models_dir=models_dir, cache_dir=cache_dir))
        if served.is_served(spec.model):
            raise CannotServe(f"the server of {spec.model} has the tokenizer.")
        if null.is_null(spec.model) or weightless.is_weightless(spec.model):
            return _weightless(spec)
        pinned = pinning.Pinned(spec.model, spec.revision)
        if not pinning.here(pinned, cache_dir=cache_dir):
            raise CannotServe(f"{spec.model} is not on this machine.")
        if not adapters.here(spec, cache_dir=cache_dir):
            raise CannotServe(f"The adapter {spec.params[adapters.NAME]} is not on this machine.")
        folder = pinning.locate(pinned, models_dir=models_dir, cache_dir=cache_dir)
        config: Mapping[str, Any] = pinning.read_config(pinned, models_dir=models_dir)
        adapter = adapters.locate(spec, models_dir=models_dir, cache_dir=cache_dir)
        if adapter is not None and families.family(config) is Family.ENCODER:  # it may bring the head
            from docmill.tasks.backends.adapters import merged
            from docmill.tasks.models.encoders import Description

            spec, folder = merged(spec, folder, adapter, cache_dir)
            config = Description.of_folder(folder).config
        head = kinds.kind(spec.kind).head(families.family(config))
        if head is None:
            kinds.kind(spec.kind).require(config, spec.model)
            raise AssertionError(spec.kind)
        return reading_of(Assignment(spec, folder, "cpu", cache_dir, head), config)
    except CannotServe:
        raise
    except (ModelError, BadOption) as error:
        raise CannotServe(str(error)) from error
    except (OSError, ValueError, ImportError) as error:  # of files that the model libraries cannot read
        reason = " ".join(str(error).split())[:300]
        raise CannotServe(f"{spec.model} cannot be read: {type(error).__name__}: {reason}") from error


def _of_languages(specs: Mapping[str, Spec], open_one: Callable[[Spec], Reading]) -> Reading:
    from docmill.tasks.backends.polyglot import LanguageCoder
    from docmill.tasks.backends.reading import Reading

    readings = {language: open_one(spec) for language, spec in specs.items()}
    coders = {language: LanguageCoder(language, one.coder) for language, one in readings.items()}

    def shown(encoded: Encoded) -> str:
        assert encoded.language is not None
        return readings[encoded.language].shown(encoded)

    told = LanguageCoders(lambda language: coders[languages.plain(language)], frozenset(coders))
    return Reading(next(iter(coders.values())), Traits(language_coders=told), shown)


def _weightless(spec: Spec) -> Reading:
    from docmill.tasks.backends.null import NullBackend
    from docmill.tasks.backends.patterns import PatternsBackend
    from docmill.tasks.backends.reading import Reading, as_given

    backend = (NullBackend if null.is_null(spec.model) else PatternsBackend)(spec, device="cpu")
    return Reading(backend, backend.traits, as_given)
