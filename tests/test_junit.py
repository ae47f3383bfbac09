"""JUnit's XML of comparisons and runs: the layout that CI systems read, and green exactly if the exit code is 0."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from llmbench import cli
from llmbench.results.record import Finding, Status
from llmbench.spec.sweep import Protocol
from make_records import make_cell, make_plan, make_record, make_samples, write_lines
from sweeps import Bench, asked

if TYPE_CHECKING:
    from pathlib import Path
    from xml.etree.ElementTree import Element

SLOWER, FASTER, SAME, LOST, LOST_BEFORE = (make_cell(number) for number in range(5))
PACES = {SLOWER.id: 1.5, FASTER.id: 0.5, SAME.id: 1.0}

LAYOUT = {
    "testsuites": ({"name", "tests", "failures", "errors", "skipped"}, {"testsuite"}),
    "testsuite": (
        {"name", "tests", "failures", "errors", "skipped"},
        {"properties", "testcase", "system-err"},
    ),
    "properties": (set(), {"property"}),
    "property": ({"name", "value"}, set()),
    "testcase": ({"classname", "name"}, {"failure", "error", "skipped", "system-out"}),
    **dict.fromkeys(("failure", "error", "skipped"), ({"type", "message"}, set())),
    **dict.fromkeys(("system-out", "system-err"), (set(), set())),
}
"""Each element's attributes and children: a part of the schema of Jenkins' xUnit plugin, which GitLab and the others
read too."""

READS = {"failure": "failures", "error": "errors", "skipped": "skipped"}


def read(text: str) -> Element:
    """Return the root of an XML text that keeps to the layout, with counts that hold."""
    root = ET.fromstring(text.encode())  # noqa: S314 - our own text
    assert root.tag == "testsuites"
    for element in root.iter():
        attributes, children = LAYOUT[element.tag]
        assert set(element.attrib) == attributes
        assert {child.tag for child in element} <= children
    for element in (root, *root):
        cases = list(element.iter("testcase"))
        assert element.get("tests") == str(len(cases))
        for tag, attribute in READS.items():
            counted = sum(case.find(tag) is not None for case in cases)
            assert element.get(attribute) == str(counted)
    assert all(len(case) <= 1 for case in root.iter("testcase"))
    return root


def outcomes(root: Element) -> dict[str, str]:
    """Return the outcome of every testcase by its name."""
    ended = {
        case.get("name", ""): [child.tag for child in case if child.tag in READS]
        for case in root.iter("testcase")
    }
    return {name: tags[0] if tags else "passed" for name, tags in ended.items()}


def runs(folder: Path, cells: tuple[str, ...], noise: float = 0.001) -> list[str]:
    """Write a baseline and a candidate with these cells, and return their folders."""
    every = [cell for cell in (SLOWER, FASTER, SAME, LOST, LOST_BEFORE) if cell.id in cells]
    for name in ("a", "b"):
        lines = []
        for cell, session in itertools.product(every, (1, 2, 3)):
            if cell.id == {"a": LOST_BEFORE.id, "b": LOST.id}[name]:
                lines.append(
                    make_record(cell, session, status=Status.OOM, phase="load", reason="no <room>")
                )
                continue
            pace = PACES.get(cell.id, 1.0) if name == "b" else 1.0
            samples = make_samples(
                [pace * (1 + noise * session * (1 if name == "a" else -1))], 0.1, 16
            )
            lines.append(make_record(cell, session, samples))
        write_lines(folder / name, [make_plan(every, run=name), *lines])
    return [str(folder / "a"), str(folder / "b")]


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Element]:
    code = cli.run([*arguments, "--format", "junit"])
    return code, read(capsys.readouterr().out)


THREE = (SLOWER.id, FASTER.id, SAME.id)
ALL = (*THREE, LOST.id, LOST_BEFORE.id)


def test_a_cell_fails_by_its_verdict_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, root = told(capsys, "compare", *runs(tmp_path, ALL))

    assert code == 1
    assert outcomes(root) == {
        SLOWER.id: "failure", FASTER.id: "passed", SAME.id: "passed",
        LOST.id: "error", LOST_BEFORE.id: "error",
    }  # fmt: skip
    failure = root.find(".//failure")
    assert failure is not None
    assert failure.get("type") == "slower"
    assert "ratio: 1.49" in failure.get("message", "")
    assert "no <room>" in root.findall(".//error")[0].get("message", "")


@pytest.mark.parametrize("cells", [THREE, THREE[1:], ALL[1:], ALL[3:]])
@pytest.mark.parametrize("noise", [0.001, 0.9])
@pytest.mark.parametrize("fail_on", ["slower", "faster", "unclear", "slower,missing", "none"])
@pytest.mark.parametrize("allow", [(), ("--allow-missing",)])
def test_a_report_is_green_exactly_if_the_exit_code_is_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
    cells: tuple[str, ...], noise: float, fail_on: str, allow: tuple[str, ...],
) -> None:  # fmt: skip
    code, root = told(
        capsys, "compare", *runs(tmp_path, cells, noise / 3), "--fail-on", fail_on, *allow
    )

    assert (root.get("failures") == root.get("errors") == "0") == (code == 0)
    assert (root.get("failures") != "0") == (code == 1)


def test_a_run_has_a_test_a_cell_with_its_reasons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, invalid, lost, skipped, later = (make_cell(number) for number in range(5))
    samples = make_samples([1.0], 0.25, 16)
    wrong = [Finding("token_count", "15 of 16 tokens")]
    lines = [
        *(make_record(good, session, samples) for session in (1, 2)),
        make_record(invalid, 1, samples),
        make_record(invalid, 2, samples, status=Status.INVALID, problems=wrong, reason="15 tokens"),
        *(make_record(lost, n, status=Status.OOM, phase="warmup", reason="no\x1broom") for n in (1, 2)),
        *(make_record(skipped, n, status=Status.SKIPPED, reason="does not fit") for n in (1, 2)),
        make_record(later, 1, samples),
    ]  # fmt: skip
    cells = [good, invalid, lost, skipped, later]
    write_lines(tmp_path / "run", [make_plan(cells, settings=Protocol(sessions=2)), *lines])

    code, root = told(capsys, "table", str(tmp_path / "run"))

    assert code == 0
    assert outcomes(root) == {
        good.id: "passed", invalid.id: "failure", lost.id: "error",
        skipped.id: "skipped", later.id: "error",
    }  # fmt: skip
    messages = [child.get("message", "") for child in root.iter() if child.tag in READS]
    assert messages == [
        "1 session invalid: 15 tokens",
        r"2 sessions oom in warmup: no\x1broom",
        "2 sessions skipped: does not fit",
        "1 session not measured yet",
    ]


def test_the_worst_end_of_a_cell_names_its_outcome(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = (Status.SKIPPED, Status.CRASH, Status.INVALID)
    lines = [make_record(SAME, n, status=status, reason="so") for n, status in enumerate(ends, 1)]
    write_lines(tmp_path / "run", [make_plan([SAME]), *lines])

    _, root = told(capsys, "table", str(tmp_path / "run"))

    failure = root.find(".//failure")
    assert failure is not None
    assert failure.get("type") == "invalid"


def test_a_session_is_a_test_if_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lost = make_record(SAME, 2, status=Status.TIMEOUT, reason="over 10 s")
    lines = [make_record(SAME, 1, make_samples([1.0], 0.25, 16)), lost]
    write_lines(tmp_path / "run", [make_plan([SAME]), *lines])

    _, root = told(capsys, "table", str(tmp_path / "run"), "--per-session")

    assert outcomes(root) == {f"{SAME.id} session 1": "passed", f"{SAME.id} session 2": "error"}


def test_a_sweep_ends_with_its_tests_on_standard_output(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    file = bench.write(fault="error", when="batch_size=2", axes={"batch_size": [1, 2]})

    done = asked("sweep", file, "-o", bench.run, "--format", "junit", "--allow-shared")

    assert done.code == 3, done.err
    assert list(outcomes(read(done.out)).values()) == ["passed", "error"]
    assert "sessions to run" in done.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("table RUN --predicted --format junit", "leave out --predicted"),
        ("sweep quickstart --dry-run --format junit", "leave out --dry-run"),
        ("sweep quickstart --format html", "only works together with --dry-run"),
        ("models --format junit", "junit"),
    ],
)
def test_what_is_no_test_gets_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: str, sentence: str
) -> None:
    write_lines(tmp_path / "run", [make_plan([SAME])])

    code = cli.run(arguments.replace("RUN", str(tmp_path / "run")).split())

    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "")
    assert sentence in captured.err
