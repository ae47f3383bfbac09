"""Compiled kernels of one session: a folder of its own, so that every session's first call compiles them.

torch and vLLM otherwise keep them for the user, and session 1 would compile what sessions 2 and 3 read. Whoever sets
TORCHINDUCTOR_CACHE_DIR keeps them all the same; the facts of a record say which it was.
"""

from __future__ import annotations

import os
import tempfile

from llmbench.machine import leftovers

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


class KernelCache:
    """The folder, from the load of an engine to its end."""

    def __init__(self) -> None:
        """Make it and point torch, Triton and vLLM to it, unless the user chose a folder."""
        self.folder: tempfile.TemporaryDirectory[str] | None = None
        self.variables: dict[str, str] = {}
        if VARIABLE in os.environ:
            return
        prefix = leftovers.prefix(os.environ.get("LLMBENCH_SESSION"))
        self.folder = tempfile.TemporaryDirectory(prefix=prefix)
        self.variables = {
            VARIABLE: self.folder.name,
            "TRITON_CACHE_DIR": f"{self.folder.name}/triton",
            "VLLM_DISABLE_COMPILE_CACHE": "1",
        }
        os.environ |= self.variables

    def facts(self) -> dict[str, str]:
        """Return whether kernels of earlier sessions could be used."""
        return {"kernel_cache": "of this session" if self.folder else "kept"}

    def close(self) -> None:
        """Remove the folder."""
        for name in self.variables:
            os.environ.pop(name, None)
        if self.folder:
            self.folder.cleanup()
