"""Make a spec from a kind of task, a model and options. The result is the same on a machine without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from docmill.storage.core.specs import Spec
from docmill.tasks import kinds, prompts
from docmill.tasks.backends import selection
from docmill.tasks.errors import BadOption
from docmill.tasks.kinds.base import Plan, TaskKind
from docmill.tasks.kinds.options import MIN_WINDOW_TOKENS, KindOptions, flag, option
from docmill.tasks.models import families, served
from docmill.tasks.models.families import Family
from docmill.tasks.models.named_prompts import Prompts

if TYPE_CHECKING:
    from docmill.tasks.specs.pinning import Pinned

# Version of our windowing and joining: a change that changes outputs makes new specs.
ALGORITHM = 2


def build_spec(
    kind: str, pinned: Pinned, options: KindOptions, config: Mapping[str, Any], stated: Prompts | None = None
) -> Spec:
    """Return the spec of ``kind`` by the pinned model; ``config`` is its config.json, or {} where it is not at hand.

    ``stated`` are an embedding model's own prompts, None where they are not known.

    Raises UnknownKind, BadOption for an option that does not fit, ModelUnsuitable for a model of the wrong family.
    """
    found = kinds.kind(kind)
    kinds.kind(kind).require(config, pinned.model, options.given())
    plan = Plan(options.given(), pinned.model, pinned.direction, config, stated)
    _check_options(found, plan)
    _check_search(plan.given)
    if "adapter" in plan.given and "adapter" not in pinned.beside:
        raise BadOption("--adapter is of one model; merge it into its base, and name the merged folder.")
    if "tokenizer" in plan.given and "tokenizer" not in pinned.beside:
        raise BadOption("--tokenizer is for one model on a server: leave it out.")
    params = {**plan.given, **found.params(plan), **_built_in(found, plan), **pinned.beside}
    if served.is_served(pinned.model):
        _check_served(plan, options.quality)
    elif config:
        selection.require_possible(kind, plan.family, options.quality, pinned.model)
        _check_room(plan, params.get("max_new_tokens"))
    return Spec(
        kind=kind,
        model=pinned.model,
        revision=pinned.revision,
        quality=options.quality,
        params={**params, "algorithm": ALGORITHM},
    )


def _check_options(kind: TaskKind, plan: Plan) -> None:
    """Raise BadOption for options of another kind, those of another family, and a template that is none."""
    fields = kind.options.model_fields
    kinds.require_options(kind.name, plan.given)
    for name in sorted(plan.given):
        said, value = option(fields[name]), plan.given[name]
        if said.is_template:
            prompts.check(value)
        if said.only is not None and plan.family not in {None, said.only} and value != said.any_takes:
            instead = f": {said.instead}" if said.instead else ""
            raise BadOption(
                f"{flag(name, fields[name])} is for {said.only} models; {plan.model} is {plan.family}{instead}."
            )


def _check_served(plan: Plan, quality: str) -> None:
    """Raise BadOption for options that a server does not have."""
    if quality != "native":
        raise BadOption(f"The server chooses the precision of {plan.model}: leave --dtype and DOCMILL_DTYPE out.")
    for name in ("no_repeat_ngram_size", "pooling", "raw"):
        if name in plan.given:
            raise BadOption(f"A server has no --{name.replace('_', '-')}: leave it out for {plan.model}.")


def _check_search(given: Mapping[str, Any]) -> None:
    """Raise BadOption for options that exclude one another."""
    least, most = given.get("min_new_tokens") or 0, given.get("max_new_tokens")
    if most is not None and least > most:
        raise BadOption(f"--min-new-tokens {least:,} is more than --max-new-tokens {most:,}.")
    for name in ("length_penalty", "early_stopping"):
        if name in given and given.get("beams") == 1:
            raise BadOption(f"--{name.replace('_', '-')} is for a search by beams: give --beams 2 or more with it.")


def _built_in(kind: TaskKind, plan: Plan) -> dict[str, Any]:
    """Return the version of the built-in instructions, if a model gets them, and an empty prefix for some T5.

    A T5 gets it if its files and family know no words for the task; specs from before had the usual words.
    """
    if kind.built_in is None:
        return {}
    if plan.family is Family.DECODER:
        return {} if "prompt" in plan.given else {"instructions": kinds.INSTRUCTIONS}
    unknown = plan.model_type in families.PREFIXED and not families.knows_prefix(plan.config, kind.built_in.settings)
    return {"prefix": ""} if kind.built_in.prefix and unknown and "prefix" not in plan.given else {}


def _check_room(plan: Plan, wanted: int | None) -> None:
    """Raise BadOption if the longest output does not fit in the positions that the model's config names."""
    holds = families.positions(plan.config)
    if wanted is None or holds is None:
        return
    most = holds - MIN_WINDOW_TOKENS if plan.family is Family.DECODER else holds
    if wanted > most:
        beside = ", its prompt and a text among them" if plan.family is Family.DECODER else ""
        said = f"--max-new-tokens {wanted:,}" if "max_new_tokens" in plan.given else f"An output of {wanted:,} tokens"
        raise BadOption(f"{said} is more than {plan.model} can write: it holds {holds:,} tokens{beside}.")
