"""Cost per token: the price of a machine-hour, charged to tokens by a named rule, each second once.

Every figure is computed for each session and therefore has the interval of the times behind it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from llmbench.cost.prices import MILLION
from llmbench.spec.load import LOAD, TRACE, parse
from llmbench.stats.interval import Interval, around

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from llmbench.cost.prices import ApiPrice
    from llmbench.results.cells import Measured

HOUR_S = 3600.0
DAY_S = 86400.0
KWH_J = 3.6e6


class Charge(NamedTuple):
    """A rule: its description, and the machine-seconds charged to one token of each kind, by session."""

    rule: str
    seconds: Callable[[Measured], Mapping[str, Sequence[float]]]


OUTPUT_RATES = ("output_tok_s", "steady_output_tok_s", "served_output_tok_s")
"""Rates of new tokens that can be priced: of a batch, of a server in its steady window, of another tool's whole run."""


TOKEN_TIMES = ("tpot_s", "served_tpot_s")
"""Times per token that a limit can hold: of a batch, or of a server's requests."""


def _to_output(measured: Measured) -> Mapping[str, Sequence[float]]:
    return {"output": _inverse(measured, measured.first(OUTPUT_RATES))}


def _to_good(measured: Measured) -> Mapping[str, Sequence[float]]:
    """Charge the output tokens of the requests that met every limit; those of a trace have no common length."""
    if parse(str(measured.cell.options.get(LOAD, "1"))).kind == TRACE:
        return {}
    each = [seconds / measured.cell.output_len for seconds in _inverse(measured, "goodput_rps")]
    return {"output": each}


def _to_all(measured: Measured) -> Mapping[str, Sequence[float]]:
    rate = "total_tok_s" if measured.has("total_tok_s") else "served_total_tok_s"
    return {"token": _inverse(measured, rate)}


def _split(measured: Measured) -> Mapping[str, Sequence[float]]:
    """Charge the time to the first token to the prompt, and the rest of the time to new tokens.

    The prefill produces the first new token; the rest is spread over all n tokens. The two shares of a call add up
    to its time.
    """
    if None in (measured.cell.batch_size, measured.cell.output_len):
        return {}
    new = measured.cell.batch_size * measured.cell.output_len
    steps = measured.cell.output_len - 1
    return {
        "input": _inverse(measured, "prefill_tok_s"),
        "output": [tpot * steps / new for tpot in measured.values.get("tpot_s", ())],
    }


def _inverse(measured: Measured, key: str) -> list[float]:
    return [1 / value for value in measured.values.get(key, ())]


CHARGES: Mapping[str, Charge] = {
    "output": Charge("the whole hour is charged to output tokens, input is free", _to_output),
    "total": Charge("the hour is charged to all tokens alike, input and output", _to_all),
    "good": Charge(
        "the whole hour is charged to the output tokens of requests that met every limit", _to_good
    ),
    "split": Charge(
        "the time to the first token is charged to input, the time after it to output", _split
    ),
}


class Cost(NamedTuple):
    """The cost of a cell's tokens: dollars per million of each kind, under one rule."""

    measured: Measured
    usd: Mapping[str, Interval]
    energy_usd: Interval | None

    @property
    def main(self) -> Interval:
        """Return the cost by which cells are ranked: of output tokens, if charged."""
        return self.usd.get("output") or next(iter(self.usd.values()))


def per_million(
    measured: Measured, charge: str, hour_usd: float, utilisation: float = 1.0
) -> dict[str, Interval]:
    """Return dollars per million tokens of each kind; `utilisation` is the share of paid time at this rate."""
    second_usd = hour_usd / HOUR_S / utilisation
    seconds = CHARGES[charge].seconds(measured)
    return {
        kind: around([MILLION * second_usd * each for each in values])
        for kind, values in seconds.items()
        if values
    }


def cost(
    measured: Measured,
    charge: str,
    hour_usd: float,
    utilisation: float = 1.0,
    kwh_usd: float | None = None,
) -> Cost | None:
    """Return a cell's cost; None if a quantity that the rule needs was not measured."""
    usd = per_million(measured, charge, hour_usd, utilisation)
    joules = measured.values.get("energy_per_output_token_j")
    energy = None
    if kwh_usd is not None and joules:
        energy = around([MILLION * each / KWH_J * kwh_usd for each in joules])
    return Cost(measured, usd, energy) if usd else None


def cheapest(costs: Iterable[Cost], tpot_under_s: float) -> Cost | None:
    """Return the cheapest cell whose time per token is under a bound, including its interval.

    For a cell with one session, which has no interval, the figure itself counts.
    """
    able = [one for one in costs if _bound(one.measured) < tpot_under_s]
    return min(able, key=lambda one: one.main.value, default=None)


def _bound(measured: Measured) -> float:
    key = measured.first(TOKEN_TIMES)
    if not measured.has(key):
        return float("inf")
    figure = measured.figure(key)
    return figure.high if figure.known else figure.value


class BreakEven(NamedTuple):
    """The volume from which your own machine costs no more than an API.

    Attributes:
        tokens_per_day: input and output together, in the cell's own proportion.
        utilisation: of the machine at that volume; above 1 it cannot be reached.

    """

    price: ApiPrice
    tokens_per_day: float
    utilisation: Interval


def break_even(measured: Measured, hour_usd: float, price: ApiPrice) -> BreakEven:
    """Return the volume at which a machine paid by the hour, day and night, costs as much as an API."""
    cell = measured.cell
    prompt = (cell.prompt_tokens or 0) / cell.batch_size  # the mean: a price is linear in tokens
    request_usd = price.request_usd(prompt, cell.output_len)
    requests = 24 * hour_usd / request_usd
    capacity = measured.figure("output_tok_s").times(DAY_S / cell.output_len)
    return BreakEven(
        price=price,
        tokens_per_day=requests * (prompt + cell.output_len),
        utilisation=capacity.over(requests),
    )
