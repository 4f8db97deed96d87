"""Every kind of task keeps the same promises, from the command line, a pipeline and a message."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, get_args

import click
import pytest
from annotated_types import Ge
from pydantic import Field
from pydantic.fields import FieldInfo
from sqlalchemy import select

from docmill.storage.core import lookups
from docmill.storage.core.database import Database
from docmill.storage.core.schema import SpecRow
from docmill.storage.core.specs import Spec, Status
from docmill.storage.outputs.output_types import TEXT
from docmill.tasks import kinds
from docmill.tasks.engine.backend_factory import open_backend
from docmill.tasks.errors import BadOption, CannotServe, ModelUnsuitable, TaskError
from docmill.tasks.kinds.base import TextOnly
from docmill.tasks.kinds.options import KindOptions, Option, flag, is_list, key, option, value_type
from docmill.tasks.models import weightless
from docmill.tasks.models.weights import ModelFolders
from docmill.tasks.specs import pinning
from docmill.tasks.specs.plan import build_spec
from docmill.worker.cli.commands.run import given_options, run_command
from docmill.worker.orders import parse_enqueue
from docmill.worker.pipelines.file import parse
from tests.tasks.conftest import Bench, EngineOf, outcomes_of

KINDS = [pytest.param(kind, id=kind.name) for kind in kinds.KINDS]
NEEDED = {"prompt", "json_schema", "question"}  # a kind with one of these options may require it
SAMPLES: dict[type, Any] = {int: 9, float: 0.5, str: "fr", bool: True}


def sample(field: FieldInfo) -> Any:
    """Return a value of an option that is not its default."""
    if field.examples:
        return field.examples[0]
    if option(field).is_template:
        return "Say: {text}"
    if is_list(field):
        return ("END",)
    if choices := get_args(value_type(field)):
        return choices[-1]
    least = next((note.ge for note in field.metadata if isinstance(note, Ge)), None)
    return SAMPLES[value_type(field)] if least is None else max(SAMPLES[value_type(field)], least)


def on_the_line(value: Any, folder: Path) -> list[str]:
    """Return the words that give an option's value on the command line; a table is in a file."""
    if isinstance(value, dict):
        (folder / "table.json").write_text(json.dumps(value))
        return [str(folder / "table.json")]
    return [] if value is True else [str(value)]


def words_of(field: FieldInfo, name: str, value: Any, folder: Path) -> list[str]:
    """Return the words that give an option on the command line; questions have the option several times."""
    if option(field).asks:
        return [word for column, question in value.items() for word in (flag(name, field), f"{column}={question}")]
    return [flag(name, field), *on_the_line(value, folder)]


def in_toml(value: Any) -> str:
    """Return a value as it stands in a pipeline file."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(name)} = {in_toml(item)}' for name, item in value.items())}}}"
    return json.dumps(value)


def samples(kind: kinds.TaskKind) -> dict[str, Any]:
    """Return a value for each option of a kind."""
    return {name: sample(field) for name, field in kind.options.model_fields.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_options_are_the_same_from_the_command_line_a_pipeline_and_a_message(
    kind: kinds.TaskKind, tmp_path: Path
) -> None:
    fields, options = kind.options.model_fields, samples(kind)
    expected = kinds.options(kind.name, **options)
    line, toml, message = [], "", {}
    for name, value in options.items():
        plain = value[0] if is_list(fields[name]) else value
        line += words_of(fields[name], name, plain, tmp_path)
        toml += f"{key(name, fields[name])} = {in_toml(value)}\n"
        message[key(name, fields[name]).replace("-", "_")] = plain

    command = run_command.get_command(click.Context(run_command), kind.name)
    assert command is not None
    context = command.make_context(kind.name, ["a.jsonl", *line])
    assert given_options(kind.name, dict(context.params), dtype="auto") == expected
    pipeline = f"name = 'x'\ncorpus.source = 'a'\n[[step]]\nname = 's'\ntask = '{kind.name}'\n{toml}"
    assert parse(pipeline, Path("x.toml")).steps[0].options == expected
    assert parse_enqueue({"source": "a", "task": kind.name, **message}).options == expected


@pytest.mark.parametrize("kind", KINDS)
def test_options_come_back_from_the_parameters_of_a_spec(kind: kinds.TaskKind) -> None:
    options = kinds.options(kind.name, **samples(kind))
    spec = Spec(kind.name, "model", "0" * 40, options.quality, options.to_params())
    read_back = Spec.from_json(spec.to_json())
    assert read_back == spec
    assert kinds.options(kind.name, dtype=options.dtype, **read_back.params) == options


LABELLED = {"id2label": {"0": "O", "1": "B-PER"}}


@pytest.mark.parametrize("config", [pytest.param({}, id="unknown"), pytest.param(LABELLED, id="labelled")])
@pytest.mark.parametrize("kind", KINDS)
def test_a_spec_equals_what_the_store_gives_back(
    kind: kinds.TaskKind, config: dict[str, Any], database: Database
) -> None:
    pinned = pinning.Pinned("model", "0" * 40, beside={"adapter": "adapter", "tokenizer": "tokenizer"})
    options = samples(kind)
    needed = {name: options[name] for name in NEEDED & options.keys()}
    built = []
    for name, value in options.items():
        with suppress(BadOption):  # the option does not go with a needed one, or with this config
            built.append(build_spec(kind.name, pinned, kinds.options(kind.name, **needed | {name: value}), config))
    assert built
    numbers = database.write(lambda transaction: [lookups.spec_id(transaction, spec) for spec in built])
    rows = {row.id: row for row in database.rows(select(SpecRow.id, *lookups.SPEC))}
    assert [lookups.spec_of(rows[number]) for number in numbers] == built


@pytest.mark.parametrize("kind", KINDS)
def test_a_default_that_is_written_out_changes_no_spec(kind: kinds.TaskKind) -> None:
    assert kinds.options(kind.name, **kind.options.defaults).to_params() == {}


class OtherTopK(KindOptions):
    top_k: Annotated[int | None, Field(ge=0, le=10, description="Keep K.")] = None


class OtherField(KindOptions):
    language: Annotated[str | None, Option(spelling="from")] = None


@pytest.mark.parametrize(("declared", "word"), [(OtherTopK, "top_k"), (OtherField, "from")])
def test_a_kind_that_declares_an_option_of_another_kind_differently_is_refused(
    declared: type[KindOptions], word: str
) -> None:
    new = replace(kinds.kind("generate"), name="new", options=declared)
    with pytest.raises(ValueError, match=f"new declares its option {word} differently from "):
        kinds.shared_options([*kinds.KINDS, new])


@pytest.mark.parametrize("kind", KINDS)
def test_the_null_model_serves_the_kind(kind: kinds.TaskKind, bench: Bench) -> None:
    try:
        spec = bench.spec(kind.name, "null")
    except BadOption:  # it needs a prompt, a schema or a question
        needed = {name: value for name, value in samples(kind).items() if name in NEEDED}
        spec = bench.spec(kind.name, "null", **needed)
    (outcome,) = bench.run(spec, ["A text of some words."])
    assert outcome.status is Status.DONE
    assert kind.stored.output is kind.output


@pytest.mark.parametrize(
    "use",
    [
        lambda: kinds.options("sing"),
        lambda: kinds.recipe(Spec("sing", "model", "0" * 40), kinds.Traits()),
        lambda: open_backend(Spec("sing", "null", "null:1"), device="cpu", folders=ModelFolders(None, Path("none"))),
    ],
)
def test_an_unknown_kind_is_an_error_that_names_the_known_ones(use: Callable[[], object]) -> None:
    with pytest.raises((BadOption, CannotServe), match=r"No such task: sing; there are summarize, .*\."):
        use()


def test_a_kind_without_families_needs_no_model(engine_of: EngineOf, monkeypatch: pytest.MonkeyPatch) -> None:
    shout = kinds.TaskKind(
        name="shout",
        summary="Shout each document.",
        options=KindOptions,
        output=TEXT,
        recipe=lambda _spec, _traits: TextOnly(lambda computed: computed.done(computed.text.upper())),
    )
    monkeypatch.setitem(kinds._registry()["BY_NAME"], "shout", shout)
    model = shout.model_for(kinds.options("shout"))
    assert model == weightless.NO_MODEL
    folders = ModelFolders(None, Path("none"))
    pinned = pinning.pin(model, folders)
    spec = build_spec("shout", pinned, kinds.options("shout"), {})
    engine = engine_of(lambda spec: open_backend(spec, device="cpu", folders=folders))
    results = [(outcome.status, outcome.text) for outcome in outcomes_of(engine, spec, ["A text.", " "])]
    assert results == [(Status.DONE, "A TEXT."), (Status.SKIPPED, None)]
    shout.require({}, "null")
    with pytest.raises(ModelUnsuitable, match="shout needs no model: leave --model out"):
        shout.require({}, "minilm")
    with pytest.raises(ModelUnsuitable, match="summarize needs a model"):
        kinds.kind("summarize").require({}, weightless.NO_MODEL)


@pytest.mark.parametrize("model", ["null", "null@5"])
def test_the_model_that_computes_nothing_is_no_kinds_default(model: str) -> None:
    with pytest.raises(TaskError, match=f"may not be {model}, which computes nothing"):
        replace(kinds.KINDS[0], default_model=model)
