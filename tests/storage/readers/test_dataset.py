"""Data sets of Hugging Face: saved ones, folders, those of a hub, and hostile ones."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import datasets
import pytest

from docmill.storage.readers import (
    Record,
    Rejection,
    SourceError,
    SourceMissing,
    SourceOptions,
    SourceUnsupported,
    open_source,
)
from docmill.storage.readers.sources import path_of
from tests.storage.readers.dataset_hub import NAME, hub
from tests.storage.readers.reading import OPTIONS, list_rejections, read, refused

FILE = Path(__file__).parents[3] / "examples" / "descriptions.jsonl"
LINES = [json.loads(line) for line in FILE.read_text().splitlines()]
DOCUMENTS = [(line["id"], line["text"], {key: line[key] for key in ("synopsis", "section")}) for line in LINES]


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    datasets.disable_progress_bars()


def list_documents(items: list[Record | Rejection]) -> list[tuple[str, str, dict[str, Any]]]:
    """Return the key, text and metadata of each record."""
    return [(item.key, item.text, item.meta) for item in items if isinstance(item, Record)]


def save(folder: Path, shards: int = 2) -> Path:
    """Save a data set by the library, and return its folder."""
    datasets.Dataset.from_list(LINES).save_to_disk(folder, num_shards=shards)
    return folder


def test_a_saved_data_set_is_read_from_all_its_files(tmp_path: Path) -> None:
    folder = save(tmp_path / "books")
    source = open_source(f"datasets://{folder}", OPTIONS)
    items = list(source.records())
    assert list_documents(items) == DOCUMENTS
    assert items[130].where == "books/data-00001-of-00002.arrow:1"
    assert source.name == f"datasets://{folder}"
    assert source.bytes_read == source.size_bytes()
    assert list(source.records()) == items
    assert len(read(f"datasets://{folder}", SourceOptions(limit=133))) == 133
    [first, *_] = read(f"datasets://{folder}", SourceOptions("synopsis", "section", limit=1))
    assert (first.key, first.text) == (LINES[0]["section"], LINES[0]["synopsis"])


def test_one_of_several_splits_has_to_be_named(tmp_path: Path) -> None:
    whole = datasets.Dataset.from_list([{"text": "a"}, {"text": None}, {"text": "c"}])
    folder = tmp_path / "books"
    datasets.DatasetDict({"train": whole, "test": whole.select([2])}).save_to_disk(folder)
    for url in (f"datasets://{folder}", f"datasets://{folder}?split=dev"):
        assert 'there are the splits "train", "test": name one with split=' in refused(SourceMissing, url)
    assert open_source(f"datasets://{folder}?split=test", OPTIONS).name == f"datasets://{folder}?split=test"
    place = "books/train/data-00000-of-00001.arrow"
    assert read(f"datasets://{folder}?split=train") == [
        Record(f"{place}:1", "a", {}, (), f"{place}:1"),
        Rejection(f"{place}:2", '"text" is null, not a string'),
        Record(f"{place}:3", "c", {}, (), f"{place}:3"),
    ]


def test_a_truncated_or_missing_file_affects_only_its_own_rows(tmp_path: Path) -> None:
    folder = save(tmp_path / "books", shards=3)
    first, second, third = (folder / f"data-0000{n}-of-00003.arrow" for n in range(3))
    second.write_bytes(second.read_bytes()[:-4])
    items = read(f"datasets://{folder}")
    assert list_documents(items) == DOCUMENTS
    [cut] = list_rejections(items)
    assert cut.fatal
    assert "nothing more was read" in cut.reason
    second.unlink()
    third.write_bytes(b"garbage" * 99)
    *whole, missing, garbage = read(f"datasets://{folder}")
    assert list_documents(whole) == DOCUMENTS[: len(whole)]
    assert missing == Rejection(
        "books/data-00001-of-00003.arrow", "books/data-00001-of-00003.arrow: a link that leads nowhere", fatal=True
    )
    assert garbage.reason == "books/data-00002-of-00003.arrow is damaged, or no Arrow file"
    first.write_bytes(b"")
    assert "data-00000-of-00003.arrow is damaged" in refused(SourceError, f"datasets://{folder}")


@pytest.mark.parametrize("name", ["../secret.arrow", "/etc/passwd", 5, "link.arrow"])
def test_a_list_of_files_that_leads_out_of_the_folder_is_refused(name: object, tmp_path: Path) -> None:
    folder = save(tmp_path / "books")
    (folder / "data-00000-of-00002.arrow").rename(tmp_path / "secret.arrow")
    (folder / "link.arrow").symlink_to(tmp_path / "secret.arrow")
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    message = refused(SourceError, f"datasets://{folder}")
    assert re.search("files that are not its own|leads out of the folder", message)


@pytest.mark.parametrize("raw", ["{", "[]", "[" * 100_000, '{"_data_files": 5}', '{"_data_files": [{}]}', "{}"])
def test_an_invalid_list_of_files_is_refused(raw: str, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(raw)
    assert re.search(r"damaged|names no files", refused(SourceError, f"datasets://{tmp_path}"))
    (tmp_path / "dataset_dict.json").write_text(raw)
    assert re.search(r"damaged|names no splits", refused(SourceError, f"datasets://{tmp_path}"))


def test_a_folder_of_files_is_read_by_the_library(tmp_path: Path) -> None:
    folder = tmp_path / "books"
    folder.mkdir()
    (folder / "train.jsonl").write_bytes(FILE.read_bytes())
    source = open_source(f"datasets://{folder}", OPTIONS)
    assert (source.name, source.size_bytes()) == (f"datasets://{folder}", None)
    assert list_documents(list(source.records())) == DOCUMENTS
    (folder / "test.jsonl").write_text('{"text": "x"}\n')
    assert 'there are the splits "train", "test"' in refused(SourceMissing, f"datasets://{folder}")
    [last] = read(f"datasets://{folder}?split=test")
    assert last == Record("books/test:1", "x", {"synopsis": None, "section": None}, (), "books/test:1")


def test_records_before_damage_in_a_folder_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "books"
    folder.mkdir()
    for n, raw in enumerate((b'{"text": "a"}\n' * 250, b'{"text": "b"')):
        (folder / f"train-{n}.jsonl").write_bytes(raw)
    *before, cut = read(f"datasets://{folder}")
    assert len(before) == 200  # up to a hundred records before the damage are lost
    assert cut.fatal
    assert "it cannot be read on (" in cut.reason


@pytest.mark.parametrize("file", ["../secret.jsonl", "link.jsonl"])
def test_a_folder_that_names_files_elsewhere_is_refused(file: str, tmp_path: Path) -> None:
    (tmp_path / "secret.jsonl").write_text('{"text": "secret"}\n')
    folder = tmp_path / "books"
    folder.mkdir()
    (folder / "link.jsonl").symlink_to(tmp_path / "secret.jsonl")
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: a\n  data_files: {file}\n---\n")
    assert "secret" not in refused(SourceError, f"datasets://{folder}")


def test_programs_are_never_run_and_other_kinds_of_files_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "books"
    folder.mkdir()
    (folder / "books.py").write_text(f"open({str(tmp_path / 'harmed')!r}, 'w')\n")
    refused(SourceError, f"datasets://{folder}")
    (folder / "books.py").unlink()
    (folder / "train.pkl").write_bytes(b"cos\nsystem\n(S'touch harmed'\ntR.")
    assert "no files that are read" in refused(SourceUnsupported, f"datasets://{folder}")
    (folder / "train.xml").write_text("<a/>")
    assert 'files that are not read ("xml")' in refused(SourceUnsupported, f"datasets://{folder}")
    assert not (tmp_path / "harmed").exists()


def test_data_sets_of_a_hub_are_streamed_without_passwords(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "train.jsonl").write_bytes(FILE.read_bytes())
    (folder / "test.jsonl").write_text('{"text": "x"}\n')
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_TOKEN", "geheim")
    # A folder of the same name in the current directory is not the data set.
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).mkdir(parents=True)
    with hub(folder) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        source = open_source(f"datasets://{NAME}?split=train", OPTIONS)
        assert source.name == f"datasets://{NAME}?split=train"
        assert list_documents(list(source.records())) == DOCUMENTS
        assert server.tokens <= {"Bearer geheim", None}
        assert "the hub has no such data set" in refused(SourceMissing, "datasets://nobody/nothing")
        outside = f"---\nconfigs:\n- config_name: a\n  data_files: {FILE}\n---\n"
        (folder / "README.md").write_text(outside)
        refused(SourceError, f"datasets://{NAME}")
    assert "geheim" not in str(list(tmp_path.rglob("*")))


def test_offline_only_cached_data_sets_are_read() -> None:
    message = refused(SourceError, "datasets://nobody/nothing?split=train")
    assert "the hub cannot be reached, or may not be (HF_HUB_OFFLINE)" in message


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("datasets:///", "names no data set"),
        ("datasets://a/b/c", "names no data set"),
        ("datasets://../b", "names no data set"),
        ("datasets://a/b?spilt=x", 'takes split, config, revision after its \\?, not "spilt"'),
        ("datasets://a/b?split=", "takes split, config, revision"),
    ],
)
def test_an_invalid_url_is_refused_with_the_right_form(url: str, reason: str) -> None:
    assert re.search(reason, refused(SourceUnsupported, url))


def test_a_url_that_names_no_folder_is_refused(tmp_path: Path) -> None:
    assert "no such file or folder" in refused(SourceMissing, f"datasets://{tmp_path}/no")
    (tmp_path / "a.arrow").write_bytes(b"")
    assert "is a file: leave out datasets://" in refused(SourceUnsupported, f"datasets://{tmp_path}/a.arrow")


def test_the_path_of_a_folder_is_known_so_that_no_output_replaces_it(tmp_path: Path) -> None:
    assert path_of(f"datasets://{tmp_path}/a%20b?split=train") == tmp_path / "a b"
    assert path_of(f"datasets://{NAME}?split=train") is None
