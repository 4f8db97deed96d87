"""The places where a text, an output or a name of a document may be stored, each declared once.

`docmill corpus rm` and `docmill gc` clear these places, `docmill corpus trace` searches them and names those that it
cannot search, and docs/removing.md lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from docmill.storage.core.database import Database
from docmill.storage.deletion import removal
from docmill.tasks.backends.remote import journal
from docmill.worker.settings import ANSWERS, Settings

SQLITE, POSTGRESQL = "sqlite", "postgresql"


@dataclass(frozen=True)
class TextPlace:
    """A place. `left` says what remains there after a removal.

    `files` are searched for the bytes of a text. `clear` empties the place, and returns a sentence if it cannot.
    """

    name: str
    left: str
    traced: bool = False
    store: str | None = None  # only with a store of this sort
    files: Callable[[Settings, Database], list[Path]] | None = None
    clear: Callable[[Settings, Database], str | None] | None = None


def _store_files(_: Settings, database: Database) -> list[Path]:
    return [] if database.file is None else _with_journal(database.file)


def _answer_files(settings: Settings, _: Database) -> list[Path]:
    return _with_journal(settings.home / ANSWERS)


def _with_journal(file: Path) -> list[Path]:
    return [path for end in ("", "-wal") if (path := file.with_name(file.name + end)).is_file()]


def _settle(_: Settings, database: Database) -> str | None:
    if removal.settle(database):
        return None
    return "Another process reads the database; its journal (-wal) holds removed texts until that has ended."


def _empty_answers(settings: Settings, _: Database) -> str | None:
    if journal.empty(file := settings.home / ANSWERS):
        return None
    return f"Another process uses {file}, which may hold outputs about removed texts; `docmill gc` empties it later."


PLACES = (
    TextPlace(
        "tables, views and vector indexes of the store",
        "nothing of what was removed. Rejected records keep their place and reason, which may name a document, until "
        "their corpus is removed",
        traced=True,
    ),
    TextPlace(
        "files of a SQLite store (`docmill.db` and its `-wal`), free pages included",
        "nothing: `secure_delete` overwrites, and the journal is emptied; `rm` says so if another process prevents "
        "that. A page that SQLite rearranged may leave copies in free places: `sqlite3 FILE VACUUM` removes them",
        traced=True,
        store=SQLITE,
        files=_store_files,
        clear=_settle,
    ),
    TextPlace(
        "files of a PostgreSQL server",
        "dead rows, and vectors in the graph of an index, until VACUUM; the write-ahead log as long as the server "
        "keeps or archives it",
        store=POSTGRESQL,
    ),
    TextPlace(
        "`answers.db` in this home (and its `-wal`): answers of model servers whose results are not stored yet",
        "nothing: `rm` and `gc` empty it. `trace` cannot tell which texts the answers are about",
        traced=True,
        files=_answer_files,
        clear=_empty_answers,
    ),
    TextPlace(
        "`answers.db` in homes of other machines",
        "answers that a killed worker left, until `docmill gc` runs there, or for a week",
    ),
    TextPlace("files of the Batch API", "uploads and answers, until they are deleted, by default after 30 days"),
    TextPlace("caches in the home (`cache/`)", "they never held a text, an output or a name"),
    TextPlace("Redis, traces and logs of workers", "they never held a text or an output"),
    TextPlace(
        "what a command printed, for instance into `nohup.out`",
        "samples of results, which `run` prints (not with `--quiet`): outside of docmill",
    ),
    TextPlace("files written by `results`, `report`, `review`, `search`, a pipeline's output", "outside of docmill"),
    TextPlace(
        "the source of the corpus, and copies that libraries keep (the cache of Hugging Face's `datasets`)",
        "outside of docmill. If the source still has the document, the next reading brings it back",
    ),
    TextPlace("backups, replicas, blocks of the disk that the file system freed", "outside of docmill"),
)


def places(database: Database) -> Iterator[TextPlace]:
    """Yield the places of this store."""
    sort = SQLITE if database.server is None else POSTGRESQL
    return (place for place in PLACES if place.store in {None, sort})


def files(settings: Settings, database: Database) -> list[Path]:
    """Return the files that may hold a text."""
    return [file for place in places(database) if place.files for file in place.files(settings, database)]


def clear(settings: Settings, database: Database) -> list[str]:
    """Empty the places beside the store's tables. Return a sentence about each that could not be emptied."""
    refusals = [place.clear(settings, database) for place in places(database) if place.clear]
    return [sentence for sentence in refusals if sentence]
