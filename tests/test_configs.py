"""The configuration files are found in a checkout and in an installed package."""

import importlib.util
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from llmbench.spec import configs

ROOT = Path(__file__).parents[1]


def placed(source: Path) -> ModuleType:
    """Load a copy of configs.py that lies at another place."""
    source.parent.mkdir(parents=True)
    source.write_text(Path(configs.__file__).read_text())
    spec = importlib.util.spec_from_file_location("placed", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", ["models", "sweeps"])
def test_this_checkout_has_the_folder(kind: str) -> None:
    folder = configs.folder(kind)

    assert folder == ROOT / "configs" / kind
    assert folder.is_dir()


def test_a_checkout_finds_its_own_folder(tmp_path: Path) -> None:
    module = placed(tmp_path / "src" / "llmbench" / "spec" / "configs.py")

    assert module.folder("models") == tmp_path / "configs" / "models"


def test_an_installed_package_finds_the_folder_beside_its_modules(tmp_path: Path) -> None:
    module = placed(tmp_path / "site-packages" / "llmbench" / "spec" / "configs.py")
    (tmp_path / "site-packages" / "llmbench" / "configs").mkdir()

    assert module.folder("models") == tmp_path / "site-packages" / "llmbench" / "configs" / "models"


def test_a_wheel_carries_the_folder_beside_its_modules() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())

    wheel = settings["tool"]["hatch"]["build"]["targets"]["wheel"]

    assert "configs" in wheel["only-include"]
    assert wheel["sources"]["configs"] == "llmbench/configs"
