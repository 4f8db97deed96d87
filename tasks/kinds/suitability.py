"""Models held against kinds of task: which tasks a model can do, by its family and its config.json."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from storage.core.specs import Spec
from tasks import kinds
from tasks.errors import ModelUnsuitable
from tasks.kinds.base import TaskKind
from tasks.models.families import PREFIXED, Family, classifier, family, stateful
from tasks.outputs import TRAINED, Head

_ARTICLED: Mapping[Family, str] = {family: f"an {family}" for family in Family} | {
    family: f"a {family}" for family in (Family.DECODER, Family.GLINER)
}


def suits(kind: str, config: Mapping[str, Any]) -> bool:
    """Return True if a model can do this kind of task. A model with recurrent layers writes no text here."""
    head = _head(kinds.kind(kind), config)
    return head is not None and not (head is Head.CAUSAL_TEXT and stateful(config))


def suits_family(kind: str, config: Mapping[str, Any]) -> bool:
    """Return True if a model's family can do this kind of task."""
    return _head(kinds.kind(kind), config) is not None


def require(kind: str, config: Mapping[str, Any], model: str, asked: Collection[str] = ()) -> None:
    """Raise ModelUnsuitable unless the model can do this kind of task with the options ``asked``.

    An empty config passes. Raises UnknownKind.
    """
    wanted, found = kinds.kind(kind), family(config)
    if found is None or suits(kind, config) or headless(kind, config, asked) or scores(kind, config, asked):
        return
    model_type = config.get("model_type")
    if suits_family(kind, config):
        raise ModelUnsuitable(
            f"{kind} needs a decoder-only model that keeps keys and values; {model} is a state space or recurrent "
            f"model ({model_type}), which keeps a state in their place."
        )
    if scores(kind, config, {wanted.headless_with}):
        raise ModelUnsuitable(
            f"{kind} needs --{wanted.headless_with} with {model}, which is decoder-only ({model_type})."
        )
    if (head := wanted.families.get(found)) in TRAINED:
        option = wanted.headless_with
        instead = f", or --{option}" if option is not None and option not in asked else ""
        raise ModelUnsuitable(
            f"{kind} needs a model with a head for {head}{instead}; {model} ({_architecture(config)}) has none."
        )
    if found is not Family.ENCODER and _trained_for(wanted, config):
        raise ModelUnsuitable(
            f"{kind} reads a head for {classifier(config)} from encoder-only models; {model} "
            f"({_architecture(config)}) is {found} and has such a head in place of the one that writes."
        )
    raise ModelUnsuitable(f"{kind} needs {_wanted(wanted)}; {model} is {found} ({model_type}).")


def headless(kind: str, config: Mapping[str, Any], asked: Collection[str]) -> bool:
    """Return True if an encoder does the task without a trained head, by its vectors, with the options ``asked``."""
    wanted = kinds.kind(kind)
    lacks = family(config) is Family.ENCODER and _head(wanted, config) is None
    return lacks and wanted.headless_with in asked


def adapted_head(spec: Spec, config: Mapping[str, Any]) -> Head:
    """Return the head that a model does a spec's task with; classifying by vectors has that of embeddings.

    Raises ModelUnsuitable.
    """
    if headless(spec.kind, config, spec.params):
        return Head.POOLING
    head = kinds.kind(spec.kind).head(family(config))
    if head is None:
        require(spec.kind, config, spec.model)
        raise AssertionError(spec.kind)
    return head


def scores(kind: str, config: Mapping[str, Any], asked: Collection[str | None]) -> bool:
    """Return True if a decoder-only model does the task by the likelihood of labels, with the options ``asked``."""
    wanted = kinds.kind(kind)
    of_family = Family.DECODER in wanted.families and wanted.families[Family.DECODER] is Head.LIKELIHOOD
    writes = family(config) is Family.DECODER and not stateful(config) and not _trained_for(wanted, config)
    return of_family and writes and wanted.headless_with in asked


def _head(kind: TaskKind, config: Mapping[str, Any]) -> Head | None:
    """Return the head that a model does this kind of task with. Of encoder-decoders only T5's encoder pools."""
    found = family(config)
    head = None if found is None else kind.families.get(found)
    if found is Family.SEQ2SEQ and head is Head.POOLING and str(config.get("model_type")) not in PREFIXED:
        return None
    if head is Head.LIKELIHOOD:  # of a model without labels of its own
        return None
    if head in TRAINED and config.get("architectures") and classifier(config) != head:
        return None
    if head not in TRAINED and _trained_for(kind, config):
        return None
    return head


def _trained_for(kind: TaskKind, config: Mapping[str, Any]) -> bool:
    """Return True if a model has the trained head of a kind of task, in whatever family."""
    return any(classifier(config) == head for head in kind.families.values() if head in TRAINED)


def _architecture(config: Mapping[str, Any]) -> str:
    return ", ".join(config.get("architectures") or [str(config.get("model_type"))])


def _wanted(kind: TaskKind) -> str:
    """Return the models that a kind of task needs, as a sentence names them."""
    only_t5 = kind.families.get(Family.SEQ2SEQ) is Head.POOLING
    named = [_ARTICLED[one] for one in kind.families if not (only_t5 and one is Family.SEQ2SEQ)]
    return f"{' or '.join(named)} model{', or a T5' if only_t5 else ''}"
