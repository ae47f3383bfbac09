"""The script that trains a checkpoint: it says what it learnt, and fails if that is nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "make_checkpoint.py"


@pytest.mark.slow
def test_a_checkpoint_that_learnt_nothing_is_said_to_be_none(tmp_path: Path) -> None:
    tiny = ("--steps", "2", "--hidden", "64", "--layers", "1", "--vocabulary", "512")

    done = subprocess.run(
        (sys.executable, SCRIPT, tmp_path / "model", *tiny),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert "2 steps in" in done.stdout
    assert "The loss did not fall" in done.stderr


def test_a_trained_checkpoint_is_whole(trained_checkpoint: Path) -> None:
    names = {file.name for file in trained_checkpoint.iterdir()}

    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= names
