"""Open the backend of a spec: the requested backend, or the best installed backend that computes the model.

``import_libraries`` imports the libraries for that ahead of time.
"""

from __future__ import annotations

import hashlib
import logging
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from docmill.storage.core.specs import Spec
from docmill.storage.extras import install
from docmill.tasks import kinds, languages, patterns
from docmill.tasks.backends import Assignment, Backend, FilteredSource, WindowSource, registry
from docmill.tasks.backends.convert import is_whole, make_once, safe_folder
from docmill.tasks.backends.encoder import choice, heads
from docmill.tasks.backends.registry import Offer
from docmill.tasks.backends.tokens import TokenCoder
from docmill.tasks.backends.weightless import NullBackend, PatternsBackend
from docmill.tasks.batching import Budget, Item, Pool
from docmill.tasks.errors import (
    BadOption,
    CannotServe,
    DeviceUnusable,
    ModelError,
    NotInstalled,
    Unsuited,
    describe_error,
)
from docmill.tasks.kinds.base import Traits
from docmill.tasks.models import families, weightless
from docmill.tasks.models.families import Description, Family
from docmill.tasks.models.weightless import Server
from docmill.tasks.models.weights import ModelFolders
from docmill.tasks.outputs import Head, Output
from docmill.tasks.specs import pinning, plan
from docmill.tasks.windows.windows import Coder, Encoded

# The most batches of other languages that wait while one language is computed.
_MOST_WAITING = 4


def polyglot_traits(coders: Mapping[str, Coder]) -> Traits:
    """Return the traits of a spec with a model for each language. The coders mark windows with their language."""

    def in_language(language: str) -> Coder:
        code = languages.plain(language)

        def encode(texts: Sequence[str]) -> list[Encoded]:
            return [replace(encoded, language=code) for encoded in coders[code].encode(texts)]

        return TokenCoder(encode, coders[code].limit_tokens)

    return Traits(language_coders=in_language, languages=frozenset(coders))


class PolyglotBackend:
    """The models of a spec with a model for each language. All of them are loaded.

    They take turns. The language with the oldest window is computed until it has no windows, or too many windows of
    other languages wait.
    """

    def __init__(self, specs: Mapping[str, Spec], open_part: Callable[[Spec], Backend]) -> None:
        self._backends: dict[str, Backend] = {}
        try:
            for language, spec in specs.items():
                self._backends[language] = open_part(spec)
        except BaseException:
            self.close()
            raise
        self.traits = polyglot_traits(self._backends)

    @property
    def limit_tokens(self) -> int:
        return min(backend.limit_tokens for backend in self._backends.values())

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        raise AssertionError("a text is encoded by its language's coder")

    def run(self, source: WindowSource) -> Iterator[tuple[int, Output]]:
        waiting: dict[str, Pool[Any]] = {language: Pool() for language in self._backends}
        language = next(iter(waiting))
        while True:
            yield from self._backends[language].run(FilteredSource(partial(_take, language, waiting, source)))
            oldest = {name: pool.oldest for name, pool in waiting.items() if pool.oldest is not None}
            if not oldest:
                return
            language = min(oldest, key=lambda name: oldest[name])

    def runtime(self) -> dict[str, Any]:
        """Return the common facts about the models, and by language the facts that differ."""
        runtimes = {language: backend.runtime() for language, backend in self._backends.items()}
        first, *others = runtimes.values()
        if all(other == first for other in others):
            return first
        differing = {
            name: "; ".join(f"{language}: {runtime[name]}" for language, runtime in runtimes.items())
            for name in ("device", "precision", "backend")
            if any(other[name] != first[name] for other in others)
        }
        versions = {name: value for runtime in runtimes.values() for name, value in runtime["versions"].items()}
        return {**first, **differing, "versions": versions}

    def close(self) -> None:
        while self._backends:
            self._backends.popitem()[1].close()


def _take(
    language: str, waiting: Mapping[str, Pool[Any]], source: WindowSource, budget: Budget
) -> Sequence[Item[Any]]:
    """Return the next windows of a language. Windows of other languages wait in their pools."""
    if budget.rows < 1:
        return source.take(budget)
    own = waiting[language]
    others = [pool for code, pool in waiting.items() if code != language]
    while len(own) < budget.rows and sum(map(len, others)) < _MOST_WAITING * budget.rows:
        items = source.take(budget)
        if not items:
            break
        for code, pool in waiting.items():
            pool.add(item for item in items if item.encoded.language == code)
    return own.take(budget)


log = logging.getLogger("docmill.backends")

CONVERSION = "docmill.tasks.backends.encoder.conversion"


def open_backend(
    spec: Spec,
    *,
    device: str,
    folders: ModelFolders,
    backend: str = registry.AUTO,
    server: Server | None = None,
    provisional: bool = True,
) -> Backend:
    """Load the model of a spec onto a device (``cpu``, ``cuda:0``). Raises CannotServe with the reason.

    ``backend`` is one of ``registry.choices()``. ``server`` computes served models, for any device and backend. If an
    encoder's backend may be ``provisional``, the backends are measured after the first texts, else at once.
    """
    try:
        languages.require_detector_for(spec)
        patterns.require_for(spec)
        if specs := plan.specs_of(spec):
            open_part = partial(
                open_backend,
                device=device,
                folders=folders,
                backend=backend,
                server=server,
                provisional=provisional,
            )
            return PolyglotBackend(specs, open_part)
        if weightless.is_served(spec.model):
            tokenizer = pinning.TOKENIZERS.locate_beside(spec, folders)
            return _on_server(spec, folders.cache, server, tokenizer)
        if weightless.is_weightless(spec.model):
            return open_weightless(spec, device)
        if device == registry.REMOTE:
            raise CannotServe(
                f"This worker computes served models only, and not {spec.model}: its --device is remote."
            )
        spec, folder, config = locate_model(spec, folders)
        assignment = Assignment(spec, folder, device, folders.cache, _head(spec, config))
        return _first_suited(assignment, families.family(config), backend, provisional=provisional)
    except CannotServe:
        raise
    except (ModelError, BadOption) as error:
        raise CannotServe(str(error)) from error
    except Exception as error:  # whatever a model library raises on files that it cannot read
        if fault := _find_fault(device):
            raise DeviceUnusable(f"{device} can compute nothing: {fault}") from error
        raise CannotServe(f"{spec.model} cannot be loaded: {describe_error(error)}") from error


def _find_fault(device: str) -> str | None:
    """Return why a device can compute nothing; None for a device that computes, and for a server."""
    if device == registry.REMOTE:
        return None
    try:
        from docmill.tasks.backends import accelerator  # imports torch, which may be broken
    except Exception as error:
        return describe_error(error)
    return accelerator.find_fault(device)


def locate_model(
    spec: Spec, folders: ModelFolders, only: Family | None = None
) -> tuple[Spec, Path, Mapping[str, Any]]:
    """Return the folder and the config of a spec's model, with its adapter merged.

    The returned spec names the merged model. With ``only``, models of other families stay without the adapter.
    """
    folder = pinning.locate(spec, folders)
    config: Mapping[str, Any] = pinning.read_config(spec, folders)
    adapter = pinning.ADAPTERS.locate_beside(spec, folders)
    if adapter is not None and only in {None, families.family(config)}:  # it may bring the head
        spec, folder = adapt(spec, folder, adapter, folders.cache)
        config = Description.of_folder(folder).config
    return spec, folder, config


def open_weightless(spec: Spec, device: str) -> NullBackend | PatternsBackend:
    """Return the backend of a model without weights."""
    return (NullBackend if weightless.is_null(spec.model) else PatternsBackend)(spec, device=device)


def _on_server(spec: Spec, cache_dir: Path, server: Server | None, tokenizer: Path | None) -> Backend:
    offer = registry.require_remote(spec)
    assignment = Assignment(
        spec, cache_dir, registry.REMOTE, cache_dir, offer.head, server=server, tokenizer=tokenizer
    )
    opened: Backend = pkgutil.resolve_name(offer.implementation)(assignment)
    return opened


def _head(spec: Spec, config: Mapping[str, Any]) -> Head:
    """Return the head with which a model of this config does the spec. Raises CannotServe and ModelUnsuitable."""
    head = kinds.kind(spec.kind).require_head(config, spec.model)
    marks = kinds.kind(spec.kind).marks
    mark = marks.get(head)
    if {mark} - {None} != spec.params.keys() & {*marks.values()}:
        raise CannotServe(
            f"The config.json of {spec.model} was not available when this job was made: make the job again."
        )
    return head


def _first_suited(assignment: Assignment, family: Family | None, wanted: str, *, provisional: bool) -> Backend:
    spec, device, head = assignment.spec, assignment.device, assignment.head
    present = registry.require_present(
        spec.kind, family, quality=spec.quality, device=device, wanted=wanted, model=spec.model
    )
    names = [*present]
    assignment = replace(assignment, alone=len(names) == 1)
    offers = registry.offers(spec.kind, family, quality=spec.quality, device=device)

    # Backends of encoders have more methods than a Backend.
    def opened(name: str, *, tuned: bool = True) -> Any:
        # This imports the backend's library.
        return pkgutil.resolve_name(offers[name].implementation)(replace(assignment, tuned=tuned))

    if head in heads.LOADERS and len(names) > 1:
        contest = choice.Contest.of(names, assignment)
        return contest.open(opened, provisional=provisional and device == registry.CPU)
    reason: CannotServe | None = None
    for name in names:
        try:
            suited: Backend = opened(name)
        except Unsuited as error:
            log.info("backend_unsuited backend=%s spec=%s reason=%s", name, spec, error)
            reason = error
        else:
            if head not in heads.LOADERS or name == registry.OWN_CODE or registry.OWN_CODE not in offers:
                return suited
            # The user named this backend. The model's own code takes over after an output that is not finite.
            return choice.FallbackBackend(suited, partial(opened, registry.OWN_CODE))
    assert reason is not None
    raise reason


def import_libraries(spec: Spec, device: str, folders: ModelFolders, backend: str) -> None:
    """Import the modules that opening a spec needs. Raises nothing, since opening reports any error."""
    for part in plan.specs_of(spec).values() or [spec]:
        try:
            for module in _modules(part, device, folders, backend):
                import_module(module)
        except Exception as error:  # whatever model libraries raise, and the errors of models
            log.info("libraries_not_imported spec=%s error=%r", part, error)


def _modules(spec: Spec, device: str, folders: ModelFolders, backend: str) -> list[str]:
    """Return the modules that opening a spec imports; none for a model that is not on this machine.

    If an adapter is not merged yet, only the module for the merging is known.
    """
    if weightless.is_weightless(spec.model) or not pinning.here(spec, folders):
        return []
    folder = pinning.locate(spec, folders)
    config: Mapping[str, Any] = pinning.read_config(spec, folders)
    if pinning.ADAPTER in spec.params:
        spec, folder = _locate_adapted(spec, folder, folders.cache)
        if not is_whole(folder, folders.cache):
            return ["peft"]
        config = Description.of_folder(folder).config
    family = families.family(config)
    head = kinds.kind(spec.kind).head(family)
    offers = registry.candidates(spec.kind, family, quality=spec.quality, device=device, wanted=backend)
    if head is None or not offers:
        return []
    names = [*offers]
    assignment = Assignment(spec, folder, device, folders.cache, head, alone=len(names) == 1)
    contested = head in heads.LOADERS and not assignment.alone
    first = choice.Contest.of(names, assignment).opening_order[0] if contested else names[0]
    return _name_modules(offers[first], assignment)


def _name_modules(offer: Offer, assignment: Assignment) -> list[str]:
    implementation = offer.implementation.partition(":")[0]
    if assignment.head not in heads.LOADERS:
        return [implementation]
    loader = heads.LOADERS[assignment.head].partition(":")[0]
    if implementation != registry.OPENVINO:
        return [implementation, loader]
    from docmill.tasks.backends.encoder.converted import is_converted  # which imports OpenVINO

    return [implementation] if is_converted(assignment) else [implementation, CONVERSION, loader]


# Raise this number with every change of the files with a merged adapter.
_ADAPTED_FORMAT = 4


def adapt(spec: Spec, folder: Path, adapter_folder: Path, cache_dir: Path) -> tuple[Spec, Path]:
    """Return the spec with the revision of the merged weights, and the folder with them.

    If the cache does not have them: raises NotInstalled without PEFT, and ModelUnsuitable if the adapter does not
    fit.
    """
    made, ready = _locate_adapted(spec, folder, cache_dir)

    def build(target: Path) -> None:
        if find_spec("peft") is None:
            raise NotInstalled(f"--adapter needs PEFT; {install('adapters')}.")
        from docmill.tasks.backends.merging import merge  # with torch

        head = kinds.kind(spec.kind).adapted_head(spec, Description.of_folder(folder).config)
        merge(spec, safe_folder(folder, spec.revision, cache_dir), adapter_folder, head, target)

    return made, make_once(ready, build, cache_dir)


def _locate_adapted(spec: Spec, folder: Path, cache_dir: Path) -> tuple[Spec, Path]:
    """Return the spec and the folder that `adapt` returns."""
    head = kinds.kind(spec.kind).adapted_head(spec, Description.of_folder(folder).config)
    whole = f"{spec.revision} {spec.params['adapter_revision']} {head} {_ADAPTED_FORMAT}"
    name = hashlib.sha256(whole.encode()).hexdigest()
    return replace(spec, revision=f"sha256:{name}"), cache_dir / "adapters" / name
