"""The watchdog limits the time of a batch by the cost of its kind and size."""

from __future__ import annotations

from docmill.worker.process.watchdog import SLACK, Step, Watchdog


def watchdog() -> Watchdog:
    return Watchdog(least_s=60.0, most_s=900.0)


def taught(cost_s: float, size: int = 1_000) -> Watchdog:
    """A watchdog that saw one batch of `size` tokens that took `cost_s`."""
    dog = watchdog()
    dog.begin(Step("batch", "batch a", size, 100.0))
    dog.end("batch", 100.0 + cost_s)
    return dog


def test_the_first_of_its_kind_has_the_longest_time() -> None:
    dog = watchdog()
    dog.begin(Step("batch", "batch a", 10, 0.0))
    assert dog.hung(899.0) is None
    assert dog.hung(901.0) == Step("batch", "batch a", 10, 0.0)


def test_the_limit_follows_from_the_cost_of_a_kind_and_the_size() -> None:
    dog = taught(cost_s=4.0)
    assert dog.limit_s("batch a", 1_000) == SLACK * 4.0
    assert dog.limit_s("batch a", 4_000) == SLACK * 16.0
    assert dog.limit_s("batch a", 10) == 60.0, "never less than the least"
    assert dog.limit_s("batch a", 1_000_000) == 900.0, "never more than the most"
    assert dog.limit_s("batch of another model", 10) == 900.0


def test_the_slowest_of_a_kind_is_what_counts() -> None:
    dog = taught(cost_s=4.0)
    dog.begin(Step("batch", "batch a", 1_000, 0.0))
    dog.end("batch", 1.0)
    assert dog.limit_s("batch a", 1_000) == SLACK * 4.0


def test_what_is_cut_has_time_for_its_length_however_long_it_is() -> None:
    dog = watchdog()
    assert dog.limit_s("cut", 60_000) == 60.0
    assert dog.limit_s("cut", 256_000_000) > 3 * 3600


def test_a_step_that_ended_does_not_hang_and_those_beside_it_are_watched_on() -> None:
    dog = taught(cost_s=0.1)
    dog.begin(Step("cut 1", "cut", 10, 0.0))
    dog.begin(Step("batch", "batch a", 10, 0.0))
    dog.end("cut 1", 1.0)
    hung = dog.hung(61.0)
    assert hung is not None
    assert hung.name == "batch"
    dog.end("batch", 61.0)
    assert dog.hung(10_000.0) is None


def test_what_a_process_left_open_is_forgotten_and_what_it_cost_is_not() -> None:
    dog = taught(cost_s=4.0)
    dog.begin(Step("batch", "batch a", 10, 0.0))
    dog.forget_steps()
    assert dog.hung(10_000.0) is None
    assert dog.limit_s("batch a", 1_000) == SLACK * 4.0


def test_a_time_in_which_the_watcher_was_frozen_is_not_counted() -> None:
    dog = taught(cost_s=0.1)
    dog.begin(Step("batch", "batch a", 10, 0.0))
    dog.forgive(500.0)
    assert dog.hung(559.0) is None
    assert dog.hung(561.0) is not None
