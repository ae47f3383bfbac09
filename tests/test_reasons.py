"""Every warning that a number can carry is explained to whoever reads the number."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmbench.measure import checks
from llmbench.measure.reasons import MEANINGS

SOURCE = Path(__file__).parents[1] / "src" / "llmbench"
PROBLEMS = {
    "clock", "dtype", "implausible", "parity", "placement", "prefix_hit", "recompiled", "throttled", "token_count",
    "capped", "client_saturated", "clock_step", "coalesced", "failed_requests", "foreign_load", "late_sends",
    "no_requests", "not_greedy", "prefix_hits", "prompt_tokens", "server_restarted",
}  # fmt: skip
"""What makes a session invalid: its figures are told in words where the session is counted."""


def codes() -> Iterator[str]:
    """Yield the code of every finding that the source makes."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Finding"):
                yield ast.literal_eval(node.args[0])


def test_every_warning_has_a_meaning_and_every_meaning_a_warning() -> None:
    assert set(codes()) - PROBLEMS == set(MEANINGS)


@pytest.mark.parametrize(
    ("code", "share"),
    [
        ("busy_machine", checks.OTHER_WARNS),
        ("cpu_steal", checks.STEAL_WARNS),
        ("hot", checks.HOT_WARNS),
        ("clock_drift", checks.CLOCK_WARNS),
    ],
)
def test_the_share_that_is_told_is_the_one_that_is_judged_by(code: str, share: float) -> None:
    assert f"over {100 * share:g} %" in MEANINGS[code]


def test_a_meaning_is_one_short_sentence() -> None:
    for code, meaning in MEANINGS.items():
        assert len(f"{code}: {meaning}") <= 120
        assert meaning.endswith(".")
