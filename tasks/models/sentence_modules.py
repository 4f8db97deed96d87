"""The modules of an embedding model, as the files of sentence-transformers describe them.

Nearly all such models are a transformer, a pooling, and perhaps linear layers and a normalization. This module reads
these, since importing sentence-transformers takes seconds. The library opens models with anything else in their
files.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from docmill.storage.core.specs import Spec
from docmill.storage.json_values import Json
from docmill.tasks import prompts
from docmill.tasks.errors import CannotServe, Unsuited
from docmill.tasks.models.families import parse_or_none, read_file, read_object
from docmill.tasks.models.weights import ADAPTER_CONFIG

POOLINGS = frozenset({"cls", "max", "mean", "lasttoken"})
MODES: Mapping[str, str] = MappingProxyType({"cls": "cls", "mean": "mean", "last": "lasttoken"})  # by --pooling
# Weights without effect on the last hidden states. Many models are saved without them.
POOLERS = ("pooler.",)
# Types of encoders that transformers opens in the same way for sentence-transformers.
_TYPES = frozenset(
    {
        "albert", "bert", "camembert", "convbert", "deberta-v2", "distilbert", "electra", "modernbert", "mpnet",
        "roberta", "xlm-roberta",
    }
)  # fmt: skip
_LIBRARY = "sentence_transformers."
_TRANSFORMER, _POOLING, _DENSE, _NORMALIZE = "Transformer", "Pooling", "Dense", "Normalize"
# The places of these modules' classes in the releases of the library.
_PLACES: Mapping[str, Set[str]] = MappingProxyType(
    {
        _TRANSFORMER: {"models", "models.Transformer", "base.modules", "base.modules.transformer"},
        _POOLING: {
            "models", "models.Pooling", "sentence_transformer.modules", "sentence_transformer.modules.pooling"
        },
        _DENSE: {"models", "models.Dense", "base.modules", "base.modules.dense"},
        _NORMALIZE: {"models", "models.Normalize", "base.modules", "base.modules.normalize"},
    }
)  # fmt: skip
# Keys of a module's files with the only values that this module reads.
_OF_TRANSFORMER: Mapping[str, Json] = MappingProxyType(
    {
        "do_lower_case": False,
        "transformer_task": "feature-extraction",
        "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
        "module_output_name": "token_embeddings",
    }
)
_OF_VECTORS: Mapping[str, Json] = MappingProxyType(
    {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}
)
_OF_DENSE: Mapping[str, Json] = MappingProxyType({**_OF_VECTORS, "use_residual": False})
_LEGACY_MODES: Mapping[str, str] = MappingProxyType(  # in the order of the poolings
    {
        "pooling_mode_cls_token": "cls",
        "pooling_mode_max_tokens": "max",
        "pooling_mode_mean_tokens": "mean",
        "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
        "pooling_mode_weightedmean_tokens": "weightedmean",
        "pooling_mode_lasttoken": "lasttoken",
    }
)
_ACTIVATIONS: Mapping[str, str] = MappingProxyType(
    {
        "torch.nn.modules.linear.Identity": "none",
        "torch.nn.modules.activation.Tanh": "tanh",
        "torch.nn.modules.activation.ReLU": "relu",
    }
)
# With one of these files transformers opens more than a tokenizer and a model's own weights.
_MORE = (ADAPTER_CONFIG, "chat_template.jinja", "preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True)
class DenseModule:
    """A linear layer with its activation: ``none``, ``tanh`` or ``relu``. ``folder`` has the weights."""

    folder: Path
    activation: str
    bias: bool


@dataclass(frozen=True)
class SentenceModules:
    """A transformer in ``folder``, poolings side by side, and steps: linear layers, and None for a normalization.

    ``max_length`` is the most tokens of a text; None if only the transformer states it. Vectors are cut to
    ``dimensions`` unless that is None.
    """

    folder: Path
    max_length: int | None = None
    poolings: Sequence[str] = ("mean",)
    include_prompt: bool = True
    steps: Sequence[DenseModule | None] = ()
    dimensions: int | None = None
    prompts: Prompts = field(default_factory=lambda: Prompts({"query": "", "document": ""}))


def require_single(poolings: Sequence[str]) -> None:
    """Raise CannotServe if there are several poolings, which --pooling cannot replace."""
    if len(poolings) > 1:
        raise CannotServe("The model joins several poolings; --pooling cannot replace them.")


def read(folder: Path) -> SentenceModules | None:
    """Return the modules in a model's folder; None if the library has to read them."""
    try:
        listed = read_file(folder / "modules.json")
        modules = SentenceModules(folder) if listed is None else _of_list(folder, parse_or_none(listed))
    except Unsuited:
        return None
    config = read_object(modules.folder / "config.json")
    plain = config.get("model_type") in _TYPES and not any(
        config.get(name) for name in ("auto_map", "is_decoder", "output_hidden_states", "quantization_config")
    )
    plain = plain and "chat_template" not in read_object(modules.folder / "tokenizer_config.json")
    return modules if plain and not any((modules.folder / name).exists() for name in _MORE) else None


def _of_list(folder: Path, listed: Json) -> SentenceModules:
    """Return the modules in a ``modules.json``. Raises Unsuited."""
    modules = [_module(folder, module) for module in listed] if isinstance(listed, list) else []
    if [name for name, _ in modules[:2]] != [_TRANSFORMER, _POOLING]:
        raise Unsuited
    (_, transformer), (_, pooling), *others = modules
    poolings, include_prompt = _poolings(read_object(pooling / "config.json"))
    dimensions, prompts = _settings(read_object(folder / "config_sentence_transformers.json"))
    steps = [_step(name, place) for name, place in others]
    length = _max_length(transformer)
    return SentenceModules(transformer, length, poolings, include_prompt, steps, dimensions, prompts)


def _module(folder: Path, listed: Json) -> tuple[str, Path]:
    """Return the name of a listed module's class, and the module's folder."""
    if not isinstance(listed, dict) or not listed.keys() <= {"idx", "name", "path", "type"}:
        raise Unsuited
    kind, path = str(listed.get("type")), listed.get("path")
    place, _, name = kind.removeprefix(_LIBRARY).rpartition(".")
    if not kind.startswith(_LIBRARY) or place not in _PLACES.get(name, ()) or not isinstance(path, str):
        raise Unsuited
    if ".." in PurePosixPath(path).parts or PurePosixPath(path).is_absolute():
        raise Unsuited
    return name, folder / path


def _max_length(folder: Path) -> int | None:
    """Return the most tokens that the library's file in the transformer's folder states."""
    files = sorted(folder.glob("sentence_*_config.json"))
    if not files:
        return None
    config = read_object(files[0])
    _require(config, _OF_TRANSFORMER, {"max_seq_length"})
    if len(files) > 1 or files[0].name != "sentence_bert_config.json" or not config:
        raise Unsuited
    length = config.get("max_seq_length")
    if length is not None and (type(length) is not int or length < 1):
        raise Unsuited
    return length


def _poolings(config: Mapping[str, Json]) -> tuple[Sequence[str], bool]:
    """Return the names of poolings, and True if they read the tokens of a prompt."""
    _require(
        config,
        {},
        {"embedding_dimension", "word_embedding_dimension", "pooling_mode", "include_prompt", *_LEGACY_MODES},
    )
    named = config.get("pooling_mode", [mode for key, mode in _LEGACY_MODES.items() if config.get(key)] or ["mean"])
    poolings = [named] if isinstance(named, str) else named
    if not config or not isinstance(poolings, list) or not poolings or not POOLINGS.issuperset(map(str, poolings)):
        raise Unsuited
    return tuple(map(str, poolings)), config.get("include_prompt", True) is not False


def _settings(config: Mapping[str, Json]) -> tuple[int | None, Prompts]:
    """Return the dimensions to which vectors are cut, and the prompts."""
    if config.get("model_type", "SentenceTransformer") != "SentenceTransformer" or config.get("requirements"):
        raise Unsuited
    named, default, dimensions = (config.get(name) for name in ("prompts", "default_prompt_name", "truncate_dim"))
    stated = {} if named is None else named
    if not isinstance(stated, dict) or not all(isinstance(text, str) for text in stated.values()):
        raise Unsuited
    prompts = {"query": "", "document": "", **{name: str(text) for name, text in stated.items()}}
    if default is not None and default not in prompts:
        raise Unsuited
    if dimensions is not None and (type(dimensions) is not int or dimensions < 1):
        raise Unsuited
    return dimensions, Prompts(prompts, None if default is None else str(default))


def _step(name: str, folder: Path) -> DenseModule | None:
    config = read_object(folder / "config.json")
    if name == _NORMALIZE:
        _require(config, _OF_VECTORS, ())
        return None
    if name != _DENSE:
        raise Unsuited
    _require(config, _OF_DENSE, {"in_features", "out_features", "bias", "activation_function"})
    activation = _ACTIVATIONS.get(str(config.get("activation_function", "torch.nn.modules.activation.Tanh")))
    if activation is None or "in_features" not in config or not (folder / "model.safetensors").is_file():
        raise Unsuited
    return DenseModule(folder, activation, config.get("bias", True) is not False)


def _require(config: Mapping[str, Json], only: Mapping[str, Json], any_value: Collection[str]) -> None:
    """Raise Unsuited for an unknown key, and for another value than the one in ``only``."""
    if any(key not in any_value and (key not in only or only[key] != value) for key, value in config.items()):
        raise Unsuited


QUERY = "query"
DOCUMENT = "document"
OF_DOCUMENTS = (DOCUMENT, "passage", "corpus")  # sentence-transformers' names of a prompt for documents


@dataclass(frozen=True)
class Prompts:
    """The prompts in a config_sentence_transformers.json, and the name of the default prompt, if there is one."""

    named: Mapping[str, str] = field(default_factory=dict)
    default: str | None = None

    @classmethod
    def of(cls, config: Json) -> Prompts:
        """Return the prompts in a config; none if it has another form."""
        if not isinstance(config, dict) or not isinstance(named := config.get("prompts"), dict):
            return cls()
        texts = {str(name): text for name, text in named.items() if isinstance(text, str)}
        default = config.get("default_prompt_name")
        return cls(texts, default if isinstance(default, str) else None)

    @property
    def of_documents(self) -> str | None:
        """The name of the prompt of ``encode_document``; None if that is the default prompt, or there is none."""
        return DOCUMENT if self.named.get(DOCUMENT) and self.default != DOCUMENT else None

    @property
    def listed(self) -> str:
        """The names of the prompts that are not empty, for a sentence."""
        return ", ".join(sorted(name for name, text in self.named.items() if text)) or "none"


def prompt(spec: Spec, stated: Prompts) -> str:
    """Return the words that the model reads before each text.

    ``stated`` are the prompts in the model's files. Documents get the spec's own prompt, else the stated prompt that
    the spec names, else the stated default. Queries get the search's own prompt, else the stated prompt that the
    search names, else the stated prompt for queries, else the documents' prompt unless its name is for documents
    only. Raises CannotServe for a name that the files do not have.
    """
    params, named, is_query = spec.params, stated.named, spec.params.get("side") == QUERY
    for option in ("prompt_name", *(["query_prompt_name"] if is_query else [])):
        if option in params and params[option] not in named:
            have = stated.listed
            raise CannotServe(f"The files of {spec.model} have no prompt named {params[option]}; they have {have}.")
    if is_query and "query_prompt" in params:
        return prompts.around(params["query_prompt"]).before
    if is_query and "query_prompt_name" in params:
        return named[params["query_prompt_name"]]
    name, own = params.get("prompt_name", stated.default), params.get("prompt")
    usual = (named.get(name or "") or "") if own is None else prompts.around(own).before
    if not is_query:
        return usual
    return named.get(QUERY) or ("" if own is None and name in OF_DOCUMENTS else usual)
