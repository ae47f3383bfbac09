"""Location of the configuration files: in the repository, or inside an installed package.

A wheel contains the repository's configs/ next to the modules (see pyproject.toml).
"""

from pathlib import Path

HERE = Path(__file__).resolve().parents[1]


def folder(kind: str) -> Path:
    """Return the folder of one kind of file: `models`, `sweeps`."""
    installed = HERE / "configs"
    return (installed if installed.is_dir() else HERE.parents[1] / "configs") / kind
