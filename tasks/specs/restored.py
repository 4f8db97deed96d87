"""The options that a spec was made with, for a spec of another model with the same options."""

from __future__ import annotations

from typing import Any

import orjson
from pydantic import ValidationError

from docmill.storage.core.specs import Spec
from docmill.tasks import kinds
from docmill.tasks.errors import BadOption
from docmill.tasks.kinds import KindOptions
from docmill.tasks.kinds.options import option
from docmill.tasks.models.families import Family

# Options that name something of the model itself, or of its files.
OF_MODEL = frozenset({"adapter", "prompt_name", "tokenizer"})
LENGTH, LIMITS = "length", frozenset({"max_new_tokens", "min_new_tokens"})  # the first sets the others


def options_of(spec: Spec, family: Family | None) -> tuple[KindOptions, tuple[str, ...]]:
    """Return the options of a spec that a model of this family takes, and the names of those that it does not.

    Raises BadOption for a spec whose options this release does not know.
    """
    model = kinds.kind(spec.kind).options
    kept: dict[str, Any] = {"dtype": "auto" if spec.quality == "native" else spec.quality}
    left_out = []
    for name, value in spec.params.items():
        field = model.model_fields.get(name)
        if field is None or (name in LIMITS and LENGTH in spec.params) or (name, value) == ("prefix", ""):
            continue  # what the spec says besides its options
        only = option(field).only
        if name in OF_MODEL or (only not in {None, family} and value != option(field).any_takes):
            left_out.append(name)
        else:
            kept[name] = value
    try:
        return model.model_validate_json(orjson.dumps(kept)), tuple(left_out)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadOption(f"This release cannot read the option {first['loc'][0]} of {spec}.") from error
