"""Which backends may carry a spec out here, the preferred one first: pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from importlib.util import find_spec
from types import MappingProxyType

from storage.installation import install
from tasks.errors import BadOption, CannotServe
from tasks.families import Family

AUTO = "auto"
OWN_CODE = "transformers"  # the model as its authors wrote it
# By name: the module whose presence says that the backend can be used.
MODULES: Mapping[str, str] = MappingProxyType(
    {name: name for name in ("transformers", "ctranslate2", "openvino", "onnxruntime", "vllm")}
)
NAMES = (AUTO, *MODULES)
GENERATING = frozenset({"summarize", "translate", "generate"})


def installed() -> frozenset[str]:
    """The backends whose libraries are on this machine."""
    return frozenset(name for name, module in MODULES.items() if find_spec(module) is not None)


def candidates(
    kind: str,
    family: Family | None,
    *,
    quality: str,
    device: str,
    present: Collection[str],
    asked: str = AUTO,
) -> tuple[str, ...]:
    """The backends to try for a kind of task with a family of models, in order.

    One that cannot take the model after all raises Unsuited, and the next is tried. With ``asked`` there is only that
    one, if it fits at all. Empty where nothing that is present fits.
    """
    suited = _suited(kind, family, quality, device)
    if asked != AUTO:
        suited = tuple(name for name in suited if name == asked)
    return tuple(name for name in suited if name in present)


def require_possible(kind: str, family: Family | None, quality: str, model: str) -> None:
    """Raise BadOption where no backend has the precision on any kind of device, be it installed or not."""
    devices = ("cpu", "cuda")
    if not any(candidates(kind, family, quality=quality, device=device, present=MODULES) for device in devices):
        raise BadOption(f"--dtype {quality}: no backend computes {kind} with {family} models such as {model} in it.")


def require_present(
    kind: str, family: Family | None, *, quality: str, device: str, asked: str = AUTO, model: str
) -> tuple[str, ...]:
    """Return the candidates that are installed. Raises CannotServe, with what to install, if there is none."""
    what = {"quality": quality, "device": device, "asked": asked}
    if names := candidates(kind, family, present=installed(), **what):
        return names
    extra = extra_for(kind, family, **what)
    hint = f"; {install(extra)}" if extra is not None else ""
    if asked == AUTO:
        raise CannotServe(f"This worker's backend has no {quality} precision{hint}.")
    if extra is not None:
        raise CannotServe(f"The backend {asked} is not installed on this worker{hint}.")
    raise CannotServe(f"The backend {asked} does not {kind} with {model} on {device} ({quality} precision).")


def extra_for(kind: str, family: Family | None, *, quality: str, device: str, asked: str = AUTO) -> str | None:
    """The extra whose backend would do it, were it installed."""
    suited = candidates(kind, family, quality=quality, device=device, present=MODULES, asked=asked)
    name = next((name for name in suited if name != "transformers"), None)
    if name == "openvino" and quality == "int8":
        return "openvino-int8"
    return "vllm-cpu" if name == "vllm" and device == "cpu" else name


def _suited(kind: str, family: Family | None, quality: str, device: str) -> tuple[str, ...]:
    if kind == "embed":
        return _embedding(family, quality, device)
    if family is Family.DECODER:
        accelerated: tuple[str, ...] = ("vllm",) if quality != "int8" else ()
    else:
        accelerated = ("ctranslate2",)
    # transformers has no int8 of its own, and vLLM only that of models which were quantized before.
    return accelerated if quality == "int8" else (*accelerated, "transformers")


def _embedding(family: Family | None, quality: str, device: str) -> tuple[str, ...]:
    if quality == "int8":
        return ("openvino",) if device == "cpu" and family is Family.ENCODER else ()
    if device != "cpu" or family is not Family.ENCODER or quality == "float16":
        return ("transformers",)
    # Where none is clearly faster, OpenVINO: it asks for the interpreter once in a batch. torch asks once in a
    # product, which takes longer beside threads that read and write.
    if quality == "bfloat16":  # ONNX Runtime computes in float32 here
        return ("openvino", "transformers")
    return ("openvino", "onnxruntime", "transformers")
