"""The `machine` command: what this machine is and which known chip it has, or what is known of a chip."""

import sys
from typing import Annotated, Any, Literal

import msgspec
import typer

from llmbench import chips, listing, machine

NO_GPU = "No NVIDIA driver shows a GPU, and no processor has verified ceilings: shares of a peak are not given."
UNKNOWN = "No known chip has this name and memory: shares of a peak are not given."
UNVERIFIED = "Not all of this chip's ceilings are verified: shares of the others are not given."


def command(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[CHIP]", help="Show what is known of this chip instead."),
    ] = None,
    format: Annotated[
        Literal["terminal", "json"], typer.Option("--format", help="How to write it.")
    ] = "terminal",
) -> None:
    """Say what this machine is, and what its chip can do at most."""
    facts = here() if name is None else msgspec.to_builtins(chips.chip(name))
    sys.stdout.write(listing.json(facts) if format == "json" else listing.one(facts))


def here() -> dict[str, Any]:
    """Return this machine's facts, with the ceilings of every GPU whose chip is known."""
    found = machine.machine()
    gpus = [{**gpu, **ceilings(chips.match(gpu))} for gpu in found["gpus"]]
    return {**found, "gpus": gpus, "remark": None if gpus else NO_GPU}


def ceilings(short: str | None) -> dict[str, Any]:
    """Return a chip's name and its verified ceilings; without a known chip there are none."""
    if short is None:
        return {"chip": None, "remark": UNKNOWN}
    found = chips.chip(short)
    bandwidth, unverified = found.bandwidth(), "dense_tflops" in found.unverified
    return {
        "chip": short,
        "chip_name": found.name,
        "bandwidth_gb_s": bandwidth and bandwidth / chips.GIGA,
        "dense_tflops": {} if unverified else found.dense_tflops,
        "remark": UNVERIFIED if unverified or bandwidth is None else None,
    }
