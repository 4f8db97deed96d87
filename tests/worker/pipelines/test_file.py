"""A pipeline file becomes values, or all its errors at once, each with its place."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from docmill.storage.steps.conditions import Bound, Flagged
from docmill.tasks import kinds
from docmill.worker.errors import WorkerError
from docmill.worker.pipelines.file import parse, read, refuse_secrets
from docmill.worker.pipelines.schema import CorpusTable, JobTable, OutputTable, ScheduleTable
from docmill.worker.submit.options import UnpinnedStep

PATH = Path("/data/pipelines/nightly.toml")
FULL = '''
name = "nightly"

[corpus]
source = "french.jsonl"
name = "press"
text-field = "body"
id-field = "key"
encoding = "cp1252"
sheet = "Open"
header-row = 3
prune-max = 30
prune-rejected = "keep"
prune = true
strict = true

[[step]]
name = "english"
task = "translate"
model = "opus"
revision = "main"
from = "fr"
to = "en"

[[step]]
name = "gist"
task = "generate"
prompt = """
In one sentence: {text}"""

[job]
priority = 3
max-failures = 5
max-cost = 2.5
max-flagged = 20.5

[schedule]
cron = "30 3 * * *"
timezone = "Europe/Paris"
overlap = "queue"

[output]
file = "out.csv"
format = "csv"
part-documents = 1000
view = false
'''
LEAST = """
name = "nightly"
corpus.source = "french.jsonl"
[[step]]
name = "short"
task = "summarize"
"""

TASKS = "summarize, translate, embed, sparse, generate, classify, entities, redact, extract or answer"

SCHEMA = {"type": "object", "properties": {"title": {"type": "string", "description": 'the "title" \\ \x7f'}}}
TITLE = '{ type = "string", description = "the \\"title\\" \\\\ \\u007f" }'
FACTS = "name = 'x'\ncorpus.source = 'a.jsonl'\n[[step]]\nname = 'facts'\ntask = 'extract'\n"


def errors(text: str, path: Path = PATH) -> list[str]:
    with pytest.raises(WorkerError) as caught:
        parse(text, path)
    lines = str(caught.value).split("\n")
    assert all(re.match(rf"{re.escape(str(path))}: \w", line) for line in lines)
    return [line.removeprefix(f"{path}: ") for line in lines]


@pytest.mark.parametrize(
    ("line", "condition"),
    [
        ("flagged = true", Flagged()),
        (
            "unflagged = ['doubtful', 'mean_logprob<-1']",
            Flagged(lacking=True, bounds=(Bound("mean_logprob", True, -1.0),)),
        ),
    ],
)
def test_a_step_may_have_a_condition_on_what_it_reads(line: str, condition: Flagged) -> None:
    step = f"[[step]]\nname = 'again'\ntask = 'summarize'\n{line}\n"
    assert parse(LEAST + step, PATH).steps[1].flagged == condition


def test_every_key_becomes_a_value() -> None:
    pipeline = parse(FULL, PATH)
    assert (pipeline.name, pipeline.text) == ("nightly", FULL)
    assert pipeline.job.model_dump() == {"priority": 3, "max_failures": 5, "max_flagged": 20.5, "max_cost": 2.5}
    assert pipeline.corpus.model_dump() == {
        "source": "/data/pipelines/french.jsonl",
        "name": "press",
        "text_field": "body",
        "id_field": "key",
        "encoding": "cp1252",
        "sheet": "Open",
        "header_row": 3,
        "ocr": None,
        "limit": None,
        "prune": True,
        "prune_max": 30,
        "prune_rejected": "keep",
        "strict": True,
    }
    assert pipeline.schedule == ScheduleTable(cron="30 3 * * *", timezone="Europe/Paris", overlap="queue")
    output = {"file": "/data/pipelines/out.csv", "format": "csv", "part_documents": 1000, "view": False}
    assert pipeline.output.model_dump() == output
    # The contract of kinds has each option of each task.
    languages = kinds.options("translate", source_lang="fr", target_lang="en")
    prompt = kinds.options("generate", prompt="In one sentence: {text}")
    assert pipeline.steps == (
        UnpinnedStep("english", "translate", "document", "opus", "main", languages),
        UnpinnedStep("gist", "generate", "english", None, None, prompt),
    )


def test_missing_keys_have_their_defaults() -> None:
    pipeline = parse(LEAST, PATH)
    assert pipeline.corpus == CorpusTable(source="/data/pipelines/french.jsonl", name="nightly")
    assert pipeline.steps == (UnpinnedStep("short", "summarize", "document", None, None, kinds.options("summarize")),)
    assert (pipeline.job, pipeline.schedule, pipeline.output) == (JobTable(), None, OutputTable())
    assert parse(LEAST.replace("[[step]]", "corpus.limit = 10\n[[step]]"), PATH).corpus.limit == 10
    assert parse(LEAST + '[schedule]\ncron = "0 3 * * *"', PATH).schedule == ScheduleTable(cron="0 3 * * *")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("/corpora/french.jsonl", "/corpora/french.jsonl"),
        ("../french", "/data/pipelines/../french"),
        ("s3://bucket/french.jsonl", "s3://bucket/french.jsonl"),
    ],
)
def test_a_relative_source_starts_at_the_files_folder_and_a_url_is_left_as_it_is(
    source: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = LEAST.replace("french.jsonl", source)
    assert parse(text, PATH).corpus.source == expected
    monkeypatch.chdir("/")
    assert parse(text, PATH.relative_to("/")).corpus.source == expected


def test_all_errors_are_listed_in_the_order_of_the_tables() -> None:
    text = """\
name = "9 lives"
[output]
view = 1
[job]
priority = 1.5
[[step]]
name = "english"
task = "translat"
beams = true
[[step]]
name = "english"
max_new_tokens = 4
[schedule]
overlap = "both"
[corpus]
sorce = "french.jsonl"
limit = "10"
[shedule]
"""
    assert errors(text) == [
        "name must be a letter, then letters, digits, _ and -, at most 40 characters in all; '9 lives' is not",
        "shedule: there is no shedule at the top of a pipeline; did you mean schedule?",
        'corpus: a corpus needs a source: source = "articles.jsonl"',
        "corpus.limit must be a whole number, not '10'",
        "corpus.sorce: there is no sorce in [corpus]; did you mean source?",
        "step[1].beams must be a whole number, not true",
        f"step[1].task must be {TASKS}, not 'translat' (did you mean translate?)",
        'step[2]: a step needs a task: task = "translate"',
        "step[2].max_new_tokens: there is no max_new_tokens in [[step]]; did you mean max-new-tokens?",
        "step[2].name: step[1] is called english too; choose another name",
        "job.priority must be a whole number, not 1.5",
        'schedule: a schedule needs a cron expression: cron = "30 3 * * *"',
        "schedule.overlap must be skip or queue, not 'both'",
        "output.view must be true or false, not 1",
    ]


def test_a_step_may_have_a_model_for_each_language() -> None:
    text = "name = 'x'\ncorpus.source = 'a'\n[[step]]\nname = 'a'\ntask = 'translate'\nfrom = 'auto'\n"
    table, dotted = "model = { fr = 'one', de = 'two' }", "model.fr = 'one'\nmodel.de = 'two'"
    for line in (table, dotted, "model = 'fr=one,de=two'"):
        assert parse(text + line, PATH).steps[0].model == "fr=one,de=two"


def chain(*inputs: tuple[str, str, str | None]) -> str:
    """Return a pipeline with steps of these names, tasks and inputs."""
    text = "name = 'x'\ncorpus.source = 'a'\n"
    for name, task, input_name in inputs:
        text += f"[[step]]\nname = '{name}'\ntask = '{task}'\n" + (f"input = '{input_name}'\n" if input_name else "")
    return text


def test_a_step_reads_the_step_before_unless_it_names_another() -> None:
    steps = parse(
        chain(("a", "translate", None), ("b", "summarize", None), ("c", "embed", "a"), ("d", "generate", "document")),
        PATH,
    ).steps
    assert [step.input for step in steps] == ["document", "a", "a", "document"]


def corpus(added: str) -> str:
    source = "" if added.startswith("source") else "source = 'a'\n"
    return f"name = 'x'\n[corpus]\n{source}{added}\n[[step]]\nname = 'a'\ntask = 'embed'"


def step(added: str) -> str:
    return f"name = 'x'\ncorpus.source = 'a'\n[[step]]\ntask = 'generate'\n{added}"


def with_second_step(added: str) -> str:
    return f"{LEAST}[[step]]\nname = 'again'\ntask = 'summarize'\n{added}\n"


NPY = "[output]\nfile = 'out.npy'\n"
ONLY_VECTORS = "output.file: only vectors are written as .npy, of one step; choose .jsonl, .csv, .parquet or .xlsx"
OTHERWISE = 'which no step can read; choose another input, such as input = "document"'


@pytest.mark.parametrize(
    ("text", "starts"),
    [
        (corpus('source = "-"'), ["corpus.source cannot be standard input, which is there only once; name a file, "]),
        (corpus("source = ' '"), ["corpus.source is empty; fill it in or leave it out"]),
        (corpus("id-field = 1979-05-27"), ["corpus.id-field must be a text in quotes, not 1979-05-27"]),
        (corpus("prune-max = 20"), ["corpus.prune-max says how prune works; write prune = true, too"]),
        (corpus("vorpal = 1"), ["corpus.vorpal: there is no vorpal in [corpus]; there are source, name, "]),
        (step("name = 'document'"), ["step[1].name cannot be document, which means the document itself"]),
        (step("name = 'flags'"), ["step[1].name cannot be flags, which is a column of results"]),
        (step("name = 'a-b'"), ["step[1].name must be a letter, then letters, digits and _; 'a-b' is not"]),
        (step("name = 'a'\nmodel = { fr = 'm', de = 3 }"), ["step[1].model de must be a text in quotes, not 3"]),
        (step("name = 'a'\nstop = 'x'"), ["""step[1].stop must be a list of texts, such as ["a", "b"], not 'x'"""]),
        (step("name = 'a'\nprompt = 'x'"), ["step[1].prompt: {text} does not stand in it; put it once"]),
        (step("name = 'a'\nprompt = '@x'"), ["step[1].prompt is the template itself in a pipeline, not a file's "]),
        (step("name = 'a'\nmodel = { '' = 'm' }"), ["step[1].model names no language; write { fr = "]),
        (with_second_step("escalate = { model = '' }"), ["step[2].escalate is wrong: model is empty; fill it in"]),
        (LEAST + "[job]\nmax-cost = inf", ["job.max-cost must be a finite number, not inf"]),
        (
            with_second_step("leave-out = 'letters'"),
            ["step[2].leave-out is refused: no feature leaves out 'letters'; "],
        ),
        (with_second_step("flagged = false"), ['step[2].flagged must be true, or a list such as ["empty", "conf']),
        (
            with_second_step("flagged = true\nunflagged = true"),
            ["step[2].unflagged: flagged and unflagged exclude each other; "],
        ),
        (
            with_second_step("flagged = true\ninput = 'document'"),
            ["step[2].flagged is about the output of an earlier step"],
        ),
        (LEAST + "[output]\nfile = '-'", ["output.file cannot be standard output; name a file"]),
        (LEAST + "[output]\npart-documents = 10", ["output.part-documents: parts need a folder; name it: file = "]),
        (LEAST + "[[output]]", ["output must be a table, written [output], not a list"]),
        (chain(("v", "embed", None), ("w", "embed", "document")) + NPY, [ONLY_VECTORS]),
        (chain(("t", "translate", None)) + NPY, [ONLY_VECTORS]),
        (
            chain(("a", "translate", "b"), ("b", "summarize", "b"), ("c", "embed", "aa")),
            [
                "step[1].input must be an earlier step, and b is not; put it before this one, or choose another",
                "step[2].input must be an earlier step, and b is not; put it before this one, or choose another",
                "step[3].input names no step: 'aa'; there are document, a, b",
            ],
        ),
        (
            chain(("v", "embed", None), ("s", "summarize", None), ("t", "summarize", "v")),
            [
                f"step[2].input: the step before, v, gives vectors, {OTHERWISE}",
                f"step[3].input: v gives vectors, {OTHERWISE}",
            ],
        ),
        (
            chain(("people", "redact", None))
            + "[[step]]\nname = 'b'\ntask = 'summarize'\nflagged = ['least_logprob<-4']",
            ["step[2].flagged: "],
        ),
    ],
)
def test_a_wrong_value_is_named_with_its_place_and_what_is_expected(text: str, starts: list[str]) -> None:
    messages = errors(text)
    for error, start in zip(messages, starts, strict=True):
        assert error.startswith(start)


def test_vectors_of_a_single_step_may_go_to_a_file_of_vectors() -> None:
    assert parse(chain(("v", "embed", None)) + NPY, PATH).output.file == str(PATH.parent / "out.npy")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = 'x'\nname = 'y'", r"2: this is not TOML: Cannot overwrite a value"),
        ("a = 1\n\nb = ", r"3: this is not TOML: Invalid value"),
        ("a = " + "[" * 100_000, r"1: the brackets in this file are nested too deep"),
        ("a = " + "1" * 10_000, r"1: this is not TOML: "),
    ],
)
def test_invalid_toml_is_reported_with_its_line(text: str, message: str) -> None:
    with pytest.raises(WorkerError) as caught:
        parse(text, PATH)
    assert re.match(f"{re.escape(str(PATH))}:{message}", str(caught.value))
    assert "\n" not in str(caught.value)


def test_a_file_is_read_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "nightly.toml"
    path.write_bytes(b"\xef\xbb\xbf" + LEAST.replace("\n", "\r\n").encode())
    assert read(path).text == LEAST.replace("\n", "\r\n")


def test_a_file_that_cannot_be_read_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match=r"cannot read .*/nightly.toml: No such file"):
        read(tmp_path / "nightly.toml")
    with pytest.raises(WorkerError, match="Is a directory"):
        read(tmp_path)
    path = tmp_path / "latin.toml"
    path.write_bytes("name = 'x'\n# é".encode("latin-1"))
    with pytest.raises(WorkerError, match=r"latin.toml:2: this is not UTF-8 text"):
        read(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas" / "facts.json").write_text("\ufeff" + json.dumps(SCHEMA, indent=2), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    "line",
    [
        "schema = 'schemas/facts.json' # here",
        'schema="./schemas/facts.json"',
        "# schema = 'schemas/facts.json', not \"schema = 'other.json'\"\nschema = 'schemas/facts.json'",
        "system = \"\"\"schema = 'schemas/facts.json'\"\"\"\n'schema' = 'schemas/facts.json'",
        "schema = { type = 'object', properties = { title = " + TITLE + " } }",
        f"schema = '''{json.dumps(SCHEMA)}'''",
    ],
)
def test_a_schema_is_the_same_from_a_file_a_table_and_json(folder: Path, line: str) -> None:
    file = folder / "x.toml"
    file.write_text(f"{FACTS}{line}\nmodel = 'null'\n")
    pipeline = read(file)
    system = "schema = 'schemas/facts.json'" if "system" in line else None
    assert pipeline.steps[0].options == kinds.options("extract", json_schema=SCHEMA, system=system)
    (folder / "schemas" / "facts.json").unlink()
    assert parse(pipeline.text, file) == pipeline  # as a worker on another machine reads it
    assert pipeline.text.count("\n") == file.read_text().count("\n")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("schema = 'none.json'", "schema: cannot read FOLDER/none.json: No such file"),
        ("schema = 'latin.json'", "schema: FOLDER/latin.json is not UTF-8 text"),
        ("schema = '''schemas/facts.json'''", "schema: write the file's name in quotes, on the line of the key"),
        ("top-p = nan\nschema = 'schemas/facts.json'", "top-p must be "),
    ],
)
def test_a_schema_that_cannot_be_read_is_refused_with_its_place(folder: Path, line: str, message: str) -> None:
    (folder / "latin.json").write_bytes(b'{"a": "\xe9"}')
    (folder / "x.toml").write_text(f"{FACTS}{line}\n")
    with pytest.raises(WorkerError) as caught:
        read(folder / "x.toml")
    [error] = str(caught.value).split("\n")
    assert error.startswith(f"{folder}/x.toml: step[1].{message.replace('FOLDER', str(folder))}")


@pytest.mark.parametrize(
    ("source", "instead"),
    [
        ("postgresql://me:kanarienvogel@127.0.0.1:1/db?SELECT 'a' AS text", "PGPASSWORD"),
        ("https://kanarienvogel@127.0.0.1:1/c.jsonl", "~/.netrc"),
    ],
)
def test_a_pipeline_with_a_secret_in_its_source_is_not_kept(source: str, instead: str) -> None:
    with pytest.raises(WorkerError) as caught:
        refuse_secrets(parse(LEAST.replace("french.jsonl", source), PATH))
    message = str(caught.value)
    assert "nightly.toml: corpus.source has a" in message
    assert instead in message
    assert "kanarienvogel" not in message
