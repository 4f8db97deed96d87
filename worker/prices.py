"""Prices of models by their tokens, and the cost of a job: a TOML file that DOCMILL_PRICES names, or --price.

A file has a table for each model, as --model names it, with prices for a million tokens::

    currency = "USD"

    ["openai:gpt-5-mini"]
    input = 0.25
    output = 2.00
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from docmill.tasks.models import weightless
from docmill.worker.errors import Fault, WorkerError, describe_bad_syntax, put_place

if TYPE_CHECKING:
    from docmill.storage.core.specs import Spec
    from docmill.storage.results.status import JobStatus
    from docmill.storage.steps.budgets import Account
    from docmill.worker.settings import Settings

_TOKENS = 1_000_000
_KEYS = ("input", "output")
_EXAMPLE = 'write a table for each model: ["openai:NAME"], input = 0.25, output = 2.00'


@dataclass(frozen=True)
class Price:
    """Prices of a million tokens that a model reads, and that it writes."""

    input: float
    output: float = 0.0

    def of(self, tokens_in: float, tokens_out: float) -> float:
        """Return the price of so many tokens."""
        return (tokens_in * self.input + tokens_out * self.output) / _TOKENS

    @classmethod
    def parse(cls, text: str) -> Price:
        """Return the price in a text such as 0.25,2. Raises ValueError."""
        try:
            values = [float(part) for part in text.split(",")]
        except ValueError:
            values = []
        if len(values) not in {1, 2} or not all(0 <= value < math.inf for value in values):
            raise ValueError(f"{text!r} is not a price; write the prices of a million tokens as 0.25,2")
        return cls(*values)


@dataclass(frozen=True)
class Cost:
    """The cost of a job's tokens. ``unpriced`` are served models without a price."""

    amount: float
    currency: str
    unpriced: tuple[str, ...] = ()

    def __str__(self) -> str:
        amount = f"{self.amount:,.2f}" if self.amount >= 1 else f"{Decimal(f'{self.amount:.4g}'):f}"
        without = f" (without {', '.join(self.unpriced)}, which has no price)" if self.unpriced else ""
        return f"{amount} {self.currency}".rstrip() + without


@dataclass(frozen=True)
class Prices:
    """Prices by the name of the model."""

    models: Mapping[str, Price] = field(default_factory=dict)
    currency: str = ""

    def of_model(self, name: str, price: Price | None) -> Prices:
        """Return these prices, with another one for a model if it is given."""
        return self if price is None else replace(self, models={**self.models, name: price})

    def by_model(self) -> dict[str, tuple[float, float]]:
        """Return the prices as the store notes them: of a million tokens read, and of a million written."""
        return {name: (price.input, price.output) for name, price in self.models.items()}

    def lacks(self, model: str) -> bool:
        """Return True for a served model without a price."""
        return model not in self.models and weightless.is_served(model)

    def cost(self, uses: Iterable[tuple[str, float, float]]) -> Cost | None:
        """Return the cost of models that read and wrote so many tokens; None if none of them has a price."""
        used = list(uses)
        priced = [self.models[name].of(read, written) for name, read, written in used if name in self.models]
        lacking = dict.fromkeys(name for name, read, _ in used if read and self.lacks(name))
        return Cost(math.fsum(priced), self.currency, tuple(lacking)) if priced else None

    def cost_of(self, status: JobStatus) -> Cost | None:
        """Return the cost of the tokens that a job read and wrote; None if none of its models has a price."""
        return self.cost((step.spec.model, step.tokens_in, step.tokens_out) for step in status.computing)


def read_prices(settings: Settings) -> Prices:
    """Return the prices in the settings' file; none without a file. Raises WorkerError."""
    return Prices() if settings.prices is None else parse(settings.prices)


def limit_cost(
    settings: Settings, max_cost: float | None, specs: Iterable[Spec], budget: str | None = None
) -> Account:
    """Return the cost limit of a job, or of all jobs of a `budget`. Raises WorkerError without prices."""
    from docmill.storage.steps.budgets import Account  # which brings SQLAlchemy along

    if max_cost is None:
        return Account()
    prices = read_prices(settings)
    models = [*dict.fromkeys(spec.model for spec in specs)]
    unknown = [name for name in models if name not in prices.models]
    lacking = [*filter(prices.lacks, unknown)] or (unknown if unknown == models else [])
    if lacking:
        said = f"--max-cost needs the price of {', '.join(lacking)}"
        raise WorkerError(f"{said}; write a table for it into the file that DOCMILL_PRICES names")
    return Account(budget=budget, max_cost=max_cost, prices=prices.by_model())


def parse(path: Path) -> Prices:
    """Return the prices in a file. Raises WorkerError, with the place of each fault."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WorkerError(f"cannot read {path}: {error.strerror}; correct DOCMILL_PRICES") from error
    try:
        tables = tomllib.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise WorkerError(describe_bad_syntax(error, content, path)) from error
    currency = tables.pop("currency", "")
    faults = [fault for name, table in tables.items() for fault in _faults(name, table)]
    if not isinstance(currency, str):
        faults.insert(0, (("currency",), 'currency must be a text, such as "USD"'))
    if faults:
        raise WorkerError("\n".join(f"{path}: {put_place(place, said)}" for place, said in faults))
    return Prices({name: Price(**table) for name, table in tables.items()}, currency)


def _faults(name: str, table: object) -> Iterable[Fault]:
    """Yield the faults of a model's table."""
    if not isinstance(table, dict):
        yield (name,), f"{name} is not a table; {_EXAMPLE}"
        return
    if "input" not in table:
        yield (name,), f"{name} has no input, the price of a million tokens that are read; {_EXAMPLE}"
    for key, value in table.items():
        if key not in _KEYS:
            # A name with a dot and without quotes is a table in a table.
            yield (name, key), f"{key} is not a price, only input and output are; put a model's name in quotes"
        elif isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            yield (name, key), f"{key} must be a number, 0 or more"
