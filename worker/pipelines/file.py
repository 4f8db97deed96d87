"""A pipeline as a TOML file: its text becomes values, or every error in it with its place. Pure, but for `read`.

Only the names and types of a step's options are checked here; ``tasks.specs.plan.build_spec`` checks them against
the model. docs/pipeline-file.md is the reference for such a file.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from docmill.storage import writers
from docmill.storage.readers import remote
from docmill.storage.steps.conditions import DOUBTS, Flagged
from docmill.storage.writers.formats import FormatUnfit
from docmill.tasks import kinds, prompts
from docmill.tasks.errors import BadOption, find_similar
from docmill.tasks.kinds.options import key, option, sentence, shown
from docmill.tasks.specs import plan
from docmill.worker.errors import Fault, FieldPath, WorkerError, describe_bad_syntax, put_place, write_place
from docmill.worker.pipelines import schedule
from docmill.worker.pipelines.schedule import BadSchedule
from docmill.worker.pipelines.schema import (
    TABLES,
    CorpusTable,
    JobTable,
    OutputTable,
    PipelineTable,
    ScheduleTable,
    StepTable,
    Top,
    step_table,
)
from docmill.worker.submit.options import DOCUMENT, UnpinnedStep

_ORDER = ("corpus", "step", "job", "schedule", "output")  # in which errors are listed, after those at the top
_OPTION_KEYS = frozenset(key(name, field) for name, field in kinds.OPTIONS.items())
_KEYS_OF_FILES = tuple(key(name, field) for name, field in kinds.OPTIONS.items() if option(field).in_file)


@dataclass(frozen=True)
class Pipeline:
    """A file's content, with absolute paths. ``text`` is the file as written, with the content of files that steps
    name. ``path`` names the file in errors. If the file names no precision, the options of a step have ``auto``.
    """

    name: str
    corpus: CorpusTable
    steps: tuple[UnpinnedStep, ...]
    job: JobTable
    schedule: ScheduleTable | None
    output: OutputTable
    text: str
    path: Path


def read(path: Path) -> Pipeline:
    """Return the pipeline in a file. Raises WorkerError, also for a file that cannot be read."""
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        stored = "" if path.suffix else f"; `docmill pipeline show {path}` prints the file of a stored pipeline"
        raise WorkerError(f"cannot read {path}: {error.strerror}{stored}") from error
    except UnicodeDecodeError as error:
        raise WorkerError(describe_bad_syntax(error, content, path)) from error
    return parse(_with_files(text, path), path)


def parse(text: str, path: Path) -> Pipeline:
    """Return the pipeline in a file's text; ``path`` says where relative paths start, and names the file in errors.

    Raises WorkerError with all the errors, in the order of their tables: one on each line of the message, as FILE:
    PLACE: what is wrong and what to do.
    """
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # beside its own errors: a number of a million digits
        raise WorkerError(describe_bad_syntax(error, text.encode(), path)) from error
    faults: list[Fault] = []
    written = _tables(document, faults)
    values = {name: value for name, value in document.items() if name not in (*TABLES, "step")}
    top = _read_table(values, (), Top, faults, beside=(*TABLES, "step"))
    parts = {name: _read_table(written.get(name, {}), (name,), table, faults) for name, table in TABLES.items()}
    steps = [
        _read_table(step, ("step", place), step_table(str(step.get("task"))), faults)
        for place, step in enumerate(written.get("step", []))
    ]
    inputs = _inputs(steps, faults)
    faults += _check_required(document)
    faults += _check_names(steps)
    faults += _check_conditions(steps, inputs)
    faults += _check_prompts(steps)
    faults += _check_pruning(parts["corpus"])
    faults += _check_schedule(parts["schedule"])
    faults += _check_output(parts["output"], [step.get("task") for step in steps])
    if faults:
        sentences = (put_place(place, said) for place, said in sorted(faults, key=_rank))
        raise WorkerError("\n".join(f"{path}: {said}" for said in sentences))
    folder, corpus, output = path.absolute().parent, parts["corpus"], parts["output"]
    if "://" not in corpus["source"]:
        corpus["source"] = str(folder / corpus["source"])
    if "file" in output:
        output["file"] = str(folder / output["file"])
    return Pipeline(
        name=top["name"],
        corpus=CorpusTable.model_validate({"name": top["name"], **corpus}),
        steps=tuple(_step(step, input_) for step, input_ in zip(steps, inputs, strict=True)),
        job=JobTable.model_validate(parts["job"]),
        schedule=ScheduleTable.model_validate(parts["schedule"]) if "schedule" in document else None,
        output=OutputTable.model_validate(output),
        text=text,
        path=path,
    )


def refuse_secrets(pipeline: Pipeline) -> None:
    """Raise WorkerError for a file that is not to be kept, since there is a password or token in its source."""
    if (problem := remote.describe_secret(pipeline.corpus.source)) is not None:
        raise WorkerError(f"{place_of(pipeline, ('corpus', 'source'))} {problem}")


def place_of(pipeline: Pipeline, place: FieldPath) -> str:
    """Return FILE: PLACE of a key or a table in the pipeline's file."""
    return f"{pipeline.path}: {write_place(place)}"


def _with_files(text: str, path: Path) -> str:
    """Return a pipeline's text with the JSON in place of the names of files that its steps take it from.

    A stored pipeline thus needs no file beside it. Text that is no pipeline is returned as it is.
    Raises WorkerError.
    """
    values = _values(text)
    for number, name in _files_of_steps(values):
        file = path.absolute().parent / values["step"][number][name]
        where = f"{path}: {write_place(('step', number, name))}"
        try:
            content = file.read_text(encoding="utf-8-sig")
        except OSError as error:
            raise WorkerError(f"{where}: cannot read {file}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise WorkerError(f"{where}: {file} is not UTF-8 text") from error
        values["step"][number][name] = content
        quoted = json.dumps(content, ensure_ascii=False).replace("\x7f", "\\u007f")  # a TOML string on one line
        names = re.finditer(rf"""\b{re.escape(name)}["']?\s*=\s*("[^"\n]+"|'[^'\n]+')""", text)
        texts = (text[: match.start(1)] + quoted + text[match.end(1) :] for match in names)
        # Compared as texts, since nan is not equal to itself. Only the right occurrence gives these values.
        text = next((changed for changed in texts if repr(_values(changed)) == repr(values)), "")
        if not text:
            raise WorkerError(f"{where}: write the file's name in quotes, on the line of the key")
    return text


def _values(text: str) -> dict[str, Any]:
    """Return the values of a TOML text; none if it is not TOML."""
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError):
        return {}


def _files_of_steps(values: Mapping[str, Any]) -> list[tuple[int, str]]:
    """Return the positions of steps, and their keys whose values are names of files."""
    steps = values.get("step")
    return [
        (number, name)
        for number, step in enumerate(steps if isinstance(steps, list) else [])
        for name in (_KEYS_OF_FILES if isinstance(step, dict) else ())
        if isinstance(value := step.get(name), str) and value.strip() and not value.lstrip().startswith("{")
    ]


def _tables(values: Mapping[str, Any], faults: list[Fault]) -> dict[str, Any]:
    """Return the tables of a file that are written as such; add the others to the faults."""
    tables: dict[str, Any] = {}
    for name, value in values.items():
        if name == "step":
            if isinstance(value, list) and value and all(isinstance(step, dict) for step in value):
                tables[name] = value
            else:
                faults.append(((name,), "step must be tables, each written [[step]], with two brackets"))
        elif name in TABLES:
            if isinstance(value, dict):
                tables[name] = value
            else:
                faults.append(((name,), f"{name} must be a table, written [{name}], not {shown(value)}"))
    return tables


def _read_table(
    values: Mapping[str, Any],
    place: FieldPath,
    model: type[PipelineTable],
    faults: list[Fault],
    *,
    beside: Iterable[str] = (),
) -> dict[str, Any]:
    """Return a table's values that are known and right; add the others to the faults, but not the missing keys.

    ``beside`` are names that stand where the table's keys do.
    """
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    good = dict(values)
    try:
        model.model_validate(good)
    except ValidationError as error:
        for problem in error.errors():
            name = str(problem["loc"][0])
            if problem["type"] == "missing" or good.pop(name, None) is None:
                continue
            if problem["type"] != "extra_forbidden":
                said = f"{name} {sentence(problem, fields[name])}"
            elif name in _OPTION_KEYS and "task" in good:
                said = f"{name} has no meaning for {good['task']}"
            else:
                said = f"there is no {name} {_within(place)}; {_nearest(name, (*fields, *beside))}"
            faults.append(((*place, name), said))
    return good


def _within(place: FieldPath) -> str:
    if not place:
        return "at the top of a pipeline"
    return f"in [[{place[0]}]]" if len(place) > 1 else f"in [{place[0]}]"


def _nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint at the name that was meant: the nearest of the known names, or all of them."""
    names = list(known)
    close = find_similar(name, names)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}"


def _rank(fault: Fault) -> tuple[Any, ...]:
    """Return the key by which errors are sorted: their tables, then the steps, then the names of keys."""
    place, _ = fault
    table = place[0] if place else None
    return (_ORDER.index(table), *place[1:]) if table in _ORDER else (-1,)


def _check_required(values: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield the keys and tables that have to be there and are not."""
    for name, example in (("name", 'name = "nightly"'), ("corpus", "[corpus]"), ("step", "[[step]]")):
        if name not in values:
            yield (), f"a pipeline needs a {name}: {example}"
    if isinstance(corpus := values.get("corpus"), dict) and "source" not in corpus:
        yield ("corpus",), 'a corpus needs a source: source = "articles.jsonl"'
    if isinstance(schedule := values.get("schedule"), dict) and "cron" not in schedule:
        yield ("schedule",), 'a schedule needs a cron expression: cron = "30 3 * * *"'
    steps = values.get("step")
    for place, step in enumerate(steps if isinstance(steps, list) else []):
        for name, example in (("name", 'name = "english"'), ("task", 'task = "translate"')):
            if isinstance(step, dict) and name not in step:
                yield ("step", place), f"a step needs a {name}: {example}"


def _check_names(steps: Sequence[Mapping[str, Any]]) -> Iterator[Fault]:
    """Yield the names that an earlier step has, too."""
    first: dict[str, int] = {}
    for place, step in enumerate(steps):
        name = step.get("name")
        if name is None:
            continue
        if name in first:
            earlier = write_place(("step", first[name]))
            yield ("step", place, "name"), f"{earlier} is called {name} too; choose another name"
        first.setdefault(name, place)


def _inputs(steps: Sequence[Mapping[str, Any]], faults: list[Fault]) -> list[str]:
    """Return the input of each step: the document or an earlier step, so that there are no cycles."""
    inputs = []
    tasks: dict[str, str | None] = {}
    later = {step.get("name") for step in steps}
    before: str | None = DOCUMENT  # None where the step before has no name that could be read
    for place, step in enumerate(steps):
        wanted = step.get("input", before)
        if wanted is not None and (problem := _input_problem(wanted, tasks, later, is_named="input" in step)):
            faults.append((("step", place, "input"), problem))
        inputs.append(wanted or DOCUMENT)
        before = step.get("name")
        if before is not None:
            tasks[before] = step.get("task")
    return inputs


def _input_problem(
    wanted: str, earlier: Mapping[str, str | None], all_names: set[Any], *, is_named: bool
) -> str | None:
    if wanted == DOCUMENT:
        return None
    if wanted in earlier:
        task = earlier[wanted]
        if task is None or (output := kinds.kind(task).output).feeds_steps:
            return None
        which = f"{wanted} gives" if is_named else f"the step before, {wanted}, gives"
        return f'{which} {output.plural}, which no step can read; choose another input, such as input = "{DOCUMENT}"'
    if wanted in all_names:
        return f"input must be an earlier step, and {wanted} is not; put it before this one, or choose another"
    return f"input names no step: {shown(wanted)}; {_nearest(wanted, [DOCUMENT, *earlier])}"


def _check_conditions(steps: Sequence[Mapping[str, Any]], inputs: Sequence[str]) -> Iterator[Fault]:
    """Yield conditions on documents, which have no flags, conditions that exclude each other, and unknown numbers."""
    tasks = {step.get("name"): step.get("task") for step in steps}
    for place, (step, input_) in enumerate(zip(steps, inputs, strict=True)):
        if step.get("leave-out") and input_ != DOCUMENT:
            problem = f'leave-out is about documents; write it in the step that reads them, or input = "{DOCUMENT}"'
            yield ("step", place, "leave-out"), problem
        for name in ("flagged", "unflagged"):
            if name in step and input_ == DOCUMENT:
                problem = f'{name} is about the output of an earlier step; name that step: input = "STEP"'
                yield ("step", place, name), problem
            elif isinstance(parts := step.get(name), list) and (task := tasks.get(input_)) is not None:
                output = kinds.kind(task).output
                for bound in Flagged.parse(parts).bounds:
                    if bound.number not in output.confidence:
                        known = ", ".join(output.confidence)
                        problem = f"{name}: {output.plural} have no {bound.number}, only {known}"
                        yield ("step", place, name), problem
        if "flagged" in step and "unflagged" in step:
            yield ("step", place, "unflagged"), "flagged and unflagged exclude each other; leave one out"


def _check_prompts(steps: Sequence[Mapping[str, Any]]) -> Iterator[Fault]:
    """Yield the names of files in place of templates, and the templates that are none."""
    templates = {key(name, field) for name, field in kinds.OPTIONS.items() if option(field).is_template}
    for place, step in enumerate(steps):
        for name in templates & step.keys():
            value = step[name]
            if value.startswith("@") and "{text}" not in value:
                advice = "put the text between ''' and '''"
                problem = f"{name} is the template itself in a pipeline, not a file's name; {advice}"
                yield ("step", place, name), problem
                continue
            try:
                prompts.check(value)
            except BadOption as error:
                yield ("step", place, name), str(error).removeprefix("--")


def _check_pruning(corpus: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield a sample that is to be pruned, and options of pruning without it."""
    if corpus.get("prune") and "limit" in corpus:
        problem = "prune and limit do not go together: records after the limit have not vanished; leave one out"
        yield ("corpus", "prune"), problem
    for name in ("prune-max", "prune-rejected"):
        if name in corpus and not corpus.get("prune"):
            yield ("corpus", name), f"{name} says how prune works; write prune = true, too"


def _check_schedule(table: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield the fault of an expression that never comes, which depends on the time zone."""
    if "cron" in table:
        try:
            schedule.check(table["cron"], table.get("timezone", "UTC"))
        except BadSchedule as error:
            yield ("schedule", "cron"), str(error)


def _check_output(output: Mapping[str, Any], tasks: Sequence[str | None]) -> Iterator[Fault]:
    """Yield a file that cannot have the results of steps of these tasks, and parts without a folder.

    The task of a step that is wrong itself is None.
    """
    ending = Path(str(output.get("file", ""))).suffix.lower()
    writer = next((writer for writer in writers.every_writer() if writer.suffix == ending), None)
    if "format" not in output and writer is not None and None not in tasks:
        try:
            writer.check_takes([kinds.kind(task).output for task in tasks if task is not None])
        except FormatUnfit as error:
            *first, last = writers.suffixes(any_output=True)
            yield ("output", "file"), f"{error}; choose {', '.join(first)} or {last}"
    if "part-documents" in output and "file" not in output:
        yield ("output", "part-documents"), 'parts need a folder; name it: file = "out"'


def _step(values: Mapping[str, Any], input_: str) -> UnpinnedStep:
    task = values["task"]
    table = step_table(task).model_validate(values)
    options, model = kinds.kind(task).options, table.model
    if isinstance(model, dict):
        model = plan.write_models(model)
    chosen = table.model_dump(include={*options.model_fields}, exclude_none=True)  # a validator may refuse None
    again = getattr(table, "escalate", None)
    escalation = None if again is None else again.escalation
    return UnpinnedStep(
        name=table.name,
        task=task,
        input=input_,
        model=model,
        revision=table.revision,
        options=options(**chosen),
        flagged=_condition(table),
        escalation=escalation,
        leaves_out=table.leave_out,
    )


def _condition(table: StepTable) -> Flagged | None:
    names = table.flagged if table.unflagged is None else table.unflagged
    if names is None:
        return None
    return Flagged.parse([DOUBTS] if names is True else names, lacking=table.unflagged is not None)
