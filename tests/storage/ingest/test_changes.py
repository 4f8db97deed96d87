"""Changes that a chunk of records makes to the stored versions."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from docmill.storage.ingest.changes import Changes, compare, diff_chunk
from docmill.storage.ingest.chunks import StoredVersion, Versions

READING = 7


def chunk(*records: tuple[str, int, int]) -> Versions:
    """A chunk of (key, content, place in the source)."""
    columns: list[Sequence[int]] = [[content for _, content, _ in records], [seq for _, _, seq in records]]
    keys = [key for key, _, _ in records]
    return Versions(keys, columns[0], ["{}"] * len(keys), ["[]"] * len(keys), columns[1])


def stored(
    key: str, content: int, seq: int = 0, *, ingest: int = 1, version_id: int = 1, gone: bool = False
) -> StoredVersion:
    return StoredVersion(version_id, key, content, {}, [], seq, gone, ingest)


def diff(
    records: Versions,
    current: Sequence[StoredVersion] = (),
    losers: Sequence[StoredVersion] = (),
    ingest: int = READING,
) -> Changes:
    by_key = {version.key: version for version in current}
    same, _ = compare(records, by_key)
    return diff_chunk(records, by_key, {version.key: [version] for version in losers}, same, ingest)


def counts(changes: Changes) -> tuple[int, int, int, int]:
    return changes.n_new, changes.n_changed, changes.n_unchanged, changes.n_repeated


def test_a_record_that_equals_the_current_version_is_unchanged_and_one_that_differs_comes_in() -> None:
    changes = diff(
        chunk(("a", 1, 1), ("b", 9, 2), ("c", 3, 3)), [stored("a", 1, version_id=11), stored("b", 2, version_id=12)]
    )
    assert changes.incoming.keys == ["b", "c"]
    assert changes.kept == {0: 11}
    assert counts(changes) == (1, 1, 1, 0)


def test_a_record_whose_document_is_gone_comes_in_even_if_it_equals_the_last_version() -> None:
    changes = diff(chunk(("a", 1, 1)), [stored("a", 1, gone=True)])
    assert changes.incoming.keys == ["a"]
    assert counts(changes) == (0, 1, 0, 0)


def test_a_record_that_equals_a_loser_of_the_same_reading_contends_and_is_counted_later() -> None:
    changes = diff(chunk(("a", 1, 1)), [stored("a", 2, version_id=12)], [stored("a", 1, version_id=11)])
    assert changes.contenders == {"a": 11}
    assert changes.kept == {0: 12}  # the current version stays until the end of the reading
    assert len(changes.incoming) == 0
    assert counts(changes) == (0, 0, 0, 0)


def test_a_second_record_with_the_key_of_another_record_of_the_reading_is_repeated() -> None:
    current = [stored("a", 1, 1, ingest=READING), stored("b", 2, 2, ingest=READING)]
    assert counts(diff(chunk(("a", 1, 5), ("b", 9, 6)), current)) == (0, 0, 0, 2)


def test_records_that_a_reading_stored_before_it_was_cut_off_are_unchanged_and_met_again() -> None:
    current = [stored("a", 1, 1, ingest=READING), stored("b", 2, 2)]
    changes = diff(chunk(("a", 1, 1), ("b", 2, 2)), current)
    assert counts(changes) == (0, 0, 2, 0)
    assert changes.n_again == 1


KEYS, CONTENTS, PLACES = st.sampled_from("abcde"), st.integers(1, 3), st.integers(1, 9)
RECORDS = st.lists(st.tuples(KEYS, CONTENTS, PLACES), unique_by=lambda record: record[0]).map(
    lambda records: chunk(*records)
)
STORED = st.builds(StoredVersion, PLACES, KEYS, CONTENTS, st.just({}), st.just([]), PLACES, st.booleans(), PLACES)
CURRENT = st.lists(STORED, unique_by=lambda version: version.key)


@given(records=RECORDS, current=CURRENT, losers=st.lists(STORED), ingest=PLACES)
def test_each_record_comes_in_or_leaves_its_current_version_and_is_counted_once_unless_it_contends(
    records: Versions, current: list[StoredVersion], losers: list[StoredVersion], ingest: int
) -> None:
    keys = {version.key for version in current}
    changes = diff(records, current, [version for version in losers if version.key in keys], ingest)
    kept = [records.keys[n] for n in changes.kept]
    assert sorted([*changes.incoming.keys, *kept]) == sorted(records.keys)
    assert {*changes.contenders} <= {*kept}
    assert sum(counts(changes)) == len(records) - len(changes.contenders)
    assert 0 <= changes.n_again <= changes.n_unchanged
    assert min(counts(changes)) >= 0


@given(records=RECORDS, current=CURRENT, ingest=PLACES)
def test_a_chunk_that_is_stored_twice_changes_nothing_the_second_time(
    records: Versions, current: list[StoredVersion], ingest: int
) -> None:
    changes = diff(records, current, ingest=ingest)
    after = {version.key: version for version in current}
    for key, content, seq in zip(
        changes.incoming.keys, changes.incoming.content_ids, changes.incoming.seqs, strict=True
    ):
        after[key] = stored(key, content, seq, ingest=ingest)
    again = diff(records, [*after.values()], ingest=ingest)
    assert len(again.incoming) == 0
    assert (again.n_new, again.n_changed) == (0, 0)
    assert again.n_again >= len(changes.incoming)
