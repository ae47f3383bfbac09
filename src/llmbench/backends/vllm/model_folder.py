"""The path from which vLLM reads a model: a checkpoint's folder or hub id, or a folder with only a configuration."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbench.backends.config import builder
from llmbench.backends.vllm import quantization
from llmbench.machine import leftovers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmbench.results.record import Job


@contextlib.contextmanager
def model_folder(job: Job, config: Any, scheme: str) -> Iterator[str]:
    """Provide the path of the job's model, quantised by us if the scheme is ours, until the engine has read it."""
    model, random = job.model, job.cells[0].load_format == "dummy"
    ours = quantization.OURS.get(scheme)
    if not ours and model.location is not None and not (random and model.source == "catalogue"):
        yield model.location
        return
    prefix = leftovers.prefix(os.environ.get("LLMBENCH_SESSION"))
    with tempfile.TemporaryDirectory(prefix=prefix) as folder:
        name_architecture(config)
        if ours:
            quantization.write(job, config, ours, Path(folder))
        config.save_pretrained(folder)
        yield folder


def name_architecture(config: Any) -> None:
    """Write the model's class name into its configuration, from which vLLM chooses the implementation."""
    known = builder(config)._model_mapping  # noqa: SLF001 - has no public name
    if not config.architectures and type(config) in known:
        built_as = known[type(config)]
        built_as = built_as[0] if isinstance(built_as, tuple) else built_as
        config.architectures = [built_as.__name__]
