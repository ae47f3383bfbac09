"""Quantisation of a model's weights while transformers loads it, by bitsandbytes or torchao.

The library decides which matrices are quantised: those of linear layers, without the output head.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers.quantizers.auto import AutoQuantizationConfig

from llmbench.backends.transformers.offload import OFFLOADS
from llmbench.errors import LoadFailed, Unsupported
from llmbench.models import checkpoint
from llmbench.spec.grid import NONE, QUANTIZATION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llmbench.results.record import Job

GROUP = 32
"""Weights that share a scale in torchao's int4: it divides the rows of more models than its default of 128 does."""

BLOCK = 64
"""Weights that share a scale in bitsandbytes' four bits; its kernel for CPUs takes whole blocks of a row."""


def settings(job: Job, options: Mapping[str, Any]) -> Any:
    """Return the quantisation that a job asks for while loading; None if weights stay as they are stored.

    Raises:
        Unsupported: the scheme does not work on this device or with these options.

    """
    scheme, cell = options[QUANTIZATION], job.cells[0]
    if scheme == NONE:
        return None
    if options["device_map"] != "none" and (
        cell.load_format == "dummy" or options["device_map"] in OFFLOADS
    ):
        raise Unsupported(
            f"device_map={options['device_map']} places weights of the cell's dtype here; use quantization=none, or "
            "device_map=none."
        )
    if checkpoint.quantisation(job.model.config):
        own = job.model.config["quantization_config"]
        return AutoQuantizationConfig.from_dict(own) if cell.load_format == "dummy" else None
    return SCHEMES[scheme](cell.device, getattr(torch, cell.dtype))


def random(model: Any, quantisation: Any, device: torch.device) -> Any:
    """Return a model of random weights with its linear layers quantised; both are in memory for a moment."""
    config = type(model.config).from_dict(
        {k: v for k, v in model.config.to_dict().items() if k != "quantization_config"}
    )
    return type(model).from_pretrained(
        None,
        config=config,
        state_dict=model.state_dict(),
        dtype=model.dtype,
        device_map={"": device},
        quantization_config=quantisation,
        attn_implementation=model.config._attn_implementation,  # noqa: SLF001 - has no public name
    )


def refuse_unquantised(model: Any, scheme: str, place: str) -> None:
    """Refuse a model that should hold codes and holds plain numbers.

    Raises:
        LoadFailed: the message has the dtype that the weights turned into.

    """
    if not any(_is_code(part) for tensor in stored(model) for part in inner(tensor)):
        raise LoadFailed(
            f"{place} is quantised ({scheme}), and transformers turned its weights into "
            f"{str(model.dtype).removeprefix('torch.')} while loading; this would be measured as something that it "
            "is not."
        )


def refuse_odd_rows(model: Any, scheme: str, device: torch.device) -> None:
    """Refuse rows that bitsandbytes cannot compute with on a CPU.

    Raises:
        Unsupported: the message names a matrix and the length of its rows.

    """
    if scheme not in {"bnb-nf4", "bnb-fp4"} or device.type != "cpu":
        return
    for name, each in model.named_modules():
        if hasattr(getattr(each, "weight", None), "quant_state") and each.in_features % BLOCK:
            raise Unsupported(
                f"quantization={scheme} on a CPU needs rows that are multiples of {BLOCK}; {name} has rows of "
                f"{each.in_features}."
            )


def stored(model: Any) -> list[torch.Tensor]:
    """Return the tensors that hold a model's weights: parameters, and the buffers in which some schemes save codes."""
    saved = model.state_dict() if hasattr(model.config, "quantization_config") else {}
    return [*model.parameters(), *(each for name, each in model.named_buffers() if name in saved)]


def inner(tensor: torch.Tensor) -> list[torch.Tensor]:
    """Return the tensors that a weight consists of: codes and scales of a quantised one, else itself."""
    names = tensor.__tensor_flatten__()[0] if hasattr(tensor, "__tensor_flatten__") else ()
    parts = [part for name in names for part in inner(getattr(tensor, name))] or [tensor]
    state = getattr(tensor, "quant_state", None)  # bitsandbytes keeps the scales beside the codes
    while state is not None:
        parts += [each for each in vars(state).values() if isinstance(each, torch.Tensor)]
        state = state.state2
    scales = getattr(tensor, "SCB", None)
    return parts if scales is None else [*parts, scales]


def weights_of(tensor: torch.Tensor) -> int:
    """Return how many weights a tensor stands for; bitsandbytes packs two in a byte."""
    state = getattr(tensor, "quant_state", None)
    return tensor.numel() if state is None else int(state.shape.numel())


def _is_code(tensor: torch.Tensor) -> bool:
    """Return whether a matrix has whole numbers, or floating point of one byte."""
    return tensor.ndim > 1 and (not tensor.is_floating_point() or tensor.dtype.itemsize == 1)


def _nf4(_: str, dtype: torch.dtype) -> Any:
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )


def _int8(_: str, __: torch.dtype) -> Any:
    return transformers.BitsAndBytesConfig(load_in_8bit=True)


def _torchao_int8(_: str, __: torch.dtype) -> Any:
    torchao = importlib.import_module("torchao.quantization")
    return transformers.TorchAoConfig(torchao.Int8WeightOnlyConfig())


def _torchao_int4(device: str, dtype: torch.dtype) -> Any:
    if device == "cpu":
        torchao = importlib.import_module("torchao.prototype.quantization.int4")
        return transformers.TorchAoConfig(torchao.PrototypeInt4WeightOnlyConfig(group_size=GROUP))
    if dtype != torch.bfloat16:
        raise Unsupported("torchao-int4 computes in bfloat16 on a GPU; use dtype bfloat16.")
    torchao = importlib.import_module("torchao.quantization")
    return transformers.TorchAoConfig(
        torchao.Int4WeightOnlyConfig(group_size=GROUP, int4_packing_format="tile_packed_to_4d")
    )


SCHEMES: Mapping[str, Callable[[str, torch.dtype], Any]] = {
    "bnb-nf4": _nf4,
    "bnb-int8": _int8,
    "torchao-int8": _torchao_int8,
    "torchao-int4": _torchao_int4,
}
"""The schemes, and what transformers is asked for; weight-only except bnb-int8, which also quantises activations."""
