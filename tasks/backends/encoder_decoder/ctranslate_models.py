"""Models in CTranslate2's format, converted once into the cache and compared with the original models."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import ctranslate2
import torch
from ctranslate2.converters import transformers as loaders
from ctranslate2.specs.model_spec import OPTIONAL, SequenceToSequenceModelSpec
from transformers import AutoConfig, AutoModelForSeq2SeqLM

from docmill.tasks.backends import accelerator
from docmill.tasks.backends.convert import made_once, safe_folder
from docmill.tasks.backends.generation_files import generation_settings
from docmill.tasks.errors import Unsuited

if TYPE_CHECKING:
    from ctranslate2.specs.transformer_spec import TransformerDecoderSpec
    from torch import nn
    from transformers import GenerationConfig, PreTrainedModel

log = logging.getLogger("docmill.backends")

# Raised with every change of what is written below.
_FORMAT = 1
# The most by which a token's log-probability may differ from transformers', both in float32.
_TOLERANCE = 0.02
_COMPARED = 12


class _Bart(loaders.BartLoader):  # type: ignore[misc]
    """BART with the place of its layers' norms, which transformers' configs no longer name."""

    norm_before, norm_embedding = False, True

    def get_model_spec(self, model: PreTrainedModel) -> SequenceToSequenceModelSpec:
        model.config.normalize_before, model.config.normalize_embedding = self.norm_before, self.norm_embedding
        return super().get_model_spec(model)


class _MBart(_Bart):
    norm_before = True


class _Pegasus(_Bart):
    norm_before, norm_embedding = True, False


class Marian(loaders.MarianMTLoader):  # type: ignore[misc]
    """CTranslate2's own starts from a zero embedding and drops the row of the padding token. Models that were not
    trained by Marian itself start from that row, and it is not zero."""

    def set_decoder(self, spec: TransformerDecoderSpec, decoder: nn.Module) -> None:
        loaders.BartLoader.set_decoder(self, spec, decoder)

    def _remove_pad_weights(self, spec: SequenceToSequenceModelSpec) -> None:
        """All rows stay."""


class _T5(loaders.T5Loader):  # type: ignore[misc]
    """CTranslate2's own goes by ``tie_word_embeddings``, which transformers 5 has true for every T5."""

    def get_model_spec(self, model: PreTrainedModel) -> SequenceToSequenceModelSpec:
        spec = super().get_model_spec(model)
        scaled = getattr(model.config, "scale_decoder_outputs", False)
        spec.decoder.scale_outputs = model.config.d_model**-0.5 if scaled else OPTIONAL
        return spec


class _UMT5(_T5, loaders.UMT5Loader):  # type: ignore[misc]
    """The same, with a position bias in each layer."""


LOADERS = {
    "marian": Marian,
    "bart": _Bart,
    "mbart": _MBart,
    "m2m_100": loaders.M2M100Loader,
    "pegasus": _Pegasus,
    "t5": _T5,
    "mt5": _T5,
    "umt5": _UMT5,
}


def require_known(model_type: str, model: str) -> None:
    """Raise Unsuited for an architecture that is not converted."""
    if model_type not in LOADERS:
        raise Unsuited(f"{model} is a {model_type or 'model'}, which is not converted for CTranslate2.")


def start_token(settings: GenerationConfig, model: str) -> int:
    """The token from which the decoder starts; raises Unsuited where each text would have its own."""
    start = settings.decoder_start_token_id
    start = settings.bos_token_id if start is None else start
    if not isinstance(start, int):
        raise Unsuited(f"{model} names no single token to start from.")
    return start


def converted(folder: Path, spec_name: str, revision: str, cache_dir: Path) -> Path:
    """The folder of the model in CTranslate2's format, in float32: from the cache, or converted now.

    Made and kept as ``made_once`` says. Raises Unsuited where the result is not the model that it was made from.
    """
    name = f"{revision.replace(':', '-')}-{ctranslate2.__version__}-{_FORMAT}"
    ready = cache_dir / "ctranslate2" / name

    def build(target: Path) -> None:
        _convert(safe_folder(folder, revision, cache_dir), target, spec_name)

    return made_once(ready, build, cache_dir)


def _convert(folder: Path, target: Path, spec_name: str) -> None:
    with accelerator.quiet(), torch.no_grad():
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        require_known(config.model_type, spec_name)
        model = AutoModelForSeq2SeqLM.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        ).eval()
        settings = generation_settings(folder)
        try:
            made = _spec(model, settings, spec_name)
            made.validate()
            made.optimize(quantization="float32")
        except (KeyError, AttributeError, NotImplementedError, ValueError) as error:
            raise Unsuited(f"{spec_name} does not convert for CTranslate2: {type(error).__name__}.") from error
        made.save(str(target))
        _compare(model, target, settings, spec_name)


def _spec(model: PreTrainedModel, settings: GenerationConfig, spec_name: str) -> SequenceToSequenceModelSpec:
    """The model as CTranslate2 describes it. Its words are the token ids as they are: tokenising is ours."""
    made = LOADERS[model.config.model_type]().get_model_spec(model)
    start, end = start_token(settings, spec_name), _first(settings.eos_token_id)
    made.config.decoder_start_token = made.config.bos_token = str(start)
    # Never looked up: every id is a word.
    made.config.eos_token = made.config.unk_token = str(end)
    (read,) = made.get_source_vocabulary_size()
    made.register_source_vocabulary(_words(read))
    made.register_target_vocabulary(_words(made.get_target_vocabulary_size()))
    return made


def _words(size: int) -> list[str]:
    return [str(number) for number in range(size)]


def _first(ids: int | Sequence[int]) -> int:
    return ids if isinstance(ids, int) else ids[0]


def _compare(model: PreTrainedModel, folder: Path, settings: GenerationConfig, spec_name: str) -> None:
    """Raise Unsuited unless both say the same of some tokens: what a loader got wrong shows here, not in a corpus."""
    start, end = start_token(settings, spec_name), _first(settings.eos_token_id)
    read, written = model.get_input_embeddings().num_embeddings, model.get_output_embeddings().weight.shape[0]
    source = [number * (read - 1) // _COMPARED for number in range(1, _COMPARED)] + [end]
    target = [number * (written - 1) // _COMPARED for number in range(1, _COMPARED)]
    logits = model(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([[start, *target]])).logits[0]
    expected = torch.log_softmax(logits, dim=-1).gather(1, torch.tensor([[*target, end]]).T)[:, 0]
    translator = ctranslate2.Translator(str(folder), device="cpu", compute_type="float32", intra_threads=1)
    (scored,) = translator.score_batch([list(map(str, source))], [list(map(str, target))])
    difference = (torch.tensor(scored.log_probs) - expected).abs().max().item()
    log.info("conversion.compared model=%s difference=%.2g", spec_name, difference)
    if not difference <= _TOLERANCE:
        raise Unsuited(
            f"{spec_name} converted for CTranslate2 does not say the same: {difference:.2g} of difference."
        )
