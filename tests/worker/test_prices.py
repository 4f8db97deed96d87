"""Prices of models: the file, its faults by place, and the costs of tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from docmill.storage.core.specs import Spec
from docmill.worker import prices
from docmill.worker.errors import WorkerError
from docmill.worker.prices import Cost, Price, Prices, limit_cost
from docmill.worker.settings import Settings

FILE = """\
currency = "USD"

["openai:small"]
input = 0.25
output = 2

["openai:vectors"]
input = 1
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "prices.toml"


def test_the_cost_is_that_of_the_tokens_read_and_written(file: Path) -> None:
    file.write_text(FILE)
    table = prices.parse(file)
    assert table == Prices({"openai:small": Price(0.25, 2.0), "openai:vectors": Price(1.0, 0.0)}, "USD")
    uses = [("openai:small", 2_000_000, 1_000_000), ("openai:vectors", 500_000, 0), ("minilm", 9, 9)]
    assert table.cost(uses) == Cost(3.0, "USD")
    assert str(table.cost(uses)) == "3.00 USD"
    assert str(table.cost([("openai:small", 400, 30)])) == "0.00016 USD"
    assert str(table.cost([("openai:small", 100, 0)])) == "0.000025 USD"


def test_a_served_model_without_a_price_is_named_and_others_cost_nothing() -> None:
    table = Prices().of_model("openai:small", Price.parse("1"))
    assert table.cost([("minilm", 5, 5)]) is None
    cost = table.cost([("openai:small", 1_000_000, 7), ("openai:big", 5, 5), ("openai:unused", 0, 0)])
    assert cost == Cost(1.0, "", ("openai:big",))
    assert str(cost) == "1.00 (without openai:big, which has no price)"


@pytest.mark.parametrize("text", ["", "x", "1,2,3", "-1", "nan", "1,inf"])
def test_a_price_is_one_or_two_numbers(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Price.parse(text)


def test_faults_of_a_file_are_named_with_their_places(file: Path) -> None:
    file.write_text('c = 1\ncurrency = 3\n[gpt-4.1]\ninput = 1\n["a:b"]\noutput = -1\n["b"]\ninput = true\n')
    with pytest.raises(WorkerError) as raised:
        prices.parse(file)
    example = 'write a table for each model: ["openai:NAME"], input = 0.25, output = 2.00'
    assert str(raised.value).replace(f"{file}: ", "").splitlines() == [
        'currency must be a text, such as "USD"',
        f"c is not a table; {example}",
        f"gpt-4 has no input, the price of a million tokens that are read; {example}",
        "gpt-4.1 is not a price, only input and output are; put a model's name in quotes",
        f'"a:b" has no input, the price of a million tokens that are read; {example}',
        '"a:b".output must be a number, 0 or more',
        "b.input must be a number, 0 or more",
    ]


def test_a_file_of_prices_that_is_not_there_is_an_error_of_the_setting(file: Path) -> None:
    with pytest.raises(WorkerError, match="DOCMILL_PRICES"):
        prices.parse(file)


def test_a_limit_of_cost_needs_a_price_and_those_of_all_served_models(file: Path) -> None:
    file.write_text(FILE)
    settings = Settings(home=file.parent, prices=file)
    small, local, big = (Spec("generate", name, "1") for name in ("openai:small", "minilm", "openai:big"))
    limit = limit_cost(settings, 2.5, [small, local], "batch b")
    assert (limit.max_cost, limit.budget, limit.prices["openai:small"]) == (2.5, "batch b", (0.25, 2.0))
    for specs, model in (([small, big], "openai:big"), ([local], "minilm")):
        with pytest.raises(WorkerError, match=f"needs the price of {model}; write a table"):
            limit_cost(settings, 2.5, specs)
        assert limit_cost(settings, None, specs).max_cost is None
