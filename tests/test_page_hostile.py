"""Pages where names are hostile and runs are large: parsed, and in a real browser."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from llmbench.report import html
from llmbench.report.figures import cells as figures_cells
from llmbench.results.record import Finding, Status
from make_records import make_cell, make_record
from pages import Page, claims_of, comparison_of, grid, page_of, save, timed, told

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

OWNED = "document.documentElement.dataset.owned=1"
HOSTILE = (
    f"</script><script>{OWNED}</script>",
    f'<img src=x onerror="{OWNED}">',
    "org/model[/bold]",
    "abc\u202egnp.exe",
    "x" * 300,
    "x" * 299 + "y",
    "${7*7} datum['a.b'] \\ \" ' &amp; =1+1",
)
MOST_BYTES = 5_000_000


@pytest.fixture(scope="session")
def script() -> str:
    pytest.importorskip("vl_convert", reason="needs the report extra")
    return html.library()


@pytest.fixture(autouse=True)
def plain_script(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Give pages no library, but in tests that ask for it."""
    text = request.getfixturevalue("script") if "script" in request.fixturenames else ""
    monkeypatch.setattr(html, "library", lambda: text)


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    cells = [
        make_cell(number, model=name, options={name: name}) for number, name in enumerate(HOSTILE)
    ]
    ends = [
        timed(c, s, 0.1 * s, 0.01, warnings=[Finding(HOSTILE[0], HOSTILE[1])])
        for c in cells
        for s in (1, 2)
    ]
    lost = make_record(cells[0], 3, status=Status.CRASH, phase=HOSTILE[0], reason=HOSTILE[0])
    facts = {
        "name": HOSTILE[0],
        "why": HOSTILE[1],
        "command": HOSTILE[0],
        "machine": dict.fromkeys(HOSTILE, HOSTILE[1]),
    }
    return save(tmp_path / "run<img src=x>", [*ends, lost], cells, **facts)


PAGES = ("report", "compare", "claims")


def page_with(kind: str, names: Sequence[str], folder: Path) -> Page:
    """Return a page of one of the kinds: of a run and its copy, or of a claim with these names in it."""
    if kind == "claims":
        return claims_of(*names)
    twin = folder.parent / names[1].replace("/", "")
    twin = twin if twin.exists() else shutil.copytree(folder, twin)
    return (page_of if kind == "report" else comparison_of)(folder, twin)


@pytest.mark.parametrize("kind", PAGES)
def test_a_hostile_name_adds_no_element_and_no_attribute(
    kind: str, hostile: Path, tmp_path: Path
) -> None:
    ends = [timed(cell, s, 0.1, 0.01) for cell in grid() for s in (1, 2)]
    plain = page_with(kind, ("a", "b"), save(tmp_path / "plain", ends, grid()))

    page = page_with(kind, HOSTILE, hostile)

    assert any(held["spec"] for held in page.sections.values())
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in plain.tags} | {"script"}
    assert {name for _, held in page.tags for name in held} <= {
        name for _, held in plain.tags for name in held
    }
    assert [held.get("type") for tag, held in page.tags if tag == "script"].count("module") == 2
    assert "\u202e" not in page.text


def test_long_names_are_cut_and_stay_distinct(hostile: Path) -> None:
    rows = page_of(hostile).values("Throughput")

    series = {row["series"] for row in rows}
    assert len(series) == len(HOSTILE)
    assert all(len(part) < 100 for one in series for part in one.split(", "))


def test_nothing_is_fetched(hostile: Path) -> None:
    page = page_of(hostile)

    links = [
        value for _, held in page.tags for name, value in held.items() if name in ("src", "href")
    ]
    assert links
    assert all(value and value.startswith("#") for value in links)
    policy = next(held["content"] for _, held in page.tags if held.get("http-equiv"))
    assert policy
    assert policy.startswith("default-src 'none'")


# -- size ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ten_thousand_cells_with_long_names_stay_under_five_megabytes(
    tmp_path: Path, script: str
) -> None:
    assert script
    cells = [
        make_cell(n, model=HOSTILE[0] + "x" * 200 + str(n % 40), batch_size=2 ** (n % 7))
        for n in range(10_000)
    ]
    spike = [Finding("spike", "the slowest iteration took 2.4x the median")]
    folder = save(tmp_path / "run", (timed(c, 1, 0.1, 0.01, warnings=spike) for c in cells), cells)

    page = page_of(folder)

    assert len(page.text.encode()) < MOST_BYTES
    for title in ("Throughput", "Decode", "Results"):
        assert 0 < len(told(page, title)) <= figures_cells.MOST_POINTS
        assert "of 10,000 cells are shown" in page.section(title)["text"]
    assert len(page.values("Throughput")) == len(told(page, "Throughput"))


def test_thinning_keeps_what_comes_first_and_the_order() -> None:
    kept = figures_cells.thinned(list(range(100)), 10, lambda number: number % 20 == 7)

    assert len(kept) == 10
    assert kept == sorted(kept)
    assert {7, 27, 47, 67, 87} < set(kept)


# -- a real browser --------------------------------------------------------------------------------

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)

in_a_browser = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path"),
]


def after_loading(page: Path, profile: Path, what: str = "--dump-dom") -> str:
    """Return the page's document after its scripts have run, as Chromium writes it."""
    assert CHROMIUM
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    command = [CHROMIUM, "--headless", "--disable-gpu", f"--user-data-dir={profile}", *sandbox,
               "--virtual-time-budget=20000", "--window-size=1280,900", what, page.as_uri()]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=100).stdout


def marks(document: str) -> str:
    """Return the attributes of the document's root element."""
    found = re.search(r"<html[^>]*>", document)
    assert found
    return found[0]


class TestInABrowser:
    pytestmark = in_a_browser

    @pytest.mark.parametrize("kind", PAGES)
    def test_hostile_names_are_drawn_and_never_run(
        self, kind: str, hostile: Path, script: str, tmp_path: Path
    ) -> None:
        assert script
        page = page_with(kind, HOSTILE, hostile)
        (tmp_path / "page.html").write_text(page.text)

        document = after_loading(tmp_path / "page.html", tmp_path / "profile")

        plots = sum(bool(held["spec"]) for held in page.sections.values())
        assert 'data-drawn="yes"' in marks(document)
        assert "data-owned" not in marks(document)
        assert document.partition("</main>")[0].count("<svg") == plots
        assert "cannot be drawn" not in document.partition("</main>")[0]
        assert "org/model[/bold]" in document

    def test_a_print_holds_the_tables_behind_the_plots(self, script: str, tmp_path: Path) -> None:
        reader = shutil.which("pdftotext") or pytest.skip("no pdftotext on the path")
        assert script
        ends = [timed(cell, s, 0.1, 0.01) for cell in grid() for s in (1, 2)]
        page, target = tmp_path / "page.html", tmp_path / "page.pdf"
        page.write_text(page_of(save(tmp_path / "run", ends, grid())).text)

        after_loading(page, tmp_path / "profile", f"--print-to-pdf={target}")

        printed = subprocess.run((reader, target, "-"), capture_output=True, text=True, check=True)
        assert "each session against the middle" in " ".join(printed.stdout.split())

    @pytest.mark.parametrize("policy", [True, False])
    def test_the_policy_alone_stops_a_script_that_was_not_escaped(
        self, tmp_path: Path, *, policy: bool
    ) -> None:
        run = save(tmp_path / "run", [timed(cell, 1, 0.1, 0.01) for cell in grid()], grid())
        text = page_of(run).text.replace("</main>", f"<script>{OWNED}</script></main>")
        if not policy:
            text = re.sub(r"<meta http-equiv[^>]*>", "", text)
        (tmp_path / "page.html").write_text(text)

        document = after_loading(tmp_path / "page.html", tmp_path / "profile")

        assert ("data-owned" in marks(document)) is not policy
