"""Features that stand beside the core: what each brings, and where they are found.

A feature of docmill's own is a folder in `features/` and a line of `BUILT_IN`. A distribution names its features in
the entry point group `docmill.features`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from typing import NamedTuple

from docmill.worker.errors import WorkerError

WORK, RESULTS, CORPORA = "Work", "Results", "Corpora"
PIPELINES, FLEET, ADMINISTRATION = "Pipelines", "Fleet", "Administration"
HEADINGS = (WORK, RESULTS, CORPORA, PIPELINES, FLEET, ADMINISTRATION)
GROUP = "docmill.features"
BUILT_IN = (
    "docmill.features.batch_files",
    "docmill.features.comparing",
    "docmill.features.near_duplicates",
    "docmill.features.reviewing",
    "docmill.features.top",
)


class FeatureInvalid(WorkerError):
    """A feature of another distribution cannot be used."""


class Command(NamedTuple):
    """A command's heading in the help, its line there, and its module. Its function there is NAME_command."""

    heading: str
    about: str
    module: str


@dataclass(frozen=True)
class Feature:
    """A feature's name, and its commands by their names. Their modules load when they are used."""

    name: str
    commands: Mapping[str, Command] = field(default_factory=dict)


@cache
def built_in_features() -> tuple[Feature, ...]:
    """Return docmill's own features."""
    return tuple(importlib.import_module(module).FEATURE for module in BUILT_IN)


@cache
def installed_features() -> tuple[Feature, ...]:
    """Return the features of other distributions, in the order of their names. Raises FeatureInvalid."""
    features = []
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        feature = point.load()
        if not isinstance(feature, Feature):
            raise FeatureInvalid(f"the entry point {point.name} of {GROUP} is no Feature: {point.value}")
        features.append(feature)
    return tuple(features)


def find_command(name: str) -> Command | None:
    """Return a feature's command; None if there is no such command. Other distributions are looked at last."""
    for features in (built_in_features, installed_features):
        for feature in features():
            if name in feature.commands:
                return feature.commands[name]
    return None


def feature_commands() -> dict[str, Command]:
    """Return the commands of all features by their names. A name that is taken keeps its first command."""
    commands: dict[str, Command] = {}
    for feature in (*built_in_features(), *installed_features()):
        commands |= {name: command for name, command in feature.commands.items() if name not in commands}
    return commands
