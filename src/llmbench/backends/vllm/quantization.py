"""Quantisation for vLLM: by its own methods, and of any dense model to the integers of compressed-tensors.

The latter is written here, rounded to the nearest, as a checkpoint for the time of loading: it needs no calibration,
and on a CPU vLLM quantises to integers from files only.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import safetensors
import safetensors.torch
import torch
import vllm
from transformers.initialization import no_init_weights
from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS

from llmbench.backends.config import builder
from llmbench.errors import Unsupported, did_you_mean
from llmbench.models import checkpoint
from llmbench.spec.grid import NONE, QUANTIZATION

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmbench.results.record import Job

GROUP = 32
"""Weights of a row that share a scale in four bits: it divides the rows of more models than 128 does."""
PACKED = 8
"""Numbers of four bits in an int32."""
CODES = ("int8", "uint8", "int32", "float8")
"""Beginnings of the dtypes that hold codes."""
ON_CPU = ("fp8_per_channel",)
"""vLLM's own methods that quantised a model on a CPU while loading it, of all that were tried with vLLM 0.28:
fp8 and fp8_per_tensor lack a kernel, fp8_per_block and mxfp8 too, int8_per_channel_weight_only only changes experts."""


class Rounding(NamedTuple):
    """How weights are rounded: bits, the activations' bits (None = not quantised), and compressed-tensors' format."""

    bits: int
    activation_bits: int | None
    layout: str


OURS: Mapping[str, Rounding] = {
    "ct-int8": Rounding(8, 8, "int-quantized"),
    "ct-int4": Rounding(4, None, "pack-quantized"),
}
"""The schemes that are written here: int8 by row, with activations by token, and int4 by group."""


def is_in_files(job: Job, scheme: str) -> bool:
    """Return whether the files that vLLM reads are quantised, whose configuration then says how."""
    return scheme in OURS or checkpoint.quantisation(job.model.config) is not None


def refuse_impossible(job: Job, options: Mapping[str, Any]) -> None:
    """Refuse a scheme that this vLLM does not have, or does not run on this device.

    Raises:
        Unsupported: the message says what works.

    """
    scheme, cell = options[QUANTIZATION], job.cells[0]
    if scheme == NONE or checkpoint.quantisation(job.model.config):
        return
    if scheme == "ct-int4" and cell.device == "cpu" and cell.dtype == "float32":
        raise Unsupported("quantization=ct-int4: on a CPU, vLLM has no kernel for it in float32.")
    if scheme in OURS:
        if cell.load_format != "dummy" and job.model.source != "folder":
            raise Unsupported(
                f"quantization={scheme} reads the weights of a local folder; name one."
            )
    elif scheme not in QUANTIZATION_METHODS:
        known = (*OURS, *QUANTIZATION_METHODS)
        raise Unsupported(
            f"quantization={scheme}: vLLM {vllm.__version__} has no such method.{did_you_mean(scheme, known)}"
        )
    elif cell.device == "cpu" and scheme not in ON_CPU:
        raise Unsupported(
            f"quantization={scheme}: on a CPU, vLLM quantises while loading as {', '.join((*OURS, *ON_CPU))} only; a "
            "checkpoint that is quantised already needs no option."
        )


def facts(config: Any, options: Mapping[str, Any]) -> dict[str, str]:
    """Return the scheme of the loaded weights; empty if they are not quantised."""
    stated = getattr(config, "quantization_config", None)
    own = checkpoint.quantisation({"quantization_config": stated}) if stated else None
    scheme = own if options[QUANTIZATION] == NONE else options[QUANTIZATION]
    return {"quantization": scheme} if scheme else {}


def not_quantised(job: Job, seen: Mapping[str, Any]) -> str:
    """Return why a loaded model must not be measured: its weights should be codes and are plain numbers. Else empty."""
    scheme, dtypes = seen.get("quantization"), str(seen.get("param_dtypes"))
    if not scheme or any(each.startswith(CODES) for each in dtypes.split(", ")):
        return ""
    return (
        f"{job.model.name}: quantization={scheme}, and vLLM {vllm.__version__} holds its weights in {dtypes}; this "
        "would be measured as something that it is not."
    )


def write(job: Job, config: Any, rounding: Rounding, folder: Path) -> None:
    """Make a configuration say that its weights are quantised, and write them so, unless they are random."""
    with torch.device("meta"), no_init_weights():
        model = builder(config).from_config(config)
    linear = {name for name, each in model.named_modules() if isinstance(each, torch.nn.Linear)}
    head = model.get_output_embeddings()
    plain = sorted(name for name in linear if model.get_submodule(name) is head)
    config.quantization_config = _stated(rounding, plain)
    if job.cells[0].load_format == "dummy":
        return
    quantised, rounded = linear - set(plain), 0
    for shard in sorted(Path(str(job.model.location)).glob("*.safetensors")):
        tensors: dict[str, torch.Tensor] = {}
        with safetensors.safe_open(shard, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no dictionary
                tensor, module = file.get_tensor(name), name.removesuffix(".weight")
                found = module in quantised and name != module
                rounded += found
                tensors |= _rounded(module, tensor, rounding) if found else {name: tensor}
        safetensors.torch.save_file(tensors, folder / shard.name, {"format": "pt"})
    if not quantised or rounded != len(quantised):
        raise Unsupported(
            f"quantization=ct-int{rounding.bits} rounds the linear layers of {job.model.name} by their names in the "
            f"checkpoint, and found {rounded} of {len(quantised)}."
        )


def _stated(rounding: Rounding, plain: list[str]) -> dict[str, Any]:
    """Return what compressed-tensors writes into a configuration."""
    number = {"type": "int", "symmetric": True}
    by_row = rounding.bits == 8
    weights = {
        **number, "num_bits": rounding.bits, "dynamic": False, "strategy": "channel" if by_row else "group",
        **({} if by_row else {"group_size": GROUP}),
    }  # fmt: skip
    activations = {
        **number, "num_bits": rounding.activation_bits, "dynamic": True, "strategy": "token",
    }  # fmt: skip
    group = {
        "targets": ["Linear"],
        "weights": weights,
        "input_activations": activations if rounding.activation_bits else None,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": rounding.layout,
        "quantization_status": "compressed",
        "ignore": plain,
        "config_groups": {"group_0": group},
    }


def _rounded(module: str, weight: torch.Tensor, rounding: Rounding) -> dict[str, torch.Tensor]:
    """Return the codes and scales of a matrix [rows, columns]: one scale a row in 8 bits, one a group in 4 bits."""
    most = 2 ** (rounding.bits - 1)
    rows, columns = weight.shape
    group = columns if rounding.bits == 8 else GROUP
    if columns % group:
        raise Unsupported(
            f"quantization=ct-int4 needs rows that are multiples of {group}; {module} has rows of {columns}."
        )
    parts = weight.float().view(rows, columns // group, group)
    scale = (parts.abs().amax(-1, keepdim=True) / (most - 0.5)).clamp_min(
        torch.finfo(torch.float32).tiny
    )
    codes = (parts / scale).round().clamp(-most, most - 1).view(rows, columns)
    if rounding.bits == 8:
        return {f"{module}.weight": codes.to(torch.int8), f"{module}.weight_scale": scale[..., 0]}
    nibbles = (codes.to(torch.int32) + most).view(rows, -1, PACKED)
    packed = (nibbles << (4 * torch.arange(PACKED, dtype=torch.int32))).sum(-1, dtype=torch.int32)
    return {
        f"{module}.weight_packed": packed,
        f"{module}.weight_scale": scale[..., 0].to(weight.dtype),
        f"{module}.weight_shape": torch.tensor([rows, columns]),
    }
