"""One reader: a command that shows runs opens each file of records once."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llmbench import cli, files
from llmbench.results import store
from make_records import write

REAL = Path(__file__).parents[1] / "results" / "2026-11-30-xeon-2cpu-quickstart"

COMMANDS = (
    ("table", "RUN"),
    ("table", "REAL", "--predicted"),
    ("report", "RUN", "-o", "PAGE"),
    ("report", "RUN", "OTHER", "-o", "PAGE"),
    ("claims", "RUN"),
    ("cost", "RUN", "--usd-per-hour", "2"),
    ("fit", "RUN"),
    ("compare", "RUN", "OTHER", "--fail-on", "none"),
)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Return how often each file of records is opened."""
    counts: Counter[str] = Counter()
    really = files.open_regular

    def counting(path: Path, flags: int = os.O_RDONLY, **more: Any) -> int:
        counts[str(path)] += path.name == store.RECORDS
        return really(path, flags, **more)

    monkeypatch.setattr(files, "open_regular", counting)
    return counts


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_run_is_read_once(
    words: tuple[str, ...], tmp_path: Path, opened: Counter[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "run", 12)
    write(tmp_path / "other", 12, seed=1)
    names: dict[str, str | Path] = {
        "RUN": "run",
        "OTHER": "other",
        "PAGE": "page.html",
        "REAL": REAL,
    }
    places = {word: tmp_path / names[word] for word in words if word in names}

    code = cli.run([str(places.get(word, word)) for word in words])

    assert (code, capsys.readouterr().err) == (0, "")
    runs = [
        str(tmp_path / places[word] / store.RECORDS) for word in words if word in ("RUN", "OTHER")
    ]
    assert {run: opened[run] for run in runs} == dict.fromkeys(runs, 1)
