"""Costs by hand: the hour is charged once, by the rule that is named, and every mistake has its line."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from claimed import row
from llmbench import cli, cost
from llmbench.cost import prices
from llmbench.cost.prices import PriceOptions
from llmbench.errors import SpecError
from llmbench.machine import chips
from llmbench.results import cells as results_cells
from llmbench.results import store
from make_records import make_cell, make_plan, make_record, make_samples

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from llmbench.results.cells import Measured
    from llmbench.spec.sweep import Cell

H200 = {"name": "h200", "gpus": [{"name": "NVIDIA H200", "memory_bytes": 150_754_820_096}]}
LENGTHS = {"model": "llama-7b@tiny", "batch_size": 4, "input_len": 100, "output_len": 20}
CELL = make_cell(0, **LENGTHS)


@pytest.fixture
def measured(tmp_path: Path) -> Callable[..., list[Measured]]:
    """Return a function that writes a run of cells and sessions and reads it back."""

    def write(*cells: tuple[Cell, list[float]], folder: str = "run", **plan: Any) -> list[Measured]:
        with store.open_run(tmp_path / folder) as run:
            run.append(make_plan([cell for cell, _ in cells], **plan))
            for cell, times in cells:
                for session, e2e_s in enumerate(times, 1):
                    samples = make_samples([e2e_s] * 3, 0.25 * e2e_s, cell.output_len)
                    samples = [msgspec.structs.replace(s, energy_mj=6_000) for s in samples]
                    run.append(make_record(cell, session, samples))
        return results_cells.read(store.read(tmp_path / folder), folder)

    return write


def test_the_whole_hour_is_charged_to_output(measured: Any) -> None:
    [row] = measured((CELL, [2.0, 2.0]))

    found = cost.per_million(row, "output", hour_usd=3.6)

    # 4 x 20 tokens in 2 s are 40 a second, 144,000 an hour for $3.60: $25 a million
    assert found["output"].value == pytest.approx(25.0)


def test_a_machine_busy_half_the_time_costs_twice(measured: Any) -> None:
    [row] = measured((CELL, [2.0, 2.0]))

    assert cost.per_million(row, "output", 3.6, 0.5)["output"].value == pytest.approx(50.0)


def test_all_tokens_alike(measured: Any) -> None:
    [row] = measured((CELL, [2.0, 2.0]))

    # 4 x 120 tokens in 2 s: a sixth of the price of output alone
    assert cost.per_million(row, "total", 3.6)["token"].value == pytest.approx(25.0 / 6)


@pytest.mark.parametrize(
    ("charge", "tokens"),
    [
        ("output", {"output": 80}),
        ("total", {"token": 480}),
        ("split", {"input": 400, "output": 80}),
    ],
)
def test_the_hour_is_charged_once(measured: Any, charge: str, tokens: dict[str, int]) -> None:
    [row] = measured((CELL, [2.0, 2.0]))

    found = cost.per_million(row, charge, hour_usd=3.6)

    bill = sum(found[kind].value * count / 1e6 for kind, count in tokens.items())
    assert found.keys() == tokens.keys()
    assert bill == pytest.approx(2.0 * 3.6 / 3600)  # what two seconds of the machine cost


def test_the_good_tokens_of_a_server_pay_for_all() -> None:
    values = {"goodput_rps": 2.0, "steady_output_tok_s": 64.0}
    served = row(output_len=16, options={"load": "8"}, values=values)
    trace = row(output_len=16, options={"load": "trace x.csv"}, values=values)

    # 2 requests a second of 16 tokens: 32 tokens in a second of 0.1 cent
    assert cost.per_million(served, "good", 3.6)["output"].value == pytest.approx(31.25, rel=0.001)
    assert cost.per_million(trace, "good", 3.6) == {}


def test_split_charges_the_first_token_to_the_prompt(measured: Any) -> None:
    [row] = measured((CELL, [2.0, 2.0]))

    found = cost.per_million(row, "split", hour_usd=3.6)

    # TTFT is 0.5 s for 400 prompt tokens; the other 1.5 s are spread over 80 new ones.
    assert found["input"].value == pytest.approx(1e6 * 0.001 * 0.5 / 400)
    assert found["output"].value == pytest.approx(1e6 * 0.001 * 1.5 / 80)


def test_the_interval_is_that_of_the_times(measured: Any) -> None:
    [row] = measured((CELL, [1.9, 2.0, 2.1]))

    found, times = cost.per_million(row, "output", 3.6)["output"], row.figure("e2e_s")

    assert found.low / found.value == pytest.approx(times.low / times.value)
    assert found.high / found.value == pytest.approx(times.high / times.value)


def test_one_token_has_no_decoding_to_charge(measured: Any) -> None:
    one = make_cell(1, output_len=1)
    [row] = measured((one, [2.0, 2.0]))

    assert "output" not in cost.per_million(row, "split", 3.6)


def test_energy_is_priced_where_it_was_measured(measured: Any) -> None:
    [row] = measured((CELL, [2.0, 2.0]))

    found = cost.cost(row, "output", 3.6, kwh_usd=0.3)

    # 6 J an iteration over 80 tokens: 0.075 J a token, 75,000 J a million, of 3.6 MJ a kWh for $0.30
    assert found is not None
    assert found.energy_usd is not None
    assert found.energy_usd.value == pytest.approx(75_000 / 3.6e6 * 0.3)


def test_the_cheapest_cell_lies_under_the_bound_with_its_interval(measured: Any) -> None:
    large = make_cell(0, batch_size=64, input_len=100, output_len=20)
    rows = measured((CELL, [1.9, 2.0, 2.1]), (large, [3.9, 4.0, 4.1]))
    costs = [found for row in rows if (found := cost.cost(row, "output", 3.6))]

    tight, loose = cost.cheapest(costs, 0.1), cost.cheapest(costs, 0.2)

    assert tight is not None
    assert tight.measured.cell == CELL  # 1.5 s over 19 steps
    assert loose is not None
    assert loose.measured.cell == large  # slower, and sixteen times the tokens
    assert cost.cheapest(costs, 0.08) is None, "79 ms, but its interval reaches over 80"


def test_break_even_is_where_both_bills_are_the_same(measured: Any) -> None:
    [row] = measured((CELL, [2.0, 2.0]))
    api = prices.ApiPrice(
        model="m", provider="p", date="2024", input_usd=1.0, output_usd=5.0, source="s"
    )

    found = cost.break_even(row, hour_usd=1.0, price=api)

    # A request of 100 and 20 tokens costs $0.0002, so $24 a day are 120,000 requests, 14.4 million tokens.
    # The machine answers 4 in 2 s, 172,800 a day.
    assert found.tokens_per_day == pytest.approx(120_000 * 120)
    assert found.utilisation.value == pytest.approx(120_000 / 172_800)


# -- prices --------------------------------------------------------------------------------------------


def on_gpu(measured: Any, **changes: Any) -> Measured:
    cell = make_cell(0, device="cuda", **changes)
    [row] = measured((cell, [2.0]), machine=H200)
    found: Measured = row
    return found


def test_a_listed_price_is_the_chips_own(measured: Any) -> None:
    found = prices.hour(PriceOptions(provider="aws"), on_gpu(measured))

    [listed] = [row for row in chips.chip("h200").prices if row.provider.startswith("AWS")]
    assert found.usd == listed.usd_per_hour
    assert listed.provider in found.said
    assert str(listed.date) in found.said


@pytest.mark.parametrize(
    ("options", "usd"),
    [
        ({"tensor_parallel_size": 2}, 5.0),
        ({"pipeline_parallel_size": 4}, 10.0),
        ({"tensor_parallel_size": 2, "pipeline_parallel_size": 4}, 20.0),
    ],
)
def test_every_gpu_of_several_is_paid_for(
    measured: Any, options: dict[str, int], usd: float
) -> None:
    row = on_gpu(measured, options=options)

    assert prices.hour(PriceOptions(usd_per_gpu_hour=2.5), row).usd == usd


@pytest.mark.parametrize(
    ("asked", "machine", "says"),
    [
        (PriceOptions(), H200, r"no price was chosen; h200 has aws@2026-03"),
        (PriceOptions(provider="lambda"), H200, r"--price: no price of 'lambda'; h200 has aws@2026-03"),
        (PriceOptions(provider="aws@2023"), H200, r"no price of 'aws@2023'"),
        (PriceOptions(provider="aws"), {"name": "x1", "gpus": [{"name": "X1"}]},
         "not a known chip; give --usd-per-gpu-hour"),
    ],
)  # fmt: skip
def test_a_missing_price_names_the_flag(
    asked: PriceOptions, machine: dict[str, Any], says: str, measured: Any
) -> None:
    [row] = measured((make_cell(0, device="cuda"), [2.0]), machine=machine)

    with pytest.raises(SpecError, match=says):
        prices.hour(asked, row)


def test_a_cpu_takes_the_price_of_the_machine(measured: Any) -> None:
    [row] = measured((CELL, [2.0]))

    with pytest.raises(SpecError, match="give --usd-per-hour"):
        prices.hour(PriceOptions(usd_per_gpu_hour=1.0), row)
    assert prices.hour(PriceOptions(usd_per_hour=0.2), row).usd == 0.2


def test_every_api_price_has_its_source_and_date() -> None:
    table = prices.api()

    assert len(table.prices) > 30
    assert all(row.date[:2] == "20" for row in table.prices)
    assert {row.source for row in table.prices} == set(table.sources)


def test_an_api_price_without_its_source_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no source 'nowhere'"):
        prices.ApiPrices(
            sources={},
            prices=[
                prices.ApiPrice(
                    model="m",
                    provider="p",
                    date="2024",
                    input_usd=1,
                    output_usd=1,
                    source="nowhere",
                )
            ],
        )


# -- the command ---------------------------------------------------------------------------------------


def ran(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.run(["cost", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command_says_price_rule_and_cost(
    measured: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured((CELL, [2.0, 2.0]))

    code, out, _ = ran(
        capsys, str(tmp_path / "run"), "--usd-per-hour", "3.6", "--against", "gpt-4o-mini"
    )

    assert code == 0
    assert "Price: $3.6 an hour of the machine, as given" in out
    assert "input is free" in out
    assert " 25.0" in out
    assert "OpenAI gpt-4o-mini, 2024-07-18" in out


@pytest.mark.parametrize(("model", "copy"), [("llama-7b@tiny", True), ("me@home/x", False)])
def test_the_price_of_a_copy_is_not_that_of_its_model(
    measured: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str, *, copy: bool
) -> None:
    measured((make_cell(0, model=model), [2.0, 2.0]))

    out = ran(capsys, str(tmp_path / "run"), "--usd-per-hour", "3.6")[1]

    assert ("NAME@SIZE is a small copy of a model" in out) is copy


def test_two_engines_are_never_two_rows_alike(
    measured: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_cell(1, **{**LENGTHS, "backend": "fake", "options": {"eager": True}})
    measured((CELL, [2.0, 2.0]), (other, [4.0, 4.0]))
    asked = (str(tmp_path / "run"), "--usd-per-hour", "3.6", "--against", "gpt-4o-mini")

    rows = [line.split() for line in ran(capsys, *asked)[1].splitlines() if "llama" in line]
    broken = json.loads(ran(capsys, *asked, "--format", "json")[1])["break_even"]

    assert [row[1:3] for row in rows] == [["transformers", "-"], ["fake", "True"]] * 2
    assert [row["backend"] for row in broken] == ["transformers", "fake"]
    assert [row["cell"] for row in broken] == [CELL.id, other.id]


def test_a_volume_that_the_machine_cannot_serve_is_said_to_be_over(
    measured: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured((CELL, [2.0, 2.0]))
    run = (str(tmp_path / "run"), "--against", "gpt-4o-mini", "--usd-per-hour")

    cheap, dear = (ran(capsys, *run, usd)[1] for usd in ("0.001", "3.6"))

    assert "never" not in cheap.split("Break-even")[1].split("Break-even:")[0]
    assert " never\n" in dear
    assert "never: it cannot serve that much" in " ".join(dear.split())


def test_csv_and_json_carry_both_ends(
    measured: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured((CELL, [1.9, 2.0, 2.1]))
    run = str(tmp_path / "run")

    [row] = csv.DictReader(
        io.StringIO(ran(capsys, run, "--usd-per-hour", "3.6", "--format", "csv")[1])
    )
    whole = json.loads(ran(capsys, run, "--usd-per-hour", "3.6", "--format", "json")[1])

    assert float(row["usd_per_1m_output_low"]) < 25.0 < float(row["usd_per_1m_output_high"])
    assert whole["cells"][0]["usd_per_1m_output"] == pytest.approx(float(row["usd_per_1m_output"]))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--usd-per-hour", "1", "--price", "aws"), "Give one of"),
        (("--usd-per-hour", "0"), "above 0"),
        (("--usd-per-hour", "1", "--utilisation", "1.5"), "is not a share"),
        (("--usd-per-hour", "1", "--tpot-under", "fast"), "is not a time"),
        (("--usd-per-hour", "1", "--against", "gpt-3.5-turbo-0999"), "Did you mean"),
        ((), "give --usd-per-hour"),
    ],
)
def test_a_mistake_has_one_line(
    flags: tuple[str, ...],
    says: str,
    measured: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    measured((CELL, [2.0, 2.0]))

    code, out, err = ran(capsys, str(tmp_path / "run"), *flags)

    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err


def test_a_run_without_times_has_no_costs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with store.open_run(tmp_path / "run") as run:
        run.append(make_plan([CELL]))
        run.append(make_record(CELL, 1))

    code, out, err = ran(capsys, str(tmp_path / "run"), "--usd-per-hour", "1")

    assert (code, out) == (2, "")
    assert "so nothing has a cost" in err
