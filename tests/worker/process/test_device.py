"""The parts of a device process, put together."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from docmill.storage.core.database import Database
from docmill.worker.process import device
from docmill.worker.process.device_config import DeviceConfig
from docmill.worker.queue.broker import Broker
from docmill.worker.settings import load_settings


def test_no_thread_of_a_device_process_can_take_the_connection_of_its_heartbeats(
    database: Database, tmp_path: Path
) -> None:
    url = database.url.render_as_string(hide_password=False)
    settings = load_settings(home=tmp_path / "home", database_url=url, redis_url="redis://127.0.0.1:1", threads=1)
    config = DeviceConfig("me", "cpu", {})
    channel = cast(Any, SimpleNamespace(say=lambda *_, **__: None))
    process = device._make_process(config, settings, Broker("redis://127.0.0.1:1"), channel)
    pool: Any = process.database.engine.pool
    with ExitStack() as until_closed:
        for part in (process.engine, process.heartbeat_database, process.database):
            until_closed.callback(part.close)
        with ExitStack() as held:
            for _ in range(2 * pool.size()):  # those beyond its size, too
                held.enter_context(process.database.read())
            process.heartbeat(hears=True)
        for used in (process.database, process.heartbeat_database) if database.server is not None else ():
            with used.read() as transaction:
                limit = transaction.exec_driver_sql("SHOW statement_timeout").scalar_one()
            assert limit == "32s", "its statements are short by nature"
