"""A child that writes a model's weights as a GGUF file, and lets llama.cpp quantise them.

Weights are those that the transformers backend would load or draw. The file has no vocabulary: prompts are token ids,
and text is tokenized by the checkpoint's own tokenizer.

    python -m llmbench.backends.llamacpp.convert < order.json
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import llama_cpp
import msgspec
import torch
from transformers.initialization import no_init_weights

from llmbench.backends import load_errors
from llmbench.backends.config import builder, configuration
from llmbench.backends.llamacpp.model_file import Order
from llmbench.backends.random_weights import fill
from llmbench.errors import LoadFailed, Unsupported
from llmbench.models import resolve
from llmbench.spec.grid import NONE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmbench.results.record import Job

FAMILIES: Mapping[str, Any] = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}
"""The families whose tensors have the same meaning in both, by transformers' name of the family."""
INTERLEAVED = (gguf.MODEL_ARCH.LLAMA,)
"""Architectures in which llama.cpp turns neighbouring values of a head, where transformers turns the two halves."""
TYPES = {
    "float32": gguf.GGMLQuantizationType.F32,
    "float16": gguf.GGMLQuantizationType.F16,
    "bfloat16": gguf.GGMLQuantizationType.BF16,
}
FILE_TYPES = {"float32": 0, "float16": 1, "bfloat16": 32}
"""llama.cpp's numbers of the types of whole files."""


def main() -> None:
    """Make what standard input orders; say in one line if it cannot be made."""
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    try:
        make(order.job, order.scheme, Path(order.path))
    except (LoadFailed, Unsupported) as error:
        print(f"{type(error).__name__}: {error}")
        sys.exit(1)


def make(job: Job, scheme: str, path: Path) -> None:
    """Write a job's weights in a scheme at a path, by way of a second file that is removed."""
    own = resolve.is_gguf(job.model)
    plain = Path(str(job.model.location)) if own else path
    if not own:
        plain = path if scheme == NONE else path.with_name(f"{path.name}.plain")
        with load_errors.as_one_line(job):
            write(job, plain)
    if scheme == NONE:
        return
    quantise(plain, scheme, path)
    if not own:
        plain.unlink()


def quantise(source: Path, scheme: str, target: Path) -> None:
    """Let llama.cpp quantise a file."""
    wanted = llama_cpp.llama_model_quantize_default_params()
    wanted.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{scheme.upper()}")
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), wanted):
        raise LoadFailed(f"{source.name}: llama.cpp could not quantise it as {scheme}.")


def write(job: Job, path: Path) -> None:
    """Write a job's weights as a GGUF file, matrices in the cell's dtype and vectors in float32."""
    config = configuration(job, "")
    architecture = FAMILIES.get(config.model_type)
    if architecture is None:
        raise Unsupported(
            f"{job.model.name}: {config.model_type} is not among the families written as GGUF here "
            f"({', '.join(FAMILIES)}); give a .gguf file of it as the model."
        )
    refuse_differences(job.model.name, config)
    model = weights(job, config)
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    settings(writer, config, job.cells[0].dtype)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for name, tensor in model.items():
        if config.tie_word_embeddings and name == "lm_head.weight":
            continue
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if known is None:
            raise Unsupported(f"{job.model.name}: {name} has no name in GGUF.")
        add(writer, known, turned(name, tensor, config, architecture), job.cells[0].dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def refuse_differences(name: str, config: Any) -> None:
    """Refuse what llama.cpp would compute in another way, or needs further tensors for."""
    rope = config.rope_parameters or {}
    if (kind := rope.get("rope_type", "default")) != "default":
        raise Unsupported(
            f"{name}: rotary positions of type {kind} are not written as GGUF here; give a .gguf file of it as the "
            "model."
        )
    if getattr(config, "attention_bias", False) and config.model_type == "llama":
        raise Unsupported(f"{name}: biases of attention are not written as GGUF here.")


def weights(job: Job, config: Any) -> Mapping[str, torch.Tensor]:
    """Return the tensors that the transformers backend would compute with, by name."""
    dtype = getattr(torch, job.cells[0].dtype)
    if job.cells[0].load_format == "dummy":
        with no_init_weights():
            model = builder(config).from_config(config, dtype=dtype)
        model.tie_weights()
        fill(model.named_parameters(), job.protocol.seed)
    else:
        load_errors.refuse_unreadable(job)
        model = builder(config).from_pretrained(
            job.model.location, config=config, dtype=dtype, use_safetensors=True
        )
    found: Mapping[str, torch.Tensor] = model.state_dict()
    return found


def settings(writer: Any, config: Any, dtype: str) -> None:
    """Write the sizes that llama.cpp builds the model from."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_file_type(FILE_TYPES[dtype])
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(float((config.rope_parameters or {}).get("rope_theta", 10_000.0)))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_tokenizer_model("no_vocab")


def turned(name: str, tensor: torch.Tensor, config: Any, architecture: Any) -> torch.Tensor:
    """Return a tensor with the rows of queries and keys in llama.cpp's order, and others as they are."""
    heads = {
        "q_proj": config.num_attention_heads,
        "k_proj": config.num_key_value_heads,
    }.get(name.split(".")[-2])
    if heads is None or architecture not in INTERLEAVED:
        return tensor
    halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return halves.swapaxes(1, 2).reshape(tensor.shape)


def add(writer: Any, name: str, tensor: torch.Tensor, dtype: str) -> None:
    """Add a tensor; numpy has no bfloat16, of which it gets the bytes."""
    tensor = tensor.detach().contiguous()
    if tensor.ndim == 1:
        writer.add_tensor(name, tensor.float().numpy())
    elif dtype == "bfloat16":
        pairs = tensor.view(torch.uint8).numpy()
        writer.add_tensor(name, pairs, raw_dtype=TYPES[dtype])
    else:
        writer.add_tensor(name, tensor.numpy())
