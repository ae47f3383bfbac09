"""The claims themselves, their texts, and the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from claimed import asked, row
from llmbench import claims, cli, report
from llmbench.claims import Answer, ClaimVerdict, Evidence, Part
from llmbench.cost import prices
from llmbench.report.views import claims as views_claims
from llmbench.report.views.claims import Judged
from llmbench.run import plan
from llmbench.spec import configs, yaml
from llmbench.spec import sweep as spec_sweep
from llmbench.stats.interval import Interval

if TYPE_CHECKING:
    from collections.abc import Sequence

RESULTS = Path(__file__).parents[1] / "results"
SMALL = str(RESULTS / "2026-11-30-xeon-2cpu-cpu-small")

ARITHMETIC = {
    "training-price-per-parameter": ClaimVerdict.MIXED,
    "training-cost-decline": ClaimVerdict.CONTRADICTED,
    "gpt3-needs-thousands": ClaimVerdict.MIXED,
}
"""The claims that published figures answer without a measurement."""
WITHOUT_A_SWEEP = {
    "training-price-per-parameter", "training-cost-decline", "inference-takes-most-compute",
    "phone-runs-llama-2",
}  # fmt: skip

every_claim = pytest.mark.parametrize("name", claims.known())


def ran(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.run(["claims", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_every_claim_has_one_file_and_one_check() -> None:
    files = {path.stem for path in configs.folder("claims").glob("*.yaml")}

    assert files == set(claims.known())
    assert len(files) == 25


@every_claim
def test_a_claim_names_its_source_and_its_rule(name: str) -> None:
    found = claims.claim(name)

    assert found.id == name
    assert found.date[:4] == "2023"
    assert all((found.claim, found.predicts, found.needs, found.rule, found.tested, found.title))


@every_claim
def test_without_data_only_arithmetic_answers(name: str) -> None:
    answer = asked(name)

    assert answer.verdict is ARITHMETIC.get(name, ClaimVerdict.NOT_MEASURED)


@every_claim
def test_one_session_decides_nothing(name: str) -> None:
    """A cell that has no interval may be told, and may not settle a claim about time."""
    single = row("llama-7b", share=0.0)
    lonely = type(single)(
        **{**vars(single), "values": {k: v[:1] for k, v in single.values.items()}}
    )

    found = asked(name, lonely, usd_per_hour=1.0)

    timed = [part for part in found.parts if part.figure and part.rows]
    assert all(part.verdict is ClaimVerdict.INCONCLUSIVE for part in timed)


@every_claim
def test_the_sweep_that_would_settle_a_claim_can_be_planned(name: str) -> None:
    found = claims.claim(name)
    if found.sweep is None:
        assert name in WITHOUT_A_SWEEP
        return
    sweep = yaml.decode(found.sweep, spec_sweep.Sweep, name)

    planned = plan.plan(sweep)

    assert planned.cells
    assert not planned.refused


@pytest.mark.parametrize(
    "path", sorted(configs.folder("sweeps").glob("claims-*.yaml")), ids=lambda p: p.stem
)
def test_the_sweeps_of_all_claims_can_be_planned(path: Path) -> None:
    planned = plan.plan(spec_sweep.read_sweep(path))

    assert planned.cells
    assert not planned.refused


def judged(*parts: Part) -> Judged:
    return Judged(claims.claim("edge-models"), Answer(parts))


def told(judged: Sequence[Judged], format: str = "terminal") -> str:
    return report.render(
        views_claims.document(judged, None, Evidence((), prices.PriceOptions())), format
    )


def test_a_mixed_verdict_says_what_is_true_for_which() -> None:
    conditions = [Part(f"batch {n}", ClaimVerdict.CONTRADICTED, "costs") for n in (4, 8, 16, 32)]

    text = views_claims.verdict_of(
        judged(Part("batch 1", ClaimVerdict.SUPPORTED, "costs"), *conditions)
    )

    assert text == "true for batch 1; false for batch 4, batch 8, batch 16 and 1 more"


def test_a_figure_stands_with_its_interval() -> None:
    figure = Interval(1.5, 1.25, 1.8)
    several = judged(Part("batch 1", ClaimVerdict.SUPPORTED, "costs", figure, "x"))
    alone = judged(
        Part("batch 1", ClaimVerdict.INCONCLUSIVE, "costs", figure._replace(low=float("nan")))
    )

    assert "1.50 (1.25 to 1.80) x" in told([several])
    assert "1.50 (no interval)" in told([alone])


def test_an_assumed_number_can_be_read() -> None:
    names = ("serving-fleet", "inference-cost-decline")

    text = told([Judged(claims.claim(name), Answer()) for name in names])

    assert "assumes: monthly_users 280,000,000: " in text
    assert "assumes: baseline_year 2023.55: " in text


def test_copies_and_cpus_are_called_so() -> None:
    rows = (row("llama-7b@small"),)

    data = views_claims.data_of(Answer((Part("", ClaimVerdict.SUPPORTED, "", rows=rows),)))

    assert data == "CPU data, copies at a 64th of their models"


@pytest.mark.parametrize("format", ["terminal", "markdown", "json"])
def test_hostile_names_stay_text(format: str) -> None:
    hostile = row("llama-7b")
    cell = type(hostile.cell)(**{
        **{f: getattr(hostile.cell, f) for f in hostile.cell.__struct_fields__},
        "id": "x\x1b[31m|y",
    })  # fmt: skip
    rows = (type(hostile)(**{**vars(hostile), "cell": cell}),)

    text = told([judged(Part("a\x1b|b", ClaimVerdict.SUPPORTED, "is", rows=rows))], format)

    assert "\x1b" not in text


# -- the command ---------------------------------------------------------------------------------------


def test_the_table_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ran(capsys, SMALL, "--usd-per-hour", "0.1")

    assert code == 0
    assert "\ncontext-is-memory\n    verdict: supported\n" in out
    assert "llmbench claims --plan moe-cuts-cost" in " ".join(out.split())
    assert out.splitlines()[1].startswith("25 claims: ")


@pytest.mark.parametrize("format", ["terminal", "markdown", "csv", "json"])
def test_every_format_says_what_was_tested(format: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = ran(capsys, "--claim", "sub-50b-cheaper-than-llama", "--format", format)

    assert "That smaller dense models cost less to serve" in " ".join(out.split())


def test_json_carries_cells_and_both_ends(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ran(capsys, SMALL, "--claim", "edge-models", "--format", "json")

    [found] = json.loads(out)
    assert code == 0
    assert found["verdict"] == "supported"
    assert found["parts"][0]["low"] < found["parts"][0]["value"] < found["parts"][0]["high"]
    assert found["parts"][0]["cells"][0]["run"] == "2026-11-30-xeon-2cpu-cpu-small"


def test_markdown_is_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = ran(capsys, SMALL, "--format", "markdown")

    rows = [line for line in out.splitlines() if line.startswith("|")]
    assert len(rows) == 27
    assert {line.replace(r"\|", "").count("|") for line in rows} == {5}


@pytest.mark.parametrize(
    ("claim", "code"),
    [("training-cost-decline", 1), ("context-is-memory", 0), ("edge-models", 0)],
)
def test_it_fails_only_when_asked(
    claim: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ran(capsys, SMALL, "--claim", claim)[0] == 0
    assert ran(capsys, SMALL, "--claim", claim, "--fail-on", "contradicted")[0] == code


def test_the_plan_is_a_sweep_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    code, out, _ = ran(capsys, "--plan", "moe-cuts-cost")

    file = tmp_path / "moe-cuts-cost.yaml"
    sweep = spec_sweep.read_sweep(file)
    assert code == 0
    assert out.startswith("moe-cuts-cost.yaml: ")
    assert "mixtral-8x7b-v0.1" in sweep.axes.model
    assert [line.split(":")[0] for line in file.read_text().splitlines() if line[0] != " "] == [
        "name", "why", "axes", "protocol",
    ]  # fmt: skip
    assert ran(capsys, "--plan", "moe-cuts-cost")[0] == 2, "it never overwrites"


def test_without_a_run_every_claim_says_what_it_needs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, _ = ran(capsys)

    assert code == 0
    assert [name for name in claims.known() if f"\n{name}\n" not in out] == []
    assert out.count("measured: Needs: ") == 22, "arithmetic needs nothing"
    assert "1 claim: 1 not measured.\n" in ran(capsys, "--claim", "moe-cuts-cost")[1]


def test_no_line_is_longer_than_a_narrow_screen_is_wide(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")

    lines = ran(capsys)[1].splitlines()

    assert max(map(len, lines)) == 60


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--published",), "give the folder of a run"),
        (("--price", "amazon"), "--price: 'amazon' is not a provider in any chip's file"),
        ((SMALL, "--claim", "moe-cuts-costs"), "Did you mean 'moe-cuts-cost'?"),
        (("--plan", "edge"), "there is no claim 'edge'"),
        (("--plan", "training-price-per-parameter"), "no sweep of one's own settles it"),
        (("nowhere",), "nowhere: does not exist"),
        ((SMALL, "--usd-per-hour", "-1"), "a price must be above 0"),
    ],
)
def test_a_mistake_has_one_line(
    arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = ran(capsys, *arguments)

    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err


def test_every_part_of_an_answer_names_its_cells(capsys: pytest.CaptureFixture[str]) -> None:
    found: list[dict[str, Any]] = json.loads(
        ran(capsys, SMALL, "--format", "json", "--usd-per-hour", "0.1")[1]
    )

    for claim in found:
        if claim["id"] not in ARITHMETIC:
            assert all(part["cells"] for part in claim["parts"]), claim["id"]
