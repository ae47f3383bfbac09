"""What a token costs: the hour of the machine, charged to tokens by a rule that is named, once and never twice.

Every figure is worked out session by session, so it has the interval of the times that it comes from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from llmbench.cost.prices import MILLION
from llmbench.stats.interval import Interval, around

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from llmbench.cost.prices import ApiPrice
    from llmbench.results.cells import Measured

HOUR_S = 3600.0
DAY_S = 86400.0
KWH_J = 3.6e6


class Charge(NamedTuple):
    """A rule: what it says, and the machine-seconds that one token of each kind is charged, session by session."""

    rule: str
    seconds: Callable[[Measured], Mapping[str, Sequence[float]]]


def _to_output(measured: Measured) -> Mapping[str, Sequence[float]]:
    return {"output": _inverse(measured, "output_tok_s")}


def _to_all(measured: Measured) -> Mapping[str, Sequence[float]]:
    return {"token": _inverse(measured, "total_tok_s")}


def _split(measured: Measured) -> Mapping[str, Sequence[float]]:
    """Charge prompts the time to the first token, and new tokens all the time after it.

    The first new token comes out of the prefill, so the rest is spread over all n: the two shares of a call
    add up to its time, and no second is charged twice.
    """
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
    "split": Charge(
        "the time to the first token is charged to input, the time after it to output", _split
    ),
}


class Cost(NamedTuple):
    """What a cell's tokens cost: dollars for a million of each kind, under one rule."""

    measured: Measured
    usd: Mapping[str, Interval]
    energy_usd: Interval | None

    @property
    def main(self) -> Interval:
        """Return the cost by which cells are ranked: of output where there is one."""
        return self.usd.get("output") or next(iter(self.usd.values()))


def per_million(
    measured: Measured, charge: str, hour_usd: float, utilisation: float = 1.0
) -> dict[str, Interval]:
    """Return dollars for a million tokens of each kind; `utilisation` is the share of paid time at this pace."""
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
    """Return a cell's cost; None if what the rule divides by was not measured."""
    usd = per_million(measured, charge, hour_usd, utilisation)
    joules = measured.values.get("energy_per_output_token_j")
    energy = None
    if kwh_usd is not None and joules:
        energy = around([MILLION * each / KWH_J * kwh_usd for each in joules])
    return Cost(measured, usd, energy) if usd else None


def cheapest(costs: Iterable[Cost], tpot_under_s: float) -> Cost | None:
    """Return the cheapest cell whose time per token lies under a bound, its interval included.

    A cell with one session has no interval, and is taken at its figure.
    """
    able = [one for one in costs if _bound(one.measured) < tpot_under_s]
    return min(able, key=lambda one: one.main.value, default=None)


def _bound(measured: Measured) -> float:
    if not measured.has("tpot_s"):
        return float("inf")
    figure = measured.figure("tpot_s")
    return figure.high if figure.known else figure.value


class BreakEven(NamedTuple):
    """From how much use on a machine of one's own costs no more than an API.

    Attributes:
        tokens_per_day: input and output together, in the cell's own proportion.
        utilisation: of the machine at that volume; above 1 it cannot be reached.

    """

    price: ApiPrice
    tokens_per_day: float
    utilisation: Interval


def break_even(measured: Measured, hour_usd: float, price: ApiPrice) -> BreakEven:
    """Return where a machine paid by the hour, day and night, costs what an API asks for the same requests."""
    cell = measured.cell
    request_usd = price.request_usd(cell.input_len, cell.output_len)
    requests = 24 * hour_usd / request_usd
    capacity = measured.figure("output_tok_s").times(DAY_S / cell.output_len)
    return BreakEven(
        price=price,
        tokens_per_day=requests * (cell.input_len + cell.output_len),
        utilisation=capacity.over(requests),
    )
