"""The server that a process of a test is forked from, by its environment."""

from __future__ import annotations

import pytest

from tests.worker.fork_servers import server_for

OURS = {"HF_HUB_OFFLINE": "1", "HOME": "/home/one"}


@pytest.mark.parametrize(
    ("environment", "kind"),
    [
        (OURS, "with models"),
        ({**OURS, "HOME": "/home/other", "DOCMILL_HOME": "/tmp"}, "with models"),
        ({**OURS, "TORCHINDUCTOR_CACHE_DIR": "/tmp"}, "with models"),
        ({**OURS, "HF_ENDPOINT": "http://127.0.0.1"}, "with torch"),
        ({"HOME": "/home/one"}, "with torch"),
        ({**OURS, "OMP_NUM_THREADS": "1"}, None),
        ({**OURS, "HF_ENDPOINT": "http://127.0.0.1", "PYTHONPATH": "/tmp"}, None),
    ],
)
def test_a_process_is_forked_from_a_server_whose_libraries_read_the_same(
    environment: dict[str, str], kind: str | None
) -> None:
    assert server_for(environment, OURS) == kind
