"""The risk that an output is bad: a logistic model over numbers that are stored with each output."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

Result = Mapping[str, Any]  # a result as `storage.results.results` has it

FLAG = "flag "  # begins the name of a feature that is 1 where an output carries the flag, and 0 elsewhere
COLUMNS = ("flags", "tokens_in", "tokens_out", "confidence", "mean_logprob", "least_logprob")  # that a risk needs
MOST_TOKENS = 1_000.0  # tokens of a text; longer texts count as this long
MOST_RATIO = 4.0


def _ratio(result: Result) -> float | None:
    if not result["tokens_in"]:
        return None
    return min(float(result["tokens_out"]) / float(result["tokens_in"]), MOST_RATIO)


NUMBERS: Mapping[str, Callable[[Result], float | None]] = MappingProxyType(
    {
        "confidence": lambda result: result.get("confidence"),
        "mean_logprob": lambda result: result.get("mean_logprob"),
        "least_logprob": lambda result: result.get("least_logprob"),
        "tokens_in": lambda result: min(float(result["tokens_in"]), MOST_TOKENS),
        "tokens_out_per_in": _ratio,
    }
)


@dataclass(frozen=True)
class RiskFeature:
    """A feature with its mean and its scale among the judged outputs, and its coefficient."""

    name: str
    mean: float
    scale: float
    coefficient: float


@dataclass(frozen=True)
class RiskModel:
    """A logistic regression: the risk is 1 / (1 + exp(-z)), and z the intercept and all coefficients × features.

    A feature enters as (value - mean) / scale, or as 0 if its value is not known.
    """

    intercept: float
    features: tuple[RiskFeature, ...]

    @classmethod
    def stored(cls, value: Mapping[str, Any]) -> RiskModel:
        """Return the model in a value of `to_json`."""
        return cls(value["intercept"], tuple(RiskFeature(**feature) for feature in value["features"]))

    def to_json(self) -> dict[str, Any]:
        return {"intercept": self.intercept, "features": [asdict(feature) for feature in self.features]}

    def of(self, result: Result) -> float:
        """Return the risk of a result, from 0 to 1."""
        z = self.log_odds(result)
        return 1 / (1 + math.exp(-z)) if z > -700 else 0.0

    def log_odds(self, result: Result) -> float:
        """Return the log-odds of a result's risk. `storage.steps.choosing` has the same sum in SQL."""
        z = self.intercept
        for feature in self.features:
            value = value_of(feature.name, result)
            if value is not None:
                z += feature.coefficient * (value - feature.mean) / feature.scale
        return z


@dataclass(frozen=True)
class FittedRisk:
    """A version of a spec's risk, 0 before it is stored.

    It was fitted to so many good and bad outputs, and has the measures of its `quality` by name. A job's doubt keeps
    only the version and the model.
    """

    version: int
    model: RiskModel
    n_good: int = 0
    n_bad: int = 0
    quality: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def stored(cls, value: Mapping[str, Any]) -> FittedRisk:
        """Return the risk in a value of `to_json`."""
        return cls(value["version"], RiskModel.stored(value))

    def to_json(self) -> dict[str, Any]:
        """Return the risk as a job's doubt keeps it."""
        return {"version": self.version, **self.model.to_json()}


def logit(risk: float) -> float:
    """Return the log-odds of a risk from 0 to 1."""
    if risk in {0.0, 1.0}:
        return math.inf if risk else -math.inf
    return math.log(risk / (1 - risk))


def value_of(name: str, result: Result) -> float | None:
    """Return a feature of a result; None if it is not known. Raises KeyError if there is no such feature."""
    if name.startswith(FLAG):
        return float(name.removeprefix(FLAG) in result["flags"])
    return NUMBERS[name](result)
