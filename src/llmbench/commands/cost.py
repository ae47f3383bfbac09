"""The `cost` command: what a token of each cell costs, by a rule that is named."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import typer

from llmbench import cost, numbers, report
from llmbench.commands.options import Format, Output, Price, Run, UsdPerGpuHour, UsdPerHour, tell
from llmbench.cost import prices
from llmbench.errors import RunError, SpecError
from llmbench.report.views import cost as views_cost
from llmbench.results import cells as results_cells
from llmbench.results import store

DURATIONS = {"ms": 1e-3, "s": 1.0}


def command(  # noqa: PLR0913, PLR0917 - one parameter a flag
    run: Run,
    usd_per_hour: UsdPerHour = None,
    usd_per_gpu_hour: UsdPerGpuHour = None,
    price: Price = None,
    charge: Annotated[
        Literal["output", "total", "good", "split"],
        typer.Option(
            help="Which tokens are charged: output, all of them, output of requests within their limits, or each phase "
            "to its own."
        ),
    ] = "output",
    utilisation: Annotated[
        float,
        typer.Option(help="Share of the paid time in use, above 0 and up to 1."),
    ] = 1.0,
    usd_per_kwh: Annotated[
        float | None,
        typer.Option(help="Price of a kWh, to add the cost of energy where it was measured."),
    ] = None,
    tpot_under: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Name the cheapest cell with a time per token under this: 50ms."
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="WORDS", help="Compare with the API prices whose name holds these words."
        ),
    ] = None,
    format: Format = "terminal",
    output: Output = None,
) -> None:
    """Say what a token costs at a price per hour."""
    asked = prices.PriceOptions(usd_per_hour, usd_per_gpu_hour, price)
    prices.check(asked)
    if not 0 < utilisation <= 1:
        raise SpecError(
            f"--utilisation: {utilisation:g} is not a share; give one above 0 and up to 1."
        )
    destination = report.destination("cost", format, output)
    cells = results_cells.read(store.read(run, tell=tell), run.name, sized=False)
    hours = [prices.hour(asked, cell) for cell in cells]
    costs = [
        cell_cost
        for cell, hour in zip(cells, hours, strict=True)
        if (cell_cost := cost.cost(cell, charge, hour.usd, utilisation, usd_per_kwh))
    ]
    if not costs:
        raise RunError(
            f"{run}: no cell has a valid session with the sizes and the times that "
            f"--charge {charge} divides by, so nothing has a cost."
        )
    breaks = list(_breaks(cells, hours, against))
    if against and not breaks:
        raise SpecError(
            f"--against: {run} has no batch of known lengths with a rate, which is what an API's price is set against."
        )
    best = _cheapest(costs, tpot_under) if tpot_under else ""
    destination.write(
        views_cost.document(
            views_cost.TokenCosts(cells, hours, charge, utilisation, costs, breaks, best)
        )
    )


def _breaks(
    cells: Sequence[results_cells.Measured], hours: Sequence[prices.Hour], against: str | None
) -> Iterator[tuple[results_cells.Measured, cost.BreakEven]]:
    for cell, hour in zip(cells, hours, strict=True):
        if not cell.has("output_tok_s") or None in (cell.cell.input_len, cell.cell.output_len):
            continue
        for row in prices.against(against, cell.cell.model):
            yield cell, cost.break_even(cell, hour.usd, row)


def _cheapest(costs: Sequence[cost.Cost], tpot_under: str) -> str:
    bound = _seconds(tpot_under)
    best = cost.cheapest(costs, bound)
    if best is None:
        return f"Under {tpot_under} a token: no cell."
    return (
        f"Cheapest under {tpot_under} a token: {best.measured.cell.where()}, "
        f"${numbers.plus_minus(best.main)} per 1M."
    )


def _seconds(text: str) -> float:
    for unit, factor in DURATIONS.items():
        number = text.strip().removesuffix(unit)
        if number != text.strip():
            try:
                return float(number) * factor
            except ValueError:
                break
    raise SpecError(f"--tpot-under: {text!r} is not a time; give one such as 50ms or 0.05s.")
