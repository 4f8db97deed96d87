"""The parts that every kind of task has: its declaration, and the recipe that cuts a text and joins its outputs.

The flags of an outcome, beside those that the document itself brings from its reading:

``windowed``
    translate, embed, sparse, generate, classify, entities, redact, extract, answer: something that the task computes
    as one (a paragraph; for tasks other than translate the whole text) was longer than the model's window, and was
    computed in several. summarize by sentences: a sentence was.
``reduced``
    summarize: the text was longer than the window; the summaries of its windows were summarised again.
``not_reduced``
    summarize: those summaries together were hardly shorter than the text, and stand one after the other.
``output_truncated``
    summarize, translate, generate, written answers: an output stopped at the model's limit, and may lack its end.
``empty_window``
    translate, generate: of some window the model made nothing.
``language:fr``, ``language_uncertain``
    translate from auto: what was found; of texts of a few words the guess is unsure, and may be wrong.
``already_in_target``
    translate from auto: the text is in the language asked for, and is its own translation.
``empty``
    summarize, generate: of the whole text the model made nothing, or there is no sentence in it.

Those that the checks of outputs raise stand in ``tasks.checks``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from storage.core.kinds import WRITING_SIZE, ShardSize, StoredKind
from storage.core.outcomes import Outcome, Reason, Status
from storage.core.specs import Spec
from storage.outputs.base import OutputType
from tasks import checks
from tasks.checks import Checks
from tasks.errors import TaskError
from tasks.kinds.confidence import Confidence, written
from tasks.kinds.options import KindOptions
from tasks.models import null
from tasks.models.families import Family, family
from tasks.models.language_pairs import UNKNOWN, Direction
from tasks.models.named_prompts import Prompts
from tasks.outputs import Head, Output
from tasks.prompts import Template
from tasks.windows.windows import Coder, LanguageCoders, Window
from tasks.windows.word_windows import WordReader


@dataclass(frozen=True, slots=True)
class Traits:
    """Facts about a model that a recipe needs.

    ``normalizes``: its vectors have length 1. ``language_coders``: how the model is told the language of a text,
    where the languages of texts are to be found. ``direction``: the languages that a translation model is made for.
    ``pairs``: from a sentence to the coder that puts it after every text, for a model that reads pairs of texts.
    ``words``: the words of texts, for a model that reads words and finds labels that are given by name.
    """

    normalizes: bool = False
    language_coders: LanguageCoders | None = None
    direction: Direction = UNKNOWN
    pairs: Callable[[str], Coder] | None = None
    words: WordReader | None = None


@dataclass(frozen=True, slots=True)
class Computed:
    """A text whose windows are computed: ``outputs`` has one entry per window, None for copied ones.

    The token counts include earlier rounds; ``round`` counts from 1.
    """

    content_id: int
    text: str
    windows: Sequence[Window]
    outputs: Sequence[Output | None]
    round: int
    tokens_in: int
    tokens_out: int

    def done(
        self,
        text: str | None = None,
        *,
        vector: bytes | None = None,
        data: dict[str, Any] | None = None,
        flags: Iterable[str] = (),
        confidence: Confidence | None = None,
    ) -> Outcome:
        """Return the outcome of the text, with its output as its type stores it.

        Without a ``confidence`` it is that of what a model wrote, if one did.
        """
        sure = written(self.outputs) if confidence is None else confidence
        return Outcome(
            self.content_id,
            Status.DONE,
            text=text,
            vector=vector,
            data=data,
            flags=tuple(flags),
            tokens_in=self.tokens_in,
            tokens_out=self.tokens_out,
            confidence=sure.confidence,
            mean_logprob=sure.mean_logprob,
            least_logprob=sure.least_logprob,
        )

    def failed(self, reason: str) -> Outcome:
        """Return a failure of the model at this text."""
        found = Outcome(self.content_id, Status.FAILED, reason=reason, reason_class=Reason.MODEL)
        return replace(found, tokens_in=self.tokens_in, tokens_out=self.tokens_out)


@dataclass(frozen=True, slots=True)
class Again:
    """The text is not done: compute this one next, in its place."""

    text: str
    flags: tuple[str, ...] = field(default=())


def windowed(windows: Sequence[Window]) -> tuple[str, ...]:
    """Return the `windowed` flag if any section was split."""
    return ("windowed",) if any(window.part for window in windows) else ()


class Recipe(Protocol):
    """One kind of task under one spec; stateless, and called from several threads."""

    def cut(self, texts: Sequence[str], coder: Coder) -> list[list[Window]]: ...

    def join(self, computed: Computed) -> Outcome | Again: ...


@dataclass(frozen=True)
class BuiltIn:
    """The built-in words that tell a model to do a kind of task.

    ``chat`` gives them for a model that follows instructions, ``pattern`` for a base model, which sees
    demonstrations first if its second argument is true. ``settings`` is the name under which the config of a T5 or
    BART keeps settings for the task, ``prefix`` the words before each window for a T5 whose config has none.
    ``languages``: the task goes from one language into another, and models are told both.
    """

    chat: Callable[[Spec], Template]
    pattern: Callable[[Spec, bool], Template]
    settings: str
    prefix: str = ""
    languages: bool = False


@dataclass(frozen=True)
class Plan:
    """Options that were given, and the model that is to work under them.

    ``config`` is the model's config.json, or {} where it is not at hand; ``stated`` are an embedding model's own
    prompts, None where they are not known.
    """

    given: Mapping[str, Any]
    model: str
    direction: Direction
    config: Mapping[str, Any]
    stated: Prompts | None

    @property
    def family(self) -> Family | None:
        return family(self.config)

    @property
    def model_type(self) -> str | None:
        return self.config.get("model_type")


def no_checks(_spec: Spec, _direction: Direction) -> Checks:
    """Return no checks: the output is no text that a model wrote."""
    return checks.NONE


def nothing_more(_plan: Plan) -> Mapping[str, Any]:
    """Return no parameters beyond those that were asked for."""
    return {}


@dataclass(frozen=True)
class TaskKind:
    """The declaration of a kind of task: one module in ``tasks.kinds``, and one line in its registry.

    ``name`` is also the kind's lane. ``families`` has the families of models that can do the task, each with the
    head that it is done with. ``params`` checks the options against the model and returns the spec's parameters
    beyond those that were asked for; it raises BadOption. ``other_models`` names two models of the hub for texts
    that the default model does not know. ``sample_texts`` is how many texts a dry run computes. ``null_words`` is
    how many words the null model writes; None is all of them. ``headless_with`` names an option with which an
    encoder without the trained head does the task, too, and ``headless_model`` the default model then. ``marks`` has
    the parameter that specs for a head have, where those for another lack it. ``checks`` returns the checks that suit
    the outputs under a spec, by a model of known languages.
    """

    name: str
    summary: str
    options: type[KindOptions]
    output: OutputType
    families: Mapping[Family, Head]
    recipe: Callable[[Spec, Traits], Recipe]
    params: Callable[[Plan], Mapping[str, Any]] = nothing_more
    default_model: str | None = None
    other_models: Callable[[KindOptions], tuple[str, ...]] = lambda _options: ()
    built_in: BuiltIn | None = None
    shard: ShardSize = WRITING_SIZE
    sample_texts: int = 12
    null_words: int | None = None
    headless_with: str | None = None
    headless_model: str | None = None
    marks: Mapping[Head, str] = field(default_factory=dict)
    checks: Callable[[Spec, Direction], Checks] = no_checks

    def __post_init__(self) -> None:
        if self.default_model is not None and null.is_null(self.default_model):
            raise TaskError(
                f"The default model of {self.name} may not be {self.default_model}, which computes nothing: name "
                "another model, or none."
            )

    def head(self, family: Family | None) -> Head | None:
        """Return the head that the task is done with; None if the family cannot do it.

        A model whose config names no family is taken for one of the kind's first family.
        """
        return next(iter(self.families.values())) if family is None else self.families.get(family)

    def model_for(self, options: KindOptions) -> str | None:
        """Return the model of a job that names none; None if it has to name one."""
        return self.headless_model if self.headless_with in options.given() else self.default_model

    @property
    def stored(self) -> StoredKind:
        """The kind as the store knows it."""
        return StoredKind(self.name, self.output, self.shard)

    def pools(self, family: Family | None) -> bool:
        """Return True for a kind that gets vectors from models of this family."""
        return self.head(family) is Head.POOLING


def pattern(given: str, wanted: str, shown: Iterable[tuple[str, str]]) -> Template:
    """Return a pattern that a base model completes, after demonstrations of it."""
    before = "".join(f"{given}: {text}\n{wanted}: {output}\n\n" for text, output in shown)
    return Template(f"{before}{given}: ", f"\n{wanted}:")
