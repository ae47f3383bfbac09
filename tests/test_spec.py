"""What a sweep says: settings that contradict each other, groups, names that are safe."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fakes import a_cell
from llmbench.spec import sweep
from llmbench.spec.sweep import Deadlines, Protocol
from sweeps import asked


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "[/bold]",
        "</script>",
        "=cmd()",
        "a\nb",
        "\x1b[31m",
        "é" * 300,
        "😀",
        "\u202eevil",
    ],
)
def test_a_slug_is_a_safe_file_name(name: str) -> None:
    safe = sweep.slug(name)

    assert safe
    assert len(safe) <= sweep.LONGEST_SLUG
    assert safe.isascii()
    assert not set(safe) & set("/\\<>[]()'\"\n\x1b ")
    assert not safe.startswith((".", "-"))


def test_cells_that_one_engine_can_serve_form_a_group() -> None:
    cells = [
        msgspec.structs.replace(a_cell(f"{batch}{dtype}", batch_size=batch), dtype=dtype)
        for batch in (1, 2)
        for dtype in ("float32", "bfloat16")
    ]

    assert [len(group) for group in sweep.groups(cells, "group")] == [2, 2]
    assert [len(group) for group in sweep.groups(cells, "cell")] == [1, 1, 1, 1]


def test_other_options_are_another_group() -> None:
    cells = [a_cell("one"), a_cell("two", ttft_ms=1.0), a_cell("three", batch_size=4)]

    groups = sweep.groups(cells, "group")

    assert [[cell.id for cell in group] for group in groups] == [["one", "three"], ["two"]]


def test_a_cell_says_where_it_is() -> None:
    assert a_cell(fault="oom").where() == (
        "model=none, backend=fake, dtype=float32, batch_size=2, input_len=8, output_len=4, "
        "clock=virtual, fault=oom"
    )


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"sessions": 0}, "sessions must be at least 1"),
        ({"iterations": 0}, "iterations must be at least 1"),
        ({"sessions": 4, "max_sessions": 3}, "max_sessions (3) is below sessions (4)"),
        ({"iterations": 9, "max_iterations": 8}, "max_iterations (8) is below iterations (9)"),
        ({"warmup": -1}, "warmup cannot be negative"),
        ({"seed": -1}, "seed cannot be negative"),
        ({"max_sessions": 1001}, "max_sessions must be at most 1000"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    settings: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        Protocol(**settings)


@pytest.mark.parametrize("phase", Deadlines.__struct_fields__)
def test_a_deadline_is_in_the_future(phase: str) -> None:
    with pytest.raises(ValueError, match=f"{phase} must be above 0"):
        Deadlines(**{phase: 0.0})


def test_what_only_says_how_often_is_no_part_of_how_it_is_measured() -> None:
    often = Protocol(sessions=7, max_sessions=9, seed=3, budget_s=1.0)

    assert often.measuring() == Protocol().measuring()
    assert Protocol(warmup=5).measuring() != Protocol().measuring()


ONE_ESCAPE = st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"])
"""Characters for which JSON and YAML have one escape, the same one."""


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text(ONE_ESCAPE, max_size=20),
    st.lists(st.text(ONE_ESCAPE, max_size=20), max_size=4),
    st.lists(st.integers(), max_size=4),
    st.integers(1, 100),
    st.floats(0, 1e6),
)
def test_what_a_sweep_file_says_is_what_is_read(
    tmp_path: Path, text: str, models: list[str], batches: list[int], sessions: int, budget_s: float
) -> None:
    said = {
        "name": text,
        "why": text,
        "axes": {"model": models, "batch_size": batches, "prompts": text},
        "protocol": {"sessions": sessions, "max_sessions": 100, "budget_s": budget_s},
    }
    path = tmp_path / "sweep.yaml"
    path.write_text(json.dumps(said))  # JSON is YAML

    read = msgspec.to_builtins(sweep.read_sweep(path))

    assert (read["name"], read["why"]) == (text, text)
    assert read["axes"] | said["axes"] == read["axes"]
    assert read["protocol"] | said["protocol"] == read["protocol"]


@pytest.mark.parametrize("why", ["", "Because it is there."])
def test_a_reason_is_optional_and_shown_where_it_is_given(tmp_path: Path, why: str) -> None:
    file = tmp_path / "s.yaml"
    said = {"why": why} if why else {}
    axes = {"model": "llama-7b@tiny", "backend": {"fake": {"clock": "virtual"}}}
    file.write_text(json.dumps({"name": "s", **said, "axes": axes}))

    done = asked("sweep", file, "-o", tmp_path / "run", "--sessions", "1")

    assert done.code == 0, done.err
    assert bool(why) is ("Because it is there." in done.out)
    assert "\n\n\n" not in done.out
