"""Messages have exactly the fields of docmill's, or are refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docmill.worker.errors import BadMessage
from docmill.worker.orders import parse_enqueue
from docmill.worker.queue.messages import SHARD_TASK, hint_arguments, parse_hint


@given(st.integers(min_value=1, max_value=2**62))
def test_a_shards_message_comes_back_as_its_id(shard_id: int) -> None:
    assert parse_hint(SHARD_TASK, hint_arguments(SHARD_TASK, shard_id)) == shard_id


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"task": "embed"}, "needs source"),
        ({"source": "x", "task": "embed", "trust_remote_code": True}, "takes no argument trust_remote_code"),
        ({"source": "x", "task": "embed", "model": {"$ref": 1}}, "model has a value of the wrong type"),
        ({"source": "x", "task": "embed", "from": "fr"}, "from has no meaning for embed"),
        ({"source": "x", "task": "translate", "beams": True}, "beams has a value of the wrong type"),
        ({"source": "x", "task": "embed", "limit": 0}, "limit must be at least 1"),
        ({"source": "x", "task": "sing"}, "task must be summarize, .* not 'sing'"),
        ({"source": "-", "task": "embed"}, "cannot read standard input"),
        ({"v": 9, "source": "x", "task": "embed"}, "takes v=1"),
    ],
)
def test_an_enqueue_message_that_is_not_ours_is_refused(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(BadMessage, match=says):
        parse_enqueue(arguments)
