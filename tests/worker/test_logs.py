"""The log as JSON: one object for each event, with its fields."""

from __future__ import annotations

import json
import logging
import threading
from typing import Any

from docmill.worker import logs


def line(message: object, *values: object, logger: str = "docmill.shard", exc_info: Any = None, **more: Any) -> Any:
    """Return the JSON of one event, as the formatter of a worker writes it."""
    record = logging.getLogger(logger).makeRecord(
        logger, logging.WARNING, "f.py", 1, message, values, exc_info, **more
    )
    text = logs.formatter(logs.JSON, worker="host:cpu:1").format(record)
    assert "\n" not in text
    fields = json.loads(text)
    assert fields.pop("time").endswith("+00:00")
    assert (fields.pop("level"), fields.pop("logger"), fields.pop("worker")) == ("warning", logger, "host:cpu:1")
    return dict(fields)


def test_the_fields_of_an_event_keep_their_names_and_types() -> None:
    assert line("lease_lost shard=%d what=%r error=%s", 7, "a text", OSError("away")) == {
        "event": "lease_lost",
        "shard": 7,
        "what": "a text",
        "error": "away",
    }


def test_a_librarys_sentence_stays_whole() -> None:
    template = "Task %s took %.1f s: 50%% more"
    fields = line(template, "a", 2.0, logger="celery.worker")
    assert fields == {"message": "Task a took 2.0 s: 50% more"}


def test_a_traceback_is_one_field() -> None:
    try:
        raise ValueError("no")
    except ValueError as error:
        fields = line("shard_failed shard=%d", 3, exc_info=(ValueError, error, error.__traceback__))
    assert fields["event"] == "shard_failed"
    assert fields["exception"].splitlines()[-1] == "ValueError: no"


def test_events_of_a_thread_name_the_job_that_it_works_on() -> None:
    with logs.working_on(job=4, shard=9):
        assert line("keep_waits error=%s", "x") == {"event": "keep_waits", "error": "x", "job": 4, "shard": 9}
        events: list[dict[str, Any]] = []
        thread = threading.Thread(target=lambda: events.append(line("engine.died")))
        thread.start()
        thread.join()
        assert events == [{"event": "engine.died"}]
    assert line("engine.died") == {"event": "engine.died"}


def test_the_log_is_text_unless_json_is_chosen_without_a_character_that_a_terminal_obeys() -> None:
    name = "a\x1b[31m\u202e"
    record = logging.getLogger("docmill.x").makeRecord("docmill.x", 20, "f.py", 1, "read path=%s", (name,), None)
    line = logs.formatter(logs.TEXT, worker="w").format(record)
    assert line.endswith(" INFO docmill.x read path=a[U+001B][31m[U+202E]")


def test_a_name_that_is_no_utf_8_and_a_large_number_are_written() -> None:
    assert line("source_read path=%s n=%d", "a\udcff", 2**70) == {
        "event": "source_read",
        "path": "a\udcff",
        "n": 2**70,
    }
