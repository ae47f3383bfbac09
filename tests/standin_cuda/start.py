"""Replaces the driver's answers and a worker's clock at once, and torch's CUDA when something imports torch."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from typing import TYPE_CHECKING, Any

from standin_cuda import clock, driver

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType


class _AfterTorch(importlib.abc.MetaPathFinder):
    """Finds torch as any finder would, with a loader that installs the stand-in at its end.

    Some only ask whether torch is there, and import it later.
    """

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname != "torch":
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        assert spec is not None
        loader: Any = spec.loader
        assert loader is not None
        load = loader.exec_module

        def load_and_install(module: ModuleType) -> None:
            load(module)
            from standin_cuda import runtime  # noqa: PLC0415 - it imports torch

            runtime.install()

        loader.exec_module = load_and_install
        return spec


clock.install()
driver.install()
sys.meta_path.insert(0, _AfterTorch())
