"""Modules that take seconds to import, imported by the first test that uses them and not when tests are collected."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class Lazy:
    """Stands for a module until something of it is asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)


torch: Any = Lazy("torch")
transformers: Any = Lazy("transformers")
safetensors: Any = Lazy("safetensors.torch")
