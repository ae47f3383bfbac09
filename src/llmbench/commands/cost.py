"""The `cost` command: what a token of each cell costs, by a rule that is named."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from llmbench import cost, numbers
from llmbench.commands.options import tell
from llmbench.cost import prices
from llmbench.errors import RunError, SpecError
from llmbench.models import scaled
from llmbench.models.resolve import AT
from llmbench.report import rows as report_rows
from llmbench.report.views.run import head
from llmbench.results import cells as results_cells
from llmbench.results import store, table

COLUMNS = (
    report_rows.Column("model", "model"),
    report_rows.Column("batch_size", "batch", numbers.whole),
    report_rows.Column("input_len", "in", numbers.whole),
    report_rows.Column("output_len", "out", numbers.whole),
)
"""What every row has; whatever else varies stands behind the model, or two rows would look alike."""
KINDS = {"output": "$/1M output", "input": "$/1M input", "token": "$/1M tokens"}
BREAK_EVEN = (
    "Break-even: the volume, input and output, from which this machine, paid day and night, costs no"
    " more than the API for the same requests; above 100 % it cannot serve so much."
)
DURATIONS = {"ms": 1e-3, "s": 1.0}


def command(  # noqa: PLR0913, PLR0917 - one parameter a flag
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    usd_per_hour: Annotated[
        float | None, typer.Option(help="What an hour of the whole machine costs, in dollars.")
    ] = None,
    usd_per_gpu_hour: Annotated[
        float | None, typer.Option(help="What an hour of one GPU costs, in dollars.")
    ] = None,
    price: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[@DATE]", help="Take the chip's listed price of a provider: aws, lambda."
        ),
    ] = None,
    charge: Annotated[
        Literal["output", "total", "split"],
        typer.Option(
            help="Which tokens are charged: output, all of them, or each phase to its own."
        ),
    ] = "output",
    utilisation: Annotated[
        float,
        typer.Option(help="Share of the paid time at the measured pace, above 0 and up to 1."),
    ] = 1.0,
    usd_per_kwh: Annotated[
        float | None, typer.Option(help="Price the energy, too, where it was measured.")
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
    format: Annotated[
        Literal["terminal", "markdown", "csv", "json"],
        typer.Option("--format", help="How to write it."),
    ] = "terminal",
) -> None:
    """Say what a token costs at a price per hour."""
    asked = prices.PriceOptions(usd_per_hour, usd_per_gpu_hour, price)
    prices.check(asked)
    if not 0 < utilisation <= 1:
        raise SpecError(
            f"--utilisation: {utilisation:g} is no share; give one above 0 and up to 1."
        )
    cells = results_cells.read(store.read(run, tell=tell), run.name)
    hours = [prices.hour(asked, cell) for cell in cells]
    costs = [
        found
        for cell, hour in zip(cells, hours, strict=True)
        if (found := cost.cost(cell, charge, hour.usd, utilisation, usd_per_kwh))
    ]
    if not costs:
        raise RunError(
            f"{run}: no cell has a valid session with its batch, its lengths and the times that "
            f"--charge {charge} divides by, so nothing has a cost."
        )
    others = _others(cells)
    rows = [_row(one, others) for one in costs]
    breaks = [_break_row(one, row, others) for one, row in _breaks(cells, hours, against)]
    heads = [*_heads(hours, charge, utilisation), *_copies(cells)]
    best = tpot_under and _cheapest(costs, tpot_under)
    if format in {"csv", "json"}:
        sys.stdout.write(_plain(rows, breaks, heads, best, format))
    else:
        left = _columns(others)
        sys.stdout.write(_people(left, rows, breaks, [*heads, *([best] if best else [])], format))


def _heads(hours: Sequence[prices.Hour], charge: str, utilisation: float) -> list[str]:
    said = "; ".join(dict.fromkeys(hour.said for hour in hours))
    busy = f"busy {utilisation:.0%} of the paid time"
    return [f"Price: {said}; {busy}.", f"Rule ({charge}): {cost.CHARGES[charge].rule}."]


def _copies(cells: Sequence[results_cells.Measured]) -> Iterator[str]:
    """Yield what must be known of a price if models were scaled down."""
    if any(one.cell.model.partition(AT)[2] in scaled.SIZES for one in cells):
        yield f"NAME{AT}SIZE is a small copy of a model: its tokens cost a fraction of the model's."


def _others(cells: Sequence[results_cells.Measured]) -> dict[str, dict[str, object]]:
    """Return what tells each cell apart besides what every row has, by the cell's id."""
    usual = {column.key for column in COLUMNS}
    axes = [
        axis for axis in table.axes_of([one.cell for one in cells])[0] if axis.name not in usual
    ]
    return {
        one.cell.id: {axis.name: axis.values[number] for axis in axes}
        for number, one in enumerate(cells)
    }


def _columns(others: Mapping[str, Mapping[str, object]]) -> list[report_rows.Column]:
    names = next(iter(others.values()), {})
    return [COLUMNS[0], *(report_rows.Column(name, head(name)) for name in names), *COLUMNS[1:]]


def _row(one: cost.Cost, others: Mapping[str, Mapping[str, object]]) -> dict[str, Any]:
    cell = one.measured.cell
    facts: dict[str, Any] = {
        "cell": cell.id,
        **{column.key: getattr(cell, column.key) for column in COLUMNS},
        "backend": cell.backend,
        **others[cell.id],
        **{f"usd_per_1m_{kind}": usd for kind, usd in one.usd.items()},
    }
    if one.measured.has("tpot_s"):
        facts["tpot_s"] = one.measured.figure("tpot_s")
    if one.energy_usd:
        facts["energy_usd_per_1m_output"] = one.energy_usd
    return facts


def _breaks(
    cells: Sequence[results_cells.Measured], hours: Sequence[prices.Hour], against: str | None
) -> Iterator[tuple[results_cells.Measured, cost.BreakEven]]:
    for cell, hour in zip(cells, hours, strict=True):
        for row in prices.against(against, cell.cell.model):
            yield cell, cost.break_even(cell, hour.usd, row)


def _break_row(
    measured: results_cells.Measured,
    found: cost.BreakEven,
    others: Mapping[str, Mapping[str, object]],
) -> dict[str, Any]:
    cell = measured.cell
    return {
        "cell": cell.id,
        **{column.key: getattr(cell, column.key) for column in COLUMNS},
        **others[cell.id],
        "api": found.price.name,
        "tokens_per_day": found.tokens_per_day,
        "utilisation": found.utilisation,
    }


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
    raise SpecError(f"--tpot-under: {text!r} is no time; give one such as 50ms or 0.05s.")


def _people(
    left: Sequence[report_rows.Column],
    rows: Sequence[dict[str, Any]],
    breaks: Sequence[dict[str, Any]],
    heads: Sequence[str],
    format: str,
) -> str:
    kinds = {f"usd_per_1m_{kind}": head for kind, head in KINDS.items()}
    known = {"tpot_s": "TPOT (ms)", **kinds, "energy_usd_per_1m_output": "energy $/1M output"}
    figures = [
        report_rows.Column(key, head, numbers.plus_minus)
        for key, head in known.items()
        if any(key in row for row in rows)
    ]
    shown = [{**dict.fromkeys(column.key for column in figures), **_in_ms(row)} for row in rows]
    parts = list(heads) if format == "markdown" else [report_rows.wrapped(heads)]
    parts.append(report_rows.rows([*left, *figures], shown, format, len(left)))
    parts.append("±: 95 % interval between sessions, Student's t on logarithms.")
    if breaks:
        columns = (
            *left,
            report_rows.Column("api", "API"),
            report_rows.Column("tokens_per_day", "break-even tokens/day", _volume),
            report_rows.Column("utilisation", "at utilisation", _share),
        )
        parts.append(report_rows.rows(columns, breaks, format, len(left)))
        parts.append(report_rows.wrapped([BREAK_EVEN], format))
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _in_ms(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "tpot_s": row["tpot_s"].times(1e3)} if "tpot_s" in row else row


def _volume(tokens: float) -> str:
    return numbers.count(round(tokens))


def _share(figure: Any) -> str:
    return f"{numbers.digits(100 * figure.value)} %"


def _plain(
    rows: Sequence[dict[str, Any]],
    breaks: Sequence[dict[str, Any]],
    heads: Sequence[str],
    best: str | None,
    format: str,
) -> str:
    flat = [_flat(row) for row in rows]
    if format == "json":
        return report_rows.json(
            {
                "notes": [*heads, *([best] if best else [])],
                "cells": flat,
                "break_even": [_flat(row) for row in breaks],
            }
        )
    keys = dict.fromkeys(key for row in flat for key in row)
    columns = [report_rows.Column(key, key) for key in keys]
    return report_rows.rows(columns, [{**dict.fromkeys(keys), **row} for row in flat], format)


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row in which every figure stands beside both ends of its interval; None where there is none."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        flat |= _ends(key, value) if hasattr(value, "low") else {key: value}
    return flat


def _ends(key: str, figure: Any) -> dict[str, float | None]:
    low, high = (figure.low, figure.high) if figure.known else (None, None)
    return {key: figure.value, f"{key}_low": low, f"{key}_high": high}
