"""Prices of machine-hours and of vendors' tokens, read from configs, with dates and sources.

The code contains no prices. Without a price on the command line, the chip's file lists prices by provider.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from llmbench.errors import SpecError, did_you_mean
from llmbench.machine import chips
from llmbench.spec import configs, sweep, yaml
from llmbench.spec.yaml import NotNegative, Positive  # noqa: TC001 - msgspec reads the annotations

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmbench.results.cells import Measured

MILLION = 1e6


class ApiPrice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A vendor's price for a million tokens on a date, in dollars; `runs` is the model's name in the catalogue."""

    model: str
    provider: str
    date: str
    input_usd: NotNegative
    output_usd: Positive
    source: str
    runs: str | None = None
    note: str | None = None

    @property
    def name(self) -> str:
        """Return the row in words."""
        return f"{self.provider} {self.model}, {self.date}"

    def request_usd(self, input_len: float, output_len: int) -> float:
        """Return the price of a request with these lengths."""
        return (input_len * self.input_usd + output_len * self.output_usd) / MILLION


class ApiPrices(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The file of API prices."""

    sources: dict[str, str]
    prices: list[ApiPrice]

    def __post_init__(self) -> None:
        """Refuse a price without a source."""
        for price in self.prices:
            if price.source not in self.sources:
                raise ValueError(f"{price.name}: there is no source {price.source!r}")


class PriceOptions(NamedTuple):
    """The price given on the command line; at most one field is set."""

    usd_per_hour: float | None = None
    usd_per_gpu_hour: float | None = None
    provider: str | None = None


class Hour(NamedTuple):
    """The price in dollars of an hour of a cell's machine, its source, and its year; empty if it is undated."""

    usd: float
    said: str
    year: str


@cache
def api() -> ApiPrices:
    """Return the API prices."""
    return yaml.read(configs.folder("prices") / "api.yaml", ApiPrices)


def against(words: str | None, model: str) -> list[ApiPrice]:
    """Return the API prices whose name contains the words, or without words those of this model."""
    rows = api().prices
    if words is None:
        return [row for row in rows if row.runs == model]
    matching = [row for row in rows if words.lower() in row.name.lower()]
    if not matching:
        raise SpecError(
            f"--against: no API price holds {words!r}.{did_you_mean(words, {r.model for r in rows})}"
        )
    return matching


def check(asked: PriceOptions) -> None:
    """Refuse several prices, and a value that is not a price."""
    given = [value for value in asked if value is not None]
    if len(given) > 1:
        raise SpecError("Give one of --usd-per-hour, --usd-per-gpu-hour and --price, not several.")
    if any(isinstance(value, float) and not 0 < value < math.inf for value in given):
        raise SpecError("--usd-per-hour, --usd-per-gpu-hour: a price must be above 0 dollars.")
    for word in _words(asked.provider):
        _check_word(word)


def _words(provider: str | None) -> list[str]:
    """Return the words of --price: providers, or prices of chips."""
    return [word.strip() for word in (provider or "").split(",") if word.strip()]


def _check_word(word: str) -> None:
    """Refuse a provider that no chip's file lists, an unknown chip, and a value that is not a price."""
    name, given, usd = word.partition("=")
    if given:
        chips.chip(name)
        if not _usd(usd):
            raise SpecError(f"--price: {usd!r} is not a price above 0 dollars.")
        return
    name = name.partition("@")[0].lower()
    known = {_short(row) for chip in chips.known() for row in _prices(chip)}
    if not any(one.startswith(name) for one in known):
        raise SpecError(
            f"--price: {name!r} is not a provider in any chip's file.{did_you_mean(name, known)}"
        )


def _usd(text: str) -> float | None:
    """Return a price above 0, or None."""
    try:
        usd = float(text)
    except ValueError:
        return None
    return usd if 0 < usd < math.inf else None


def hour(asked: PriceOptions, measured: Measured) -> Hour:
    """Return the price of an hour of a cell; raise SpecError, naming the flag, if there is none."""
    if asked.usd_per_hour is not None:
        said = f"${asked.usd_per_hour:g} an hour of the machine, as given"
        return Hour(asked.usd_per_hour, said, measured.at[:4])
    if measured.cell.device == "cpu":
        raise SpecError(
            f"{measured.run}: ran on a CPU, for which no price is on file; give --usd-per-hour."
        )
    count = gpus_of(measured)
    given = _given(asked, measured.machine.chip, count, measured.at[:4])
    return given or _by_list(_listed(asked.provider, measured), count)


def of_plan(asked: PriceOptions, chip: str | None, count: int) -> Hour | None:
    """Return the price of an hour of GPUs that are only planned for; None if there is none.

    Args:
        asked: the price on the command line, which has been checked.
        chip: the short name of their chip, whose latest dated price is taken if none is asked for; None = unknown.
        count: how many there are.

    Raises:
        SpecError: the chip has no price of the providers that are asked for.

    """
    if asked.usd_per_hour is not None:
        return Hour(asked.usd_per_hour, f"${asked.usd_per_hour:g} an hour, as given", "")
    if given := _given(asked, chip, count, ""):
        return given
    known = _prices(chip) if chip else ()
    if asked.provider is None:
        dated = [row for row in known if row.date]
        return _by_list(max(dated, key=_date), count) if dated else None
    matching = next(filter(None, (_meant(known, word) for word in _words(asked.provider))), [])
    if not matching:
        raise SpecError(
            f"--price: no price of {asked.provider!r}; {chip or 'an unknown chip'} has {_list(known)}. "
            "Choose one of these, or give --usd-per-gpu-hour."
        )
    return _by_list(max(matching, key=_date), count)


def _given(asked: PriceOptions, chip: str | None, count: int, year: str) -> Hour | None:
    """Return the price of this many GPUs from that of one on the command line; None if there is none."""
    if asked.usd_per_gpu_hour is not None:
        said = f"{count} x ${asked.usd_per_gpu_hour:g} a GPU-hour, as given"
        return Hour(count * asked.usd_per_gpu_hour, said, year)
    for word in _words(asked.provider):
        name, given, text = word.partition("=")
        if given and name == chip and (usd := _usd(text)):
            return Hour(count * usd, f"{count} x ${usd:g} a GPU-hour of {name}, as given", year)
    return None


def _by_list(price: chips.Price, count: int) -> Hour:
    """Return the price of this many GPUs at a listed price of one."""
    usd, when = price.usd_per_hour or 0.0, price.date or "undated"
    said = f"{count} x ${usd:g} a GPU-hour, {price.provider}, {when}"
    return Hour(count * usd, said, _date(price)[:4])


def _date(price: chips.Price) -> str:
    return price.date or ""


def gpus_of(measured: Measured) -> int:
    """Return how many GPUs a cell occupies, busy or idle."""
    return sweep.gpus_of(measured.cell.options, measured.machine.gpus)


def _listed(provider: str | None, measured: Measured) -> chips.Price:
    """Return the chip's price of the first provider that has one; the latest of several, undated ones last."""
    if measured.machine.chip is None:
        raise SpecError(
            f"{measured.run}: ran on {measured.machine.name}, which is not a known chip; give --usd-per-gpu-hour."
        )
    known = _prices(measured.machine.chip)
    matching = next(filter(None, (_meant(known, word) for word in _words(provider))), [])
    if provider is None or not matching:
        what = "no price was chosen" if provider is None else f"--price: no price of {provider!r}"
        raise SpecError(
            f"{measured.run}: {what}; {measured.machine.chip} has {_list(known)}. "
            "Choose with --price, or give --usd-per-gpu-hour."
        )
    return max(matching, key=_date)


@cache  # cached: reading the file again for every cell would take seconds
def _prices(chip: str) -> tuple[chips.Price, ...]:
    return tuple(row for row in chips.chip(chip).prices if row.usd_per_hour)


def _meant(known: Sequence[chips.Price], word: str) -> list[chips.Price]:
    """Return the prices of a provider, `NAME` or `NAME@DATE`."""
    name, _, date = word.lower().partition("@")
    return [
        row
        for row in known
        if row.provider.lower().startswith(name) and (row.date or "").startswith(date)
    ]


def _list(rows: Sequence[chips.Price]) -> str:
    names = [f"{_short(row)}@{row.date}" if row.date else _short(row) for row in rows]
    return ", ".join(dict.fromkeys(names)) or "none"


def _short(row: chips.Price) -> str:
    """Return a provider's name as --price takes it."""
    return row.provider.split()[0].lower()
