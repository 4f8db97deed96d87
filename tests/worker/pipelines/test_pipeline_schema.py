"""The JSON Schema of pipeline files, with which editors complete and check them."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator, ValidationError

from docmill.tasks import kinds
from docmill.worker.errors import WorkerError
from docmill.worker.pipelines.file import parse
from docmill.worker.pipelines.schema import json_schema
from tests.worker.harness import EXAMPLES, Docmill

VALIDATOR = Draft202012Validator(json_schema())
STEP = "name = 'x'\ncorpus.source = 'a'\n[[step]]\nname = 'a'\n"


def test_the_schema_is_a_schema_and_the_command_prints_it(embedded: Docmill) -> None:
    Draft202012Validator.check_schema(json_schema())
    assert json.loads(embedded("pipeline", "schema").stdout) == json_schema()


def test_the_examples_name_the_schema_and_keep_to_it() -> None:
    examples = sorted(EXAMPLES.glob("*.toml"))
    assert examples
    for path in examples:
        text = path.read_text(encoding="utf-8")
        match = re.match(r"#:schema (\S+)\n", text)
        assert match is not None
        assert json.loads((path.parent / match[1]).read_text(encoding="utf-8")) == json_schema()
        VALIDATOR.validate(tomllib.loads(text))
        parse(text, path)


@pytest.mark.parametrize(
    "text",
    [
        "name = 'x'",
        "name = '9'\ncorpus.source = 'a'\n[[step]]\nname = 'a'\ntask = 'embed'",
        STEP + "task = 'sing'",
        STEP + "task = 'embed'\nbeams = 4",
        STEP + "task = 'embed'\npooling = 'max'",
        STEP + "task = 'translate'\nbeams = 0",
        STEP + "task = 'translate'\nmax_new_tokens = 4",
        STEP + "task = 'embed'\n[shedule]",
        STEP + "task = 'embed'\n[job]\npriority = 1.5",
        STEP + "task = 'embed'\n[output]\nformat = 'npy'",
    ],
)
def test_the_schema_refuses_what_docmill_refuses(text: str) -> None:
    with pytest.raises(ValidationError):
        VALIDATOR.validate(tomllib.loads(text))
    with pytest.raises(WorkerError):
        parse(text, Path("x.toml"))


def test_every_kind_has_steps_in_the_schema() -> None:
    schemas = json_schema()["properties"]["step"]["items"]["discriminator"]["mapping"]
    assert schemas.keys() == {*kinds.NAMES}
