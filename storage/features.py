"""The declaration of a feature, and the list of docmill's own features and those of other distributions.

A feature of docmill's own is a folder in `features/` and a line of `BUILT_IN`. A distribution names its features in
the entry point group `docmill.features`. The registries of the core ask this module, and name no feature.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pkgutil import resolve_name
from typing import Any, NamedTuple, TypeVar

from docmill.storage.errors import StorageError
from docmill.storage.extras import Extra

T = TypeVar("T")

WORK, RESULTS, CORPORA, FLEET, ADVANCED = "Work", "Results", "Corpora and pipelines", "Fleet", "Advanced"
HEADINGS = (WORK, RESULTS, CORPORA, FLEET, ADVANCED)
GROUP = "docmill.features"
BUILT_IN = (
    "docmill.features.batch_server",
    "docmill.features.comparing",
    "docmill.features.explaining",
    "docmill.features.metrics",
    "docmill.features.migrating",
    "docmill.features.near_duplicates",
    "docmill.features.reports",
    "docmill.features.reviewing",
    "docmill.features.top",
)


class Command(NamedTuple):
    """A command's heading in the help, its line there, and the module that has its function, `NAME_command`."""

    heading: str
    about: str
    module: str


@dataclass(frozen=True)
class Feature:
    """A feature's name and its parts. A string `module:NAME` names a value, which loads when it is needed.

    ``commands``: the command line's commands, by their names.
    ``kinds``: kinds of task (`tasks.kinds.base.TaskKind`).
    ``backends``: rows of the registry (`tasks.backends.registry.Row`). They come after docmill's own.
    ``readers``: functions that read files with a suffix (`.xyz`), or open URLs with a scheme (`xyz`).
    ``checks``: checks of outputs (`tasks.checks.base.Check`), by the flags that they raise.
    ``filters``: filters of documents (`storage.steps.conditions.DocumentFilter`), by their names for `--leave-out`.
    ``writers``: formats of results (`storage.writers.formats.Writer`).
    ``tables``: SQLAlchemy's MetaData of the feature's own tables. `docmill db upgrade` makes those that are missing.
    ``worker_rights``, ``order_rights``: rights to these tables (`storage.core.privileges`) that every worker needs,
    and that a worker needs which takes orders.
    ``dependents``: functions that deletion calls (`storage.deletion.needed.Dependent`).
    ``retention``: rules by their names (`storage.deletion.retention.Rule`), each with an age in the settings' file.
    ``pages``: pages of `docmill web` (`worker.web.page.Page`).
    ``extras``: extras of docmill's package that only the feature needs.
    ``services``: functions `(settings, supervisor) -> context manager`. `docmill worker` enters the context managers
    while it works.
    """

    name: str
    commands: Mapping[str, Command] = field(default_factory=dict)
    kinds: Sequence[str] = ()
    backends: Sequence[str] = ()
    readers: Mapping[str, str] = field(default_factory=dict)
    checks: Mapping[str, str] = field(default_factory=dict)
    filters: Mapping[str, str] = field(default_factory=dict)
    writers: Sequence[str] = ()
    tables: Sequence[str] = ()
    worker_rights: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    order_rights: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    dependents: Sequence[str] = ()
    retention: Mapping[str, str] = field(default_factory=dict)
    pages: Sequence[str] = ()
    extras: Sequence[Extra] = ()
    services: Sequence[str] = ()

    def load(self, reference: str, kind: type[T]) -> T:
        """Return a value that the feature names. Raises StorageError if it does not load, or is of another type."""
        try:
            value = resolve_name(reference)
        except Exception as error:
            raise StorageError(f"the feature {self.name} brings {reference}, which {_why(error)}") from error
        if not isinstance(value, kind):
            raise StorageError(f"the feature {self.name} brings {reference}, which is not a {kind.__name__}")
        return value


@cache
def built_in_features() -> tuple[Feature, ...]:
    """Return docmill's own features."""
    return tuple(importlib.import_module(module).FEATURE for module in BUILT_IN)


@cache
def features() -> tuple[Feature, ...]:
    """Return docmill's own features, then those of other distributions in the order of their names.

    Raises StorageError for a distribution's feature that does not load.
    """
    points = sorted(entry_points(group=GROUP), key=lambda point: point.name)
    return (*built_in_features(), *map(_load_feature, points))


def _load_feature(point: EntryPoint) -> Feature:
    distribution = f", of {point.dist.name} {point.dist.version}" if point.dist is not None else ""
    described = f"the entry point {point.name} of {GROUP}{distribution}"
    try:
        feature = point.load()
    except Exception as error:
        raise StorageError(f"{described}, {_why(error)}") from error
    if not isinstance(feature, Feature):
        raise StorageError(f"{described}, is not a Feature: {point.value}")
    return feature


def _why(error: Exception) -> str:
    said = (str(error).splitlines() or [""])[0]
    return f"cannot be loaded ({type(error).__name__}: {said}); repair it or uninstall it"


def load_all(part: str, kind: type[T]) -> Iterator[T]:
    """Yield what all features bring of a part, such as "kinds", loaded. Raises StorageError."""
    for feature in features():
        brought: Any = getattr(feature, part)
        for reference in brought.values() if isinstance(brought, Mapping) else brought:
            yield feature.load(reference, kind)


def load_by_name(part: str, kind: type[T], own: Iterable[T], name: str = "name") -> dict[str, T]:
    """Return the values of a part by their names: docmill's own, then those of features.

    `name` is the attribute of a value that has its name. Raises StorageError, also if a name is taken, or is not
    the name under which the feature lists the value.
    """
    values = {getattr(value, name): value for value in own}
    for feature in features():
        brought: Any = getattr(feature, part)
        for named, reference in (
            brought.items() if isinstance(brought, Mapping) else ((None, entry) for entry in brought)
        ):
            value = feature.load(reference, kind)
            key = getattr(value, name)
            if key in values or named not in {key, None}:
                reason = "a name that is taken" if key in values else f"and calls it {named}"
                raise StorageError(f"the feature {feature.name} brings {reference}, whose {name} is {key}, {reason}")
            values[key] = value
    return values


def flags_of_checks() -> frozenset[str]:
    """Return the flags that checks of features raise; none if a feature does not load, which other calls report."""
    with suppress(StorageError):
        return frozenset(flag for feature in features() for flag in feature.checks)
    return frozenset()


def find_command(name: str) -> Command | None:
    """Return a feature's command; None if there is no such command. Other distributions load only if need be."""
    for of_features in (built_in_features, features):
        for feature in of_features():
            if name in feature.commands:
                return feature.commands[name]
    return None


def feature_commands() -> dict[str, Command]:
    """Return the commands of all features by their names. A name that is taken keeps its first command."""
    commands: dict[str, Command] = {}
    for feature in features():
        commands |= {name: command for name, command in feature.commands.items() if name not in commands}
    return commands
