"""Cut a text into windows as the model of a spec does, without the weights of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from docmill.storage.core.specs import Spec
from docmill.tasks import kinds, languages, patterns
from docmill.tasks.backends import Assignment
from docmill.tasks.backends.reading import CoderAndTraits, as_given, reading_of
from docmill.tasks.engine.backend_factory import locate_model, open_weightless, polyglot_traits
from docmill.tasks.engine.tickets import cut_each
from docmill.tasks.errors import BadOption, CannotServe, ModelError, describe_error
from docmill.tasks.kinds.base import Traits
from docmill.tasks.models import weightless
from docmill.tasks.models.families import Family
from docmill.tasks.models.weights import ModelFolders
from docmill.tasks.specs import pinning, plan
from docmill.tasks.windows.windows import Encoded, Window


@dataclass(frozen=True)
class ReadWindow:
    """A window of a text, ``[start, end)`` in characters, and the model's input for it.

    ``tokens`` counts special tokens and the prompt, too. ``prompt`` is the same input as a string. Both are None for
    a window that was copied. ``part`` is True if a section was cut into several windows and this is one of them.
    """

    start: int
    end: int
    tokens: int | None
    prompt: str | None
    part: bool


def cut(folders: ModelFolders, spec: Spec, text: str) -> tuple[list[ReadWindow], Traits]:
    """Return the windows of a text in its first round, and the model's traits. Raises CannotServe."""
    reading = _open_reading(spec, folders)
    (windows,) = cut_each(kinds.recipe(spec, reading.traits), reading.coder, [text])
    if isinstance(windows, Exception):
        raise CannotServe(f"The text cannot be cut: {windows}")
    return [_read_window(reading, window) for window in windows], reading.traits


def _read_window(reading: CoderAndTraits, window: Window) -> ReadWindow:
    encoded = window.encoded
    tokens, prompt = (None, None) if encoded is None else (encoded.tokens, reading.shown(encoded))
    return ReadWindow(window.start, window.end, tokens, prompt, window.part)


def _open_reading(spec: Spec, folders: ModelFolders) -> CoderAndTraits:
    """Return the coder of a spec's model, with the model's traits. Raises CannotServe."""
    try:
        languages.require_detector_for(spec)
        patterns.require_for(spec)
        if specs := plan.specs_of(spec):
            return _join_readings(specs, partial(_open_reading, folders=folders))
        if weightless.is_served(spec.model):
            raise CannotServe(f"the server of {spec.model} has the tokenizer.")
        if weightless.is_weightless(spec.model):
            backend = open_weightless(spec, "cpu")
            return CoderAndTraits(backend, backend.traits, as_given)
        if not pinning.here(spec, folders):
            raise CannotServe(f"{spec.model} is not on this machine.")
        adapter = spec.params.get(pinning.ADAPTER)
        if adapter and not pinning.ADAPTERS.are_here(adapter, spec.params[pinning.ADAPTER_REVISION], folders):
            raise CannotServe(f"The adapter {adapter} is not on this machine.")
        spec, folder, config = locate_model(spec, folders, only=Family.ENCODER)
        head = kinds.kind(spec.kind).require_head(config, spec.model)
        return reading_of(Assignment(spec, folder, "cpu", folders.cache, head))
    except CannotServe:
        raise
    except (ModelError, BadOption) as error:
        raise CannotServe(str(error)) from error
    except (OSError, ValueError, ImportError) as error:  # of files that the model libraries cannot read
        raise CannotServe(f"{spec.model} cannot be read: {describe_error(error)}") from error


def _join_readings(specs: Mapping[str, Spec], open_part: Callable[[Spec], CoderAndTraits]) -> CoderAndTraits:
    readings = {language: open_part(spec) for language, spec in specs.items()}
    coders = {language: reading.coder for language, reading in readings.items()}

    def shown(encoded: Encoded) -> str:
        assert encoded.language is not None
        return readings[encoded.language].shown(encoded)

    return CoderAndTraits(next(iter(coders.values())), polyglot_traits(coders), shown)
