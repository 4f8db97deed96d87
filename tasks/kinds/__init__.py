"""The kinds of task: each has a module and a line of `OWN_KINDS`. Lanes, commands, help and checks derive from them.

Features add more kinds. KINDS, NAMES, STORED_KINDS and OPTIONS include these, and are made when they are first read,
so that a feature's module can import this package.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from types import MappingProxyType
from typing import Any

from pydantic import create_model
from pydantic.fields import FieldInfo

from docmill.storage import templates
from docmill.storage.core.specs import Spec, StoredKind
from docmill.storage.errors import StorageError
from docmill.storage.features import load_by_name
from docmill.storage.outputs.output_types import TEXT
from docmill.tasks import languages, prompts
from docmill.tasks.checks import AS_WRITTEN, NONE, Checks
from docmill.tasks.errors import BadOption, CannotServe, suggest
from docmill.tasks.kinds.answer import ANSWER, asking, require_room
from docmill.tasks.kinds.base import Recipe as Recipe
from docmill.tasks.kinds.base import TaskKind as TaskKind
from docmill.tasks.kinds.base import Traits as Traits
from docmill.tasks.kinds.classify import CLASSIFY
from docmill.tasks.kinds.embed import EMBED, SPARSE
from docmill.tasks.kinds.entities import ENTITIES
from docmill.tasks.kinds.extract import EXTRACT
from docmill.tasks.kinds.generate import GENERATE, Generate, Uncut
from docmill.tasks.kinds.options import KindOptions as KindOptions
from docmill.tasks.kinds.options import declaration_of, key, parsed
from docmill.tasks.kinds.redact import REDACT
from docmill.tasks.kinds.summarize import SUMMARIZE
from docmill.tasks.kinds.translate import TRANSLATE
from docmill.tasks.models import weightless
from docmill.tasks.prompts import PromptFrame, around, is_rendered
from docmill.tasks.windows.windows import Coder

OWN_KINDS: tuple[TaskKind, ...] = (
    SUMMARIZE,
    TRANSLATE,
    EMBED,
    SPARSE,
    GENERATE,
    CLASSIFY,
    ENTITIES,
    REDACT,
    EXTRACT,
    ANSWER,
)
KINDS: tuple[TaskKind, ...]  # docmill's own and those of features
NAMES: tuple[str, ...]
STORED_KINDS: Mapping[str, StoredKind]
OPTIONS: Mapping[str, FieldInfo]  # of all kinds
# The version of the built-in instructions, a part of the specs that use them.
INSTRUCTIONS = 2
# A base model would continue with the next line of the pattern, so its output ends here.
LINE_END = "\n"
_EXAMPLE_LANGUAGE = "en"  # to measure the length of an instruction
_REMEMBERED = 256  # coders to cache for documents' questions


def __getattr__(name: str) -> Any:
    try:
        return _registry()[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


@cache
def _registry() -> dict[str, Any]:
    """Return KINDS, and the names that derive from them. Raises StorageError."""
    by_name = load_by_name("kinds", TaskKind, OWN_KINDS)
    kinds = tuple(by_name.values())
    try:
        options = MappingProxyType(shared_options(kinds))
    except ValueError as error:
        raise StorageError(str(error)) from error
    stored = MappingProxyType({kind.name: kind.stored for kind in kinds})
    return {"KINDS": kinds, "NAMES": tuple(by_name), "STORED_KINDS": stored, "OPTIONS": options, "BY_NAME": by_name}


def shared_options(task_kinds: Sequence[TaskKind]) -> dict[str, FieldInfo]:
    """Return the options of kinds by the names of their fields, the options of the fewest kinds first.

    A command has each option once. Raises ValueError if two kinds declare an option of the same name differently.
    """
    fields: dict[str, FieldInfo] = {}
    declared: dict[str, tuple[str, object]] = {}
    n_kinds: Counter[str] = Counter()
    for task_kind in task_kinds:
        for name, field in task_kind.options.model_fields.items():
            declaration = name, declaration_of(field)
            for word in (name, key(name, field)):
                first, same = declared.setdefault(word, (task_kind.name, declaration))
                if same != declaration:
                    raise ValueError(
                        f"{task_kind.name} declares its option {word} differently from {first}: kinds share their "
                        "options. Declare it in the same way, or give it another name."
                    )
            fields[name] = field
            n_kinds[name] += 1
    return {
        name: fields[name]
        for name in sorted(fields, key=lambda name: (name in KindOptions.model_fields, n_kinds[name]))
    }


def verb(name: str) -> str:
    """Return the kind as a verb, for titles: `Summarize`. For an unknown kind, return its name."""
    known: TaskKind | None = _registry()["BY_NAME"].get(name)
    return ((known and known.verb) or name).capitalize()


def kind(name: str) -> TaskKind:
    """Return the kind of this name. Raises BadOption."""
    by_name: Mapping[str, TaskKind] = _registry()["BY_NAME"]
    if name not in by_name:
        raise BadOption(f"No such task: {name}; there are {', '.join(by_name)}. {suggest(name, by_name)}".rstrip())
    return by_name[name]


def options(name: str, **values: Any) -> KindOptions:
    """Return the options of the kind of this name, from values by field. Raises BadOption."""
    require_options(name, values)
    return parsed(kind(name).options, values)


def require_options(name: str, fields: Iterable[str], prefix: str = "--") -> None:
    """Raise BadOption for a field that is no option of the kind of this name. The message has the option's name."""
    for field in sorted(set(fields) - kind(name).options.model_fields.keys()):
        raise BadOption(f"{prefix}{spelling(field)} has no meaning for {name}.")


def spelling(field: str) -> str:
    """Return an option's name in pipelines and, after dashes, on the command line. Other names get hyphens."""
    options = _registry()["OPTIONS"]
    return key(field, options[field]) if field in options else field.replace("_", "-")


def any_options() -> type[KindOptions]:
    """Return a model with the options of all kinds, for a task with an unknown name."""
    fields: dict[str, Any] = {name: (field.annotation, field) for name, field in _registry()["OPTIONS"].items()}
    return create_model("AnyOptions", __base__=KindOptions, **fields)


def recipe(spec: Spec, traits: Traits) -> Recipe:
    """Return the recipe for a spec. Raises BadOption."""
    task_kind = kind(spec.kind)
    own = task_kind.recipe(spec, traits)
    if not prompts.is_rendered(spec.params):
        return own
    joined = own if task_kind.output is not TEXT or isinstance(own, Generate) else Generate()
    is_chat = templates.MESSAGES in spec.params
    return Uncut(joined, "No conversation is read in parts.") if is_chat else Uncut(joined)


def checks(spec: Spec, traits: Traits) -> Checks:
    """Return the checks of the outputs under a spec. Raises BadOption.

    A rendered prompt is more than the document, so the output is not compared with it. Outputs of the null model are
    not checked.
    """
    suited = kind(spec.kind).checks(spec, traits.direction)
    if weightless.is_null(spec.model):
        return NONE
    return AS_WRITTEN if suited.flags and prompts.is_rendered(spec.params) else suited


def instruction(spec: Spec, *, chat: bool, shown: bool = True) -> PromptFrame:
    """Return the instruction of a spec for a model that follows instructions (``chat``), or for a base model.

    A base model reads demonstrations first if they are ``shown``. Raises CannotServe for a translation without
    languages, and for a kind without built-in instructions.
    """
    prompt = spec.params.get("prompt")
    if prompt is not None:
        return PromptFrame("", "") if is_rendered(spec.params) else around(prompt)
    built_in = kind(spec.kind).built_in
    if built_in is None:
        raise CannotServe(f"{spec.kind} has no built-in instructions: give --prompt.")
    return built_in.chat(spec) if chat else built_in.pattern(spec, shown)


def stop_texts(spec: Spec, *, chat: bool) -> tuple[str, ...]:
    """Return the texts that end an output: the spec's stop texts, or the end of the built-in pattern's line."""
    is_pattern = not chat and "prompt" not in spec.params and kind(spec.kind).built_in is not None
    return tuple(spec.params.get("stop") or ((LINE_END,) if is_pattern else ()))


def example_of(spec: Spec) -> Spec:
    """Return a spec with an example language or an empty question, if its instruction needs either."""
    if _tells_language(spec):
        return _in_language(spec, _EXAMPLE_LANGUAGE)
    return spec if templates.questions(spec.params) is None else asking(spec, "")


def traits_by(coder_of: Callable[[Spec], Coder], spec: Spec) -> Traits:
    """Return the coders for detected languages and for questions. ``coder_of`` makes a spec's coder.

    Raises CannotServe for a question that leaves no room for text.
    """

    @cache
    def in_language(language: str) -> Coder:
        return coder_of(_in_language(spec, language))

    @lru_cache(_REMEMBERED)
    def beside(question: str) -> Coder:
        return coder_of(asking(spec, question))

    require_room(spec.params, beside)
    asks = templates.questions(spec.params) is not None
    return Traits(language_coders=in_language if _tells_language(spec) else None, pairs=beside if asks else None)


def conversation(spec: Spec, text: str) -> list[dict[str, Any]]:
    """Return a text's chat messages. If they have no system prompt, the spec's is added."""
    messages = templates.as_messages(text) or [{"role": "user", "content": text}]
    system = spec.params.get("system")
    if system is None or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": system}, *messages]


def _tells_language(spec: Spec) -> bool:
    """Return True if the instruction names each text's detected language."""
    return spec.params.get("source_lang") == languages.AUTO and "prompt" not in spec.params


def _in_language(spec: Spec, language: str) -> Spec:
    return replace(spec, params={**spec.params, "source_lang": language})
