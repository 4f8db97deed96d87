"""From what was asked to a spec: pure, and the same on a machine that has no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from storage.specs import Spec
from tasks import directions, families, languages
from tasks.errors import BadOption

if TYPE_CHECKING:
    from tasks.models import Pinned

# Version of our windowing and joining: a change that changes outputs makes new specs.
ALGORITHM = 2

QUALITIES: Mapping[str, str] = {
    "auto": "native",
    "native": "native",
    "float32": "float32",
    "fp32": "float32",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "float16": "float16",
    "fp16": "float16",
}
POOLINGS = ("cls", "mean", "last")
WINDOWS = ("mean", "all")
_MIN_WINDOW_TOKENS = 8
_NAMES = {"source_lang": "--from", "target_lang": "--to", "window_tokens": "--window-tokens"}
_ALLOWED: Mapping[str, frozenset[str]] = {
    "summarize": frozenset({"beams", "max_new_tokens", "window_tokens"}),
    "translate": frozenset({"source_lang", "target_lang", "beams", "max_new_tokens", "window_tokens"}),
    "embed": frozenset({"pooling", "window_tokens", "windows"}),
}


@dataclass(frozen=True)
class Options:
    """What may be asked of a model; None is the model's own choice.

    ``windows``: what to keep of a text longer than the model's window, for embed: ``mean`` of the windows'
    vectors, or ``all`` of them.
    """

    source_lang: str | None = None
    target_lang: str | None = None
    beams: int | None = None
    max_new_tokens: int | None = None
    pooling: str | None = None
    dtype: str = "auto"
    window_tokens: int | None = None
    windows: str | None = None

    def asked(self) -> dict[str, Any]:
        """The options that were given, but for the precision."""
        return {name: value for name, value in vars(self).items() if value is not None and name != "dtype"}


def build_spec(kind: str, pinned: Pinned, options: Options, config: Mapping[str, Any]) -> Spec:
    """The spec of ``kind`` by the pinned model; ``config`` is its config.json, or {} where it is not at hand.

    Raises BadOption for an option that does not fit, ModelUnsuitable for a model of the wrong family.
    """
    if kind not in families.SUITS:
        raise BadOption(f"No such task: {kind}; there are {', '.join(families.KINDS)}.")
    families.require(kind, config, pinned.model)
    asked = options.asked()
    for name in asked:
        if name not in _ALLOWED[kind]:
            raise BadOption(f"{_option(name)} has no meaning for {kind}.")
    _check_values(asked)
    if kind == "translate":
        _check_languages(asked, config, pinned)
    if options.dtype not in QUALITIES:
        raise BadOption(f"--dtype {options.dtype}: choose one of {', '.join(QUALITIES)}.")
    return Spec(
        kind=kind,
        model=pinned.model,
        revision=pinned.revision,
        quality=QUALITIES[options.dtype],
        params={**asked, "algorithm": ALGORITHM},
    )


def _option(name: str) -> str:
    return _NAMES.get(name, "--" + name.replace("_", "-"))


def _check_values(asked: Mapping[str, Any]) -> None:
    for name, least in (("beams", 1), ("max_new_tokens", 1), ("window_tokens", _MIN_WINDOW_TOKENS)):
        if name in asked and asked[name] < least:
            raise BadOption(f"{_option(name)} must be at least {least}.")
    for name, choices in (("pooling", POOLINGS), ("windows", WINDOWS)):
        if name in asked and asked[name] not in choices:
            raise BadOption(f"{_option(name)} {asked[name]}: choose one of {', '.join(choices)}.")


def _check_languages(asked: Mapping[str, Any], config: Mapping[str, Any], pinned: Pinned) -> None:
    for name in ("source_lang", "target_lang"):
        if name in asked:
            languages.known(asked[name], _option(name))
    model_type = config.get("model_type")
    tells = families.MULTILINGUAL | families.PREFIXED
    if model_type in tells and not {"source_lang", "target_lang"} <= asked.keys():
        raise BadOption(f"{pinned.model} translates between several languages: give --from and --to.")
    directions.require(pinned.direction, asked.get("source_lang"), asked.get("target_lang"), pinned.model)
