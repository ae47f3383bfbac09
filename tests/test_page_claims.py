"""The page of `llmbench claims --format html`: each claim with what it predicts and what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from claimed import asked, row
from llmbench import claims, cli
from llmbench.claims import Evidence, published
from llmbench.cost import prices
from llmbench.report import html
from llmbench.report.views import claims as views_claims
from llmbench.report.views.claims import Judged
from llmbench.results.cells import Machine
from pages import Page, claims_of, told
from pages import drawn as as_page

RESULTS = Path(__file__).parents[1] / "results"
SMALL = str(RESULTS / "2026-11-30-xeon-2cpu-cpu-small")
BIG = str(RESULTS / "2026-11-30-xeon-2cpu-cpu-7b")
PRICE = ("--usd-per-hour", "0.1")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, with pages that hold no library."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(html, "library", lambda: "/* the library */")


def page_of(*arguments: str, code: int = 0) -> Page:
    """Run the command and return its page."""
    assert cli.run(["claims", *arguments, "--format", "html"]) == code
    return Page(Path("claims.html").read_text())


def drawn(name: str, *rows: Any, **given: Any) -> Page:
    """Return the page of one claim and these cells."""
    judged = Judged(claims.claim(name), asked(name, *rows, **given))
    return as_page(
        views_claims.document([judged], None, Evidence(rows, prices.PriceOptions(**given))),
        "claims",
    )


def test_every_claim_has_its_section_and_the_verdict_of_the_other_formats(capsys: Any) -> None:
    found = page_of(SMALL, BIG, *PRICE)

    capsys.readouterr()
    cli.run(["claims", SMALL, BIG, *PRICE, "--format", "json"])
    for claim in json.loads(capsys.readouterr().out):
        section = found.section(f"{claim['id']}: {claim['verdict']}")
        assert claim["predicts"] in section["text"]
        assert f"{claim['title']}, {claim['date']}" in section["text"]
        assert claim["in_words"] in section["text"]
        assert len(section["rows"][1:]) == len(claim["parts"])
    assert found.column("Verdicts", "claim") == claims.known()
    assert "Published figures" in found.sections


def test_the_page_says_what_was_held_against_and_at_which_price() -> None:
    found = page_of(SMALL, *PRICE)

    assert "Held against 2026-11-30-xeon-2cpu-cpu-small." in found.text
    assert "$0.1 an hour of the machine, as given" in found.text


def test_a_figure_stands_in_the_range_that_it_is_held_against() -> None:
    found = drawn(
        "edge-models", row("llama-7b", step_s=0.05, counted={"host_peak_rss_bytes": 10**9})
    )

    [dot] = found.values("edge-models")
    [told_of] = told(found, "edge-models")
    speed = claims.claim("edge-models").threshold("tokens_per_s")
    band = found.section("edge-models")["spec"]["layer"][0]["encoding"]["x"]
    assert (dot["from"], dot["to"]) == (speed, band["scale"]["domain"][1]), "it is open above"
    assert dot["x_low"] < dot["x"] < dot["x_high"] < dot["to"]
    assert told_of["verdict"] == dot["verdict"] == "supported"
    assert told_of["predicted"] == f"at least {speed:.1f}"
    assert told_of["figure"] == "20.0 (19.5 to 20.5) tok/s"
    assert told_of["cells"] == "llama-7b-b1-i128-o16"


def test_conditions_of_one_name_have_a_row_each() -> None:
    dots = claims_of("batch 1", "batch 1").values("edge-models")

    assert [dot["row"] for dot in dots] == ["batch 1", "batch 1 (2)"]


def test_what_is_not_measured_names_the_sweep_that_would_settle_it() -> None:
    found = drawn("moe-cuts-cost")

    section = found.section("moe-cuts-cost: not measured")
    assert "llmbench claims --plan moe-cuts-cost" in section["text"]
    assert (section["spec"], section["rows"]) == (None, [])


def test_what_is_assumed_is_told_with_its_reason() -> None:
    text = page_of(SMALL, "--claim", "serving-fleet").section("serving-fleet")["text"]

    assert "assumes: uses_per_user_month 60: our assumption: two questions a day" in text


def test_one_claim_stands_alone() -> None:
    found = page_of(SMALL, "--claim", "edge-models")

    assert list(found.sections) == ["", "Verdicts", "edge-models: supported", "Words"]


@pytest.mark.parametrize("more", [(), ("--claim", "edge-models")])
def test_published_figures_stand_alone_if_asked_for(more: tuple[str, ...]) -> None:
    found = page_of(BIG, "--published", *more)

    assert list(found.sections) == ["", "Published figures"]
    assert "another chip: measured on cpu, published on 1xA100-80GB" in found.column(
        "Published figures", "because"
    )


def test_a_reproduced_figure_is_drawn_in_its_tenth() -> None:
    rows = [
        row("mpt-7b", device="cuda", machine=Machine("a100", "a100-80gb-sxm", 1), input_len=512,
            output_len=64, values={"e2e_s": 0.988})
    ]  # fmt: skip
    compared = published.comparisons(rows)

    found = as_page(
        views_claims.document([], compared, Evidence(rows, prices.PriceOptions())), "claims"
    )

    dots = found.values("Published figures")
    assert len(dots) == sum(each.ratio is not None for each in compared) > 0
    assert {(dot["from"], dot["to"]) for dot in dots} == {(0.90909, 1.1)}
    assert any(dot["verdict"] == "reproduced" and abs(dot["x"] - 1) < 0.01 for dot in dots)


def test_it_fails_only_when_asked() -> None:
    claim = ("--claim", "training-cost-decline")

    page_of(SMALL, *claim)
    page_of(SMALL, *claim, "--fail-on", "contradicted", code=1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("-o", "page.html"),
            "only applies to --format html; send --format terminal to a file with >",
        ),
        (("--format", "html", "-o", "."), ".: is a folder. Name a file in it: claims.html"),
        (("--format", "html", "-o", "thesis.html"), "is not a page of llmbench"),
        (("--format", "html", "--claim", "edge-model"), "Did you mean 'edge-models'?"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("thesis.html").write_text("years of work")

    code = cli.run(["claims", SMALL, *arguments])

    out, err = capsys.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert sentence in err
    assert not Path("claims.html").exists()
