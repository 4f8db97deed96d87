"""Values of options and arguments that are refused in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
import pytest

from docmill.worker.cli import docmill


def _parameters(group: click.Group) -> Iterator[click.Parameter]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield from _parameters(command) if isinstance(command, click.Group) else command.params


def test_every_number_and_every_name_of_a_list_is_refused_in_words_and_with_the_near_name() -> None:
    refused = 0
    for parameter in _parameters(docmill):
        type_ = parameter.type
        for value_type in type_.types if isinstance(type_, click.Tuple) else [type_]:
            if value_type.name in {"n", "number"}:
                value, expected = (
                    "high",
                    r"^'high' is not a (whole |job )?number( (from|of at least|above) |;|$)",
                )
            elif isinstance(value_type, click.Choice):
                value, expected = f"{value_type.choices[0]}x", f"Did you mean {value_type.choices[0]}"
            else:
                continue
            convert: Any = value_type.convert  # which says that a number is a number already
            with pytest.raises(click.BadParameter, match=expected):
                convert(value, parameter, None)
            refused += 1
    assert refused > 50
