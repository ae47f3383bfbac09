"""Modules that take seconds to import, imported by the first test that uses them and not when tests are collected."""

from __future__ import annotations

from importlib import import_module
from typing import Any

ASKED_WHILE_COLLECTING = ("_mock_name", "__bases__", "__test__", "__wrapped__")
"""What pytest asks every name of a test file for; no module has them."""


class Lazy:
    """Stands for a module until something of it is asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute in ASKED_WHILE_COLLECTING:
            raise AttributeError(attribute)
        return getattr(import_module(self._name), attribute)


torch: Any = Lazy("torch")
transformers: Any = Lazy("transformers")
safetensors: Any = Lazy("safetensors.torch")
