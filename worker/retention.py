"""Settings of retention: ages such as 90d, as variables or in the `[retention]` table of a TOML file.

A file has a line for each rule, and a variable goes before the file::

    [retention]
    runs = "90d"
    results = "1y"
    shards = "30d"
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field, field_validator


@dataclass(frozen=True)
class Shown:
    """The text of docs/settings.md on a setting, in place of its type or default."""

    default: str = ""
    choices: tuple[str, ...] = ()
    values: str = ""


DAY_S = 86_400.0
_UNITS_S = {"h": 3_600.0, "d": DAY_S, "w": 7 * DAY_S, "y": 365 * DAY_S}
NEVER = "never"
_FORM = re.compile(r"(\d+(?:\.\d+)?)\s*([hdwy])")
_FIELD = "retention_"
_LEAST_S, _MOST_S = 3_600.0, 1_000 * _UNITS_S["y"]
_AGE = "an age such as `12h`, `90d`, `6w`, `1y`, or `never`"
_OF_UPKEEP = Shown("`DOCMILL_RETENTION_DAYS`", values=_AGE)
_NEVER = Shown(f"`{NEVER}`", values=_AGE)


def seconds(value: str) -> float | None:
    """Return the seconds of an age such as 12h, 90d, 6w or 1y; None for `never`. Raises ValueError."""
    match = _FORM.fullmatch(value.strip().lower())
    if match is None and value.strip().lower() != NEVER:
        raise ValueError(f"{value!r} is no age; write 12h, 90d, 6w, 1y or never")
    if match is None:
        return None
    age_s = float(match[1]) * _UNITS_S[match[2]]
    if not _LEAST_S <= age_s <= _MOST_S:
        raise ValueError(f"{value!r} is no age from 1h to 1000y; write never to keep all")
    return age_s


def read(path: Path) -> dict[str, str]:
    """Return the ages of a file by rule, as they are written. Raises ValueError."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("retention", {})
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path} is no TOML file: {error}") from error
    if not isinstance(table, dict) or not table:
        raise ValueError(f'{path} has no table [retention]; write one, such as results = "1y"')
    if unknown := sorted({*table} - {*NAMES}):
        raise ValueError(f"{path}: unknown rule {', '.join(map(repr, unknown))}; there are {', '.join(NAMES)}")
    for rule, value in table.items():
        if not isinstance(value, str):
            raise ValueError(f'{path}: write {rule} with a unit and in quotes, such as "90d"')
        try:
            seconds(value)
        except ValueError as error:
            raise ValueError(f"{path}: {rule}: {error}") from error
    return dict(table)


def _check_age(value: str | None) -> str | None:
    if value is not None:
        seconds(value)
    return value


Age = Annotated[str | None, AfterValidator(_check_age)]


class RetentionSettings(BaseModel):
    """The settings of `worker.settings.Settings` that say how old rows may become."""

    retention_days: Annotated[
        float,
        Field(
            gt=0,
            description="Days for which what has ended is kept, where no rule of retention has another age: runs of "
            "pipelines with their jobs, rejected records, and what `docmill retry` needs.",
        ),
    ] = 90.0
    retention: Annotated[
        Path | None,
        Field(description="TOML file whose table `[retention]` has an age for each rule; a variable goes before it."),
    ] = None
    retention_runs: Annotated[
        Age, Field(description="Age from which runs of pipelines go, with their jobs."), _OF_UPKEEP
    ] = None
    retention_step_texts: Annotated[
        Age, Field(description="Age from which jobs lose what `docmill retry` needs."), _OF_UPKEEP
    ] = None
    retention_rejections: Annotated[Age, Field(description="Age from which rejected records go."), _OF_UPKEEP] = None
    retention_refusals: Annotated[
        Age,
        Field(description="Age from which the reasons go why workers refused a model."),
        Shown("an hour, by upkeep", values=_AGE),
    ] = None
    retention_shards: Annotated[
        Age,
        Field(description="Age from which `docmill gc --retention` folds finished shards of ended jobs to sums."),
        _NEVER,
    ] = None
    retention_versions: Annotated[
        Age,
        Field(description="Age from which `docmill gc --retention` removes superseded versions of documents."),
        _NEVER,
    ] = None
    retention_results: Annotated[
        Age,
        Field(description="Age from which `docmill gc --retention` drops results that nothing needs."),
        _NEVER,
    ] = None

    @field_validator("retention")
    @classmethod
    def _readable(cls, value: Path | None) -> Path | None:
        if value is None:
            return None
        path = value.expanduser().absolute()
        read(path)
        return path


# The names of the rules (`docmill.storage.deletion.retention.RULES`); their module loads SQLAlchemy.
NAMES = tuple(
    name.removeprefix(_FIELD)
    for name in RetentionSettings.model_fields
    if name.startswith(_FIELD) and name != "retention_days"
)


def ages(settings: RetentionSettings) -> dict[str, float]:
    """Return the ages that the settings say. Rules that work by themselves have that of DOCMILL_RETENTION_DAYS."""
    from docmill.storage.deletion.retention import upkeep_ages

    said: dict[str, str] = {} if settings.retention is None else read(settings.retention)
    variables = {rule: getattr(settings, f"{_FIELD}{rule}") for rule in NAMES}
    said |= {rule: value for rule, value in variables.items() if value is not None}
    every = {**upkeep_ages(settings.retention_days * DAY_S), **{rule: seconds(value) for rule, value in said.items()}}
    return {rule: age_s for rule, age_s in every.items() if age_s is not None}
