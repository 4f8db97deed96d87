"""The shard that holds a content is found by its id."""

from __future__ import annotations

from storage.results.batches import holds
from storage.steps.sharding import pack


def test_an_id_is_found_at_its_place_and_not_across_two_others() -> None:
    assert holds(pack([7, 300, 1]), pack([300]))
    assert not holds(pack([256, 0]), pack([1]))  # whose bytes stand there one byte further
    assert holds(pack([256, 0, 1]), pack([1]))
    assert not holds(b"", pack([1]))
