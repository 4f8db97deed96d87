"""The parts of every kind of task: its declaration, and the recipe that cuts a text and joins its outputs.

Recipes raise these flags. Readers and checks (``tasks.checks``) raise others.

``windowed``
    A paragraph (translate), a sentence (summarize by sentences) or the text (other kinds) was longer than the model's
    window.
``reduced``
    summarize: the text was longer than the window; the summaries of its windows were summarized again.
``not_reduced``
    summarize: the summaries of the windows were hardly shorter than the text, and are joined without another round.
``output_truncated``
    summarize, translate, generate, written answers: an output stopped at the model's limit, and may lack its end.
``empty_window``
    translate, generate: the model wrote nothing for a window.
``language:fr``, ``language_uncertain``
    translate from auto: the detected language. For texts of a few words the guess is uncertain.
``already_in_target``
    translate from auto: the text is already in the target language, and is its own translation.
``empty``
    summarize, translate, generate: the model wrote nothing for the whole text, or the text has no sentence.

The confidence of an outcome, from 0 to 1, says how sure the model was. It is not the probability that the outcome is
right. Each head has its own measure. The confidence of a written text is the geometric mean of its tokens'
probabilities: ``exp`` of the mean of their log-probabilities. These come from the softmax over the model's logits,
before a temperature, a penalty, a grammar or another processor changes them. The token that ends an output counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from docmill.storage.core.specs import WRITING_SIZE, Outcome, Reason, ShardSize, Spec, Status, StoredKind
from docmill.storage.outputs.output_types import Output as StoredOutput
from docmill.storage.outputs.output_types import OutputType
from docmill.tasks.checks import NONE, Checks
from docmill.tasks.errors import BadOption, ModelUnsuitable, TaskError
from docmill.tasks.kinds.options import KindOptions, Searching
from docmill.tasks.models import weightless
from docmill.tasks.models.families import PREFIXED, UNKNOWN, Direction, Family, classifier, family, stateful
from docmill.tasks.models.sentence_modules import Prompts
from docmill.tasks.outputs import TRAINED, Generated, Head, Likelihood, Output, Scale, Several
from docmill.tasks.prompts import PromptFrame
from docmill.tasks.windows.windows import Coder, Window, WordReader, cut

NOT_FINITE = "The model's scores for this text are not finite."


def confidence_of_text(outputs: Sequence[Output | None]) -> tuple[float | None, float | None, float | None]:
    """Return the confidence, the mean and the least log-probability of a written text, from its windows.

    If a window has several outputs, the first counts. All three are None if the likelihood of a window is unknown.
    """
    likelihoods = likelihoods_of(outputs)
    known = [likelihood for likelihood in likelihoods if likelihood is not None]
    tokens = sum(likelihood.tokens for likelihood in known)
    if not tokens or len(known) < len(likelihoods):
        return None, None, None
    mean = min(0.0, math.fsum(likelihood.total for likelihood in known) / tokens)
    leasts = [likelihood.least for likelihood in known if likelihood.least is not None]
    least_logprob = min(0.0, *leasts) if len(leasts) == len(known) else None
    return math.exp(mean), mean, least_logprob


def likelihoods_of(outputs: Sequence[Output | None]) -> list[Likelihood | None]:
    """Return the likelihood of the first written output of each window; None if it is unknown."""
    return [texts[0].likelihood for texts in map(written_texts, outputs) if texts]


def written_texts(output: Output | None) -> Sequence[Generated]:
    """Return the texts that a model wrote for a window; [] for other outputs."""
    if isinstance(output, Several):
        return output.outputs
    return [output] if isinstance(output, Generated) else []


def least(scores: Iterable[float | None]) -> float | None:
    """Return the least known score as a confidence; None if there is none."""
    known = [score for score in scores if score is not None]
    return _bounded(min(known)) if known else None


def margin(scores: Sequence[float], scale: Scale) -> float | None:
    """Return the margin of labels' scores: the best score minus the second.

    If each label is scored by itself, return the smallest margin between yes and no. None for scores that make no
    choice.
    """
    if scale == "free" or not scores:
        return None
    if scale == "each" or len(scores) == 1:
        return _bounded(min(abs(2 * score - 1) for score in scores))
    best, second, *_ = sorted(scores, reverse=True)
    return _bounded(best - second)


def _bounded(value: float) -> float | None:
    return min(1.0, max(0.0, value)) if math.isfinite(value) else None


@dataclass(frozen=True, slots=True)
class Traits:
    """Facts about a model that a recipe needs.

    ``normalizes``: the model's vectors have length 1.
    ``language_coders``: returns the coder of a language, for a model that must be told the language of each text.
    ``languages``: plain codes of the languages with such a coder; None means all languages with an English name.
    ``direction``: the languages of a translation model.
    ``pairs``: returns the coder that puts a sentence beside every text, for a model that reads pairs of texts.
    ``words``: finds the words of texts, for a GLiNER model.
    """

    normalizes: bool = False
    language_coders: Callable[[str], Coder] | None = None
    languages: frozenset[str] | None = None
    direction: Direction = UNKNOWN
    pairs: Callable[[str], Coder] | None = None
    words: WordReader | None = None


@dataclass(frozen=True, slots=True)
class Computed:
    """A text whose windows are computed. ``outputs`` has an entry for each window, None for a copied window.

    The token counts include earlier rounds.
    """

    content_id: int
    text: str
    windows: Sequence[Window]
    outputs: Sequence[Output | None]
    tokens_in: int
    tokens_out: int

    def done(
        self,
        output: str | StoredOutput,
        *,
        flags: Iterable[str] = (),
        confidence: float | None = None,
    ) -> Outcome:
        """Return the outcome of the text with this output: a text, or a value of the kind's output type.

        Without a ``confidence``, the outcome has that of the written text, if there is one. If a probability is NaN,
        the outcome is a failure of the model.
        """
        if any(
            likelihood is not None and math.isnan(likelihood.total) for likelihood in likelihoods_of(self.outputs)
        ):
            return self.failed(NOT_FINITE)
        stored = StoredOutput(text=output) if isinstance(output, str) else output
        done = Outcome.done(
            self.content_id, stored, flags=tuple(flags), tokens_in=self.tokens_in, tokens_out=self.tokens_out
        )
        if confidence is not None:
            return replace(done, confidence=confidence)
        sure, mean_logprob, least_logprob = confidence_of_text(self.outputs)
        return replace(done, confidence=sure, mean_logprob=mean_logprob, least_logprob=least_logprob)

    def failed(self, reason: str, reason_class: Reason = Reason.MODEL, flags: tuple[str, ...] = ()) -> Outcome:
        """Return the failed outcome of this text. By default the model caused the failure."""
        return Outcome(
            self.content_id,
            Status.FAILED,
            reason=reason,
            reason_class=reason_class,
            flags=flags,
            tokens_in=self.tokens_in,
            tokens_out=self.tokens_out,
        )


@dataclass(frozen=True, slots=True)
class Again:
    """The text for another round, in place of the current text."""

    text: str
    flags: tuple[str, ...] = ()


def windowed(windows: Sequence[Window]) -> tuple[str, ...]:
    """Return the `windowed` flag if any section was split."""
    return ("windowed",) if any(window.part for window in windows) else ()


class Recipe(Protocol):
    """Cuts texts and joins outputs for a spec. It has no state, and several threads call it.

    By default a text is one section, which is cut to fit the model's window.
    """

    def cut(self, texts: Sequence[str], coder: Coder) -> list[list[Window]]:
        return cut(texts, coder)

    def join(self, computed: Computed) -> Outcome | Again: ...


@dataclass(frozen=True)
class TextOnly:
    """The recipe of a kind that needs no model. ``outcome`` returns the outcome of a text."""

    outcome: Callable[[Computed], Outcome]

    def cut(self, texts: Sequence[str], coder: Coder) -> list[list[Window]]:
        """Return one window for each text, which no model reads."""
        return [[Window(0, len(text), None)] for text in texts]

    def join(self, computed: Computed) -> Outcome:
        return self.outcome(computed)


@dataclass(frozen=True)
class BuiltIn:
    """The built-in words that tell a model to do a kind of task.

    ``chat`` returns them for a model that follows instructions; ``pattern`` for a base model, after demonstrations if
    its second argument is true. ``settings`` is the task's name in the config of a T5 or BART. ``prefix`` are the
    words before each window for a T5 whose config has none. ``languages``: models are told a source and a target
    language.
    """

    chat: Callable[[Spec], PromptFrame]
    pattern: Callable[[Spec, bool], PromptFrame]
    settings: str
    prefix: str = ""
    languages: bool = False


@dataclass(frozen=True)
class Plan:
    """The options of a job, and its model.

    ``config`` is the model's config.json; {} if it is not available. ``stated`` are an embedding model's own prompts;
    None if they are unknown.
    """

    options: Mapping[str, Any]
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


_OF_WRITERS = {*Searching.model_fields, "prefix"} - {*KindOptions.model_fields}


def require_no_writing(plan: Plan, does: str, shared: Collection[str] = ()) -> None:
    """Raise BadOption for an option of models that write. The plan's model ``does`` something else.

    The ``shared`` options have a meaning for both.
    """
    if of_writers := plan.options.keys() & _OF_WRITERS - {*shared}:
        flag = f"--{min(of_writers).replace('_', '-')}"
        raise BadOption(f"{flag} is for models that write; {plan.model} {does}.")


@dataclass(frozen=True, kw_only=True)
class TaskKind:
    """The declaration of a kind of task: one module in ``tasks.kinds``, and one line in its registry.

    ``name``: the name of the task and of its lane.
    ``summary``: one sentence for the help.
    ``options``: the pydantic model of its options.
    ``output``: the type of output.
    ``recipe``: returns the recipe of a spec.
    ``verb``: the task as a verb, if the name is none.
    ``families``: the families of models that can do the task, each with its head. A kind without any needs no model.
    ``params``: checks the options against the model, and returns further parameters of the spec. Raises BadOption.
    ``example``: the source and the options of the example in the command's help.
    ``default_model``: the model of a job that names none.
    ``other_models``: two models on the hub, for texts that the default model does not know.
    ``built_in``: the words that tell a model to do the task.
    ``shard``: the bounds of a shard.
    ``null_words``: the number of words that the null model repeats; None means all words.
    ``headless_with``: an option with which an encoder without the trained head can do the task, too.
    ``headless_model``: the default model with that option.
    ``marks``: by head, the parameter that only specs for this head have.
    ``checks``: returns the checks for the outputs of a spec by a model for these languages.
    ``heading``: the heading of the outputs' column in tables.
    """

    name: str
    summary: str
    options: type[KindOptions]
    output: OutputType
    recipe: Callable[[Spec, Traits], Recipe]
    verb: str = ""
    families: Mapping[Family, Head] = field(default_factory=dict)
    params: Callable[[Plan], Mapping[str, Any]] = lambda _plan: {}
    example: str = "corpus.jsonl"
    default_model: str | None = None
    other_models: Callable[[KindOptions], tuple[str, ...]] = lambda _options: ()
    built_in: BuiltIn | None = None
    shard: ShardSize = WRITING_SIZE
    null_words: int | None = None
    headless_with: str | None = None
    headless_model: str | None = None
    marks: Mapping[Head, str] = field(default_factory=dict)
    checks: Callable[[Spec, Direction], Checks] = lambda _spec, _direction: NONE
    heading: str = "output"

    def __post_init__(self) -> None:
        if self.default_model is not None and weightless.is_null(self.default_model):
            raise TaskError(
                f"The default model of {self.name} may not be {self.default_model}, which computes nothing: name "
                "another model, or none."
            )

    def head(self, family: Family | None) -> Head | None:
        """Return the head with which a family does the task; None if it cannot.

        If the config names no family, the model counts as one of the kind's first family.
        """
        return next(iter(self.families.values()), None) if family is None else self.families.get(family)

    def model_for(self, options: KindOptions) -> str | None:
        """Return the model of a job that names none; None if the job must name a model."""
        if self.is_modelless:
            return weightless.NO_MODEL
        return self.headless_model if self.headless_with in options.to_params() else self.default_model

    @property
    def is_modelless(self) -> bool:
        """True for a kind that needs no model: its recipe makes the output from the text."""
        return not self.families

    @property
    def sample_texts(self) -> int:
        """The number of texts that a dry run computes. Models that write are slow, and get few texts."""
        return 12 if self.shard == WRITING_SIZE else 64

    @property
    def stored(self) -> StoredKind:
        """The kind as the store knows it."""
        return StoredKind(self.name, self.output, self.shard, self.heading)

    def pools(self, family: Family | None) -> bool:
        """Return True if models of this family compute vectors for this kind."""
        return self.head(family) is Head.POOLING

    def suits_family(self, config: Mapping[str, Any]) -> bool:
        """Return True if a model's family can do this kind of task."""
        return self._usable_head(config) is not None

    def is_headless(self, config: Mapping[str, Any], options: Collection[str]) -> bool:
        """Return True if with these options an encoder does the task by its vectors, without a trained head."""
        lacks = family(config) is Family.ENCODER and self._usable_head(config) is None
        return lacks and self.headless_with in options

    def adapted_head(self, spec: Spec, config: Mapping[str, Any]) -> Head:
        """Return the head of a spec with an adapter: POOLING for an encoder without the trained head.

        Raises ModelUnsuitable.
        """
        if self.is_headless(config, spec.params):
            return Head.POOLING
        return self.require_head(config, spec.model)

    def require_head(self, config: Mapping[str, Any], model: str) -> Head:
        """Return the head with which a model does the task. Raises ModelUnsuitable if its family cannot."""
        head = self.head(family(config))
        if head is None:
            self.require(config, model)
            raise AssertionError(self.name)
        return head

    def require(self, config: Mapping[str, Any], model: str, options: Collection[str] = ()) -> None:
        """Raise ModelUnsuitable unless the model can do this kind of task with these ``options``.

        Accepts an empty config.
        """
        if self.is_modelless and model != weightless.NO_MODEL and not weightless.is_null(model):
            raise ModelUnsuitable(f"{self.name} needs no model: leave --model out.")
        if model == weightless.NO_MODEL and not self.is_modelless:
            raise ModelUnsuitable(f"{self.name} needs a model: name it with --model.")
        known, head = family(config), self._usable_head(config)
        is_recurrent = head is Head.CAUSAL_TEXT and stateful(config)  # docmill does not write with such a model
        if known is None or (head is not None and not is_recurrent):
            return
        if self.is_headless(config, options) or self._scores(config, options):
            return
        model_type = config.get("model_type")
        if is_recurrent:
            raise ModelUnsuitable(
                f"{self.name} needs a decoder-only model that keeps keys and values; {model} is a state space or "
                f"recurrent model ({model_type}), which keeps a state in their place."
            )
        if self._scores(config, {self.headless_with}):
            raise ModelUnsuitable(
                f"{self.name} needs --{self.headless_with} with {model}, which is decoder-only ({model_type})."
            )
        architecture = ", ".join(config.get("architectures") or [str(model_type)])
        if (trained := self.families.get(known)) in TRAINED:
            option = self.headless_with
            instead = f", or --{option}" if option is not None and option not in options else ""
            raise ModelUnsuitable(
                f"{self.name} needs a model with a head for {trained}{instead}; {model} ({architecture}) has none."
            )
        if known is not Family.ENCODER and self._has_trained_head(config):
            raise ModelUnsuitable(
                f"{self.name} reads a head for {classifier(config)} from encoder-only models; {model} "
                f"({architecture}) is {known} and has such a head in place of the one that writes."
            )
        only_t5 = self.families.get(Family.SEQ2SEQ) is Head.POOLING
        named = [_with_article(able) for able in self.families if not (only_t5 and able is Family.SEQ2SEQ)]
        wanted = f"{' or '.join(named)} model{', or a T5' if only_t5 else ''}"
        raise ModelUnsuitable(f"{self.name} needs {wanted}; {model} is {known} ({model_type}).")

    def _scores(self, config: Mapping[str, Any], options: Collection[str | None]) -> bool:
        """Return True if with these options a decoder-only model does the task by the likelihood of labels."""
        writes = family(config) is Family.DECODER and not stateful(config) and not self._has_trained_head(config)
        return self.families.get(Family.DECODER) is Head.LIKELIHOOD and writes and self.headless_with in options

    def _usable_head(self, config: Mapping[str, Any]) -> Head | None:
        """Return the head with which a model does the task. Among encoder-decoders, only T5's encoder pools."""
        known = family(config)
        head = None if known is None else self.families.get(known)
        if known is Family.SEQ2SEQ and head is Head.POOLING and str(config.get("model_type")) not in PREFIXED:
            return None
        if head is Head.LIKELIHOOD:  # usable with labels only
            return None
        if head in TRAINED and config.get("architectures") and classifier(config) != head:
            return None
        if head not in TRAINED and self._has_trained_head(config):
            return None
        return head

    def _has_trained_head(self, config: Mapping[str, Any]) -> bool:
        """Return True if a model of any family has the trained head of this kind of task."""
        return any(classifier(config) == head for head in self.families.values() if head in TRAINED)


def _with_article(family: Family) -> str:
    return f"{'a' if family in {Family.DECODER, Family.GLINER} else 'an'} {family}"


def pattern(source: str, wanted: str, shown: Iterable[tuple[str, str]]) -> PromptFrame:
    """Return a pattern that a base model completes, after demonstrations."""
    before = "".join(f"{source}: {text}\n{wanted}: {output}\n\n" for text, output in shown)
    return PromptFrame(f"{before}{source}: ", f"\n{wanted}:")
