"""Batches within a token budget."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from docmill.tasks.batching import Budget, Item, Pool, next_batch
from docmill.tasks.windows.windows import Encoded

LENGTHS = st.lists(st.integers(1, 600), min_size=1, max_size=200)
BUDGETS = st.builds(
    Budget,
    tokens=st.integers(1, 3000),
    rows=st.integers(1, 40),
    spread=st.floats(1, 4),
    padding=st.sampled_from([0.0, 0.02, 0.1, 1.0]),
)


def pool_of(lengths: list[int]) -> Pool[str]:
    pool: Pool[str] = Pool()
    pool.add(Item(number, Encoded(tokens, ""), f"owner {number % 3}") for number, tokens in enumerate(lengths))
    return pool


def batches_of(pool: Pool[str], budget: Budget) -> list[list[Item[str]]]:
    batches = []
    while batch := pool.take(budget):
        batches.append(list(batch))
    return batches


@given(LENGTHS, BUDGETS)
def test_batches_partition_what_waits_within_the_budget_and_the_oldest_is_always_next(
    lengths: list[int], budget: Budget
) -> None:
    pool, computed = pool_of(lengths), list[int]()
    while (oldest := pool.oldest) is not None:
        batch = pool.take(budget)
        tokens = [item.tokens for item in batch]
        assert oldest in {item.id for item in batch}
        assert len(batch) == 1 or (len(batch) * max(tokens) <= budget.tokens and len(batch) <= budget.rows)
        assert max(tokens) <= max(min(tokens) * budget.spread, min(tokens) + 16)
        assert budget.computed(tokens) - sum(tokens) <= 2 * budget.padding * budget.tokens
        assert budget.padding or len({*tokens}) == 1
        computed += [item.id for item in batch]
    assert sorted(computed) == [*range(len(lengths))]


def padding_of(lengths: list[int], budget: Budget) -> tuple[float, int]:
    """Return the share of computed tokens that is padding, and the number of batches.

    Eight shards of 256 windows wait at a time: the next shard arrives as one is done.
    """
    shards = [lengths[first : first + 256] for first in range(0, len(lengths), 256)]
    pool: Pool[int] = Pool()
    arrivals = itertools.count()
    left: list[int] = []

    def add_shard() -> None:
        if len(left) < len(shards):
            pool.add(Item(next(arrivals), Encoded(tokens, ""), len(left)) for tokens in shards[len(left)])
            left.append(len(shards[len(left)]))

    for _ in range(8):
        add_shard()
    computed = batches = 0
    while batch := pool.take(budget):
        computed += budget.computed([item.tokens for item in batch])
        batches += 1
        for item in batch:
            left[item.owner] -= 1
            if left[item.owner] == 0:
                add_shard()
    return 1 - sum(lengths) / computed, batches


def test_padding_is_under_three_percent_of_batches_of_paragraphs() -> None:
    lengths = [min(256, 6 + int(random.Random(number).lognormvariate(3.7, 0.7))) for number in range(8000)]
    loose = Budget(tokens=4096, rows=512)
    loose_padding, loose_batches = padding_of(lengths, loose)
    tight_padding, tight_batches = padding_of(lengths, replace(loose, padding=0.02))
    assert tight_padding < 0.03 < 0.05 < loose_padding
    assert tight_batches < 1.5 * loose_batches


@given(LENGTHS, BUDGETS)
def test_discarded_windows_are_never_taken_and_the_others_are(lengths: list[int], budget: Budget) -> None:
    pool = pool_of(lengths)
    gone = pool.discard(lambda owner: owner == "owner 1")
    left = [item for batch in batches_of(pool, budget) for item in batch]
    assert gone + len(left) == len(lengths)
    assert all(item.owner != "owner 1" for item in left)


def test_the_batch_with_the_oldest_window_is_cut_starting_from_the_longest() -> None:
    waiting = sorted((tokens, number) for number, tokens in enumerate([10, 100, 11, 12, 95, 9]))
    low, high = next_batch(waiting, (10, 0), Budget(tokens=36, rows=8))
    assert waiting[low:high] == [(10, 0), (11, 2), (12, 3)]
    low, high = next_batch(waiting, (9, 5), Budget(tokens=36, rows=8))
    assert waiting[low:high] == [(9, 5), (10, 0), (11, 2)]


@given(LENGTHS, st.integers(1, 40))
def test_whatever_comes_first_no_more_batches_are_made_than_the_rows_need(lengths: list[int], rows: int) -> None:
    budget = Budget(tokens=1 << 30, rows=rows, spread=1 << 30)
    assert len(batches_of(pool_of(lengths), budget)) == -(-len(lengths) // rows)


def test_a_batch_between_unlike_lengths_is_filled_up() -> None:
    lengths = [250] * 100 + [510] * 2 + [600] * 64
    waiting = [(tokens, number) for number, tokens in enumerate(lengths)]
    low, high = next_batch(waiting, (510, 101), Budget(tokens=65_536, rows=64, spread=2.0))
    assert (low, high) == (100, 164)


def test_no_batch_is_taken_while_fewer_windows_wait_than_its_least_rows() -> None:
    pool = pool_of([10] * 5)
    few = Budget(tokens=100, rows=6, least=6)
    assert pool.take(few) == []
    pool.add([Item(5, Encoded(10, ""), "owner 5")])
    assert len(pool.take(few)) == 6
    assert pool.take(few) == []


def test_batches_taken_together_that_do_not_fit_halve_the_budget_once() -> None:
    budget = Budget(tokens=2048, rows=64)
    assert budget.halved(2048).halved(2048).halved(1500).tokens == 750
    assert budget.halved(2048).halved(1024).tokens == 512


def test_a_batch_that_its_tokens_fill_is_taken_with_fewer_rows() -> None:
    pool = pool_of([10] * 5)
    few = Budget(tokens=30, rows=6, least=6)
    assert len(pool.take(few)) == 3
    assert pool.take(few) == []
