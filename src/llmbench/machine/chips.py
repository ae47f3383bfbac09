"""Known chips: the peaks on their datasheets, with sources; one YAML file per chip.

An unknown chip and an unverified value give no ceiling, because a share of a guess would look like a measurement.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec

from llmbench.errors import SpecError, did_you_mean
from llmbench.spec import configs, yaml
from llmbench.spec.yaml import Positive  # noqa: TC001 - msgspec reads the annotations

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

GIGA, TERA = 1e9, 1e12
SLACK, DESKTOP_SLACK = 1.05, 1.3
MEMORY_WITHIN = 0.1
"""A name is accepted if the driver's memory size is this close: ECC and firmware take up to 7 % (T4: 15 of 16
GiB)."""


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The on-demand price of one chip per hour in dollars, at a `date`; None = undated."""

    date: str | None
    provider: str
    source: str
    usd_per_hour: Positive | None = None
    usd_per_hour_range: tuple[Positive, Positive] | None = None
    note: str | None = None


class Chip(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One file of configs/machines.

    Attributes:
        driver_names: its names in the driver.
        memory_gb: as sold; in GiB, as chips are.
        usable_mib: as the driver states it (nvidia-smi, memory.total); ECC and firmware take the rest.
        dense_tflops: peak of 10^12 operations a second by the type of number, without sparsity.
        measured_tflops: the rate of matrix products measured elsewhere, for comparison only.
        unverified: fields whose values were not checked.

    """

    name: str
    vendor: str
    driver_names: list[str]
    memory_gb: Positive | None
    memory_type: str
    bandwidth_gb_s: Positive
    dense_tflops: dict[str, Positive]
    power_w: Positive | None
    interconnect: str
    launch_date: str | None
    sources: dict[str, str]
    usable_mib: Annotated[int, msgspec.Meta(gt=0)] | None = None
    measured_tflops: dict[str, Positive] = {}
    prices: list[Price] = []
    unverified: list[str] = []
    notes: list[str] = []

    def __post_init__(self) -> None:
        """Refuse an unverified field that does not exist, because it would mark nothing."""
        for name in self.unverified:
            if name not in self.__struct_fields__:
                raise ValueError(f"unverified: there is no field {name!r}")

    def memory_bytes(self) -> int | None:
        """Return the memory that a program finds, or as sold if that is not known."""
        if self.usable_mib:
            return self.usable_mib * 2**20
        return int(self.memory_gb * 2**30) if self.memory_gb else None

    def bandwidth(self) -> float | None:
        """Return its peak memory bandwidth in bytes/s, if verified."""
        return None if "bandwidth_gb_s" in self.unverified else self.bandwidth_gb_s * GIGA

    def flops(self, dtype: str) -> float | None:
        """Return its peak operations per second in a dtype, if known and verified.

        A program may allow float32 to be rounded to tfloat32 inside a matrix product; its ceiling is the faster of
        the two.
        """
        if "dense_tflops" in self.unverified or dtype not in self.dense_tflops:
            return None
        faster = self.dense_tflops.get("tfloat32", 0.0) if dtype == "float32" else 0.0
        return max(self.dense_tflops[dtype], faster) * TERA

    def fastest(self) -> float | None:
        """Return its peak operations per second in whichever type of number is fastest, if verified."""
        if "dense_tflops" in self.unverified or not self.dense_tflops:
            return None
        return max(self.dense_tflops.values()) * TERA

    def slack(self) -> float:
        """Return the factor over its datasheet's peaks that is still believed.

        Cards for desktops run above the boost clock that they are sold with. Matrix products in bfloat16 on an RTX 5090
        were measured at 107 % of the datasheet's peak (main-horse.github.io/posts/5090-mm-perf); an RTX 4090 runs at
        2,820 MHz instead of 2,520.
        """
        return DESKTOP_SLACK if "GeForce" in " ".join(self.driver_names) else SLACK


def known() -> dict[str, Path]:
    """Return the file of every known chip, by the chip's short name."""
    return {path.stem: path for path in sorted(configs.folder("machines").glob("*.yaml"))}


def chip(name: str) -> Chip:
    """Return a known chip; raise SpecError with the nearest name if there is none."""
    files = known()
    if name not in files:
        raise _unknown("machine", name, files)
    return yaml.read(files[name], Chip)


def named(name: str) -> str:
    """Return the short name of a chip, from that or from its name in its drivers and tools; raise SpecError if unknown.

    A name that several chips share, such as one for two sizes of memory, is ambiguous.
    """
    files = known()
    if name in files:
        return name
    found = [short for short in files if _plain(name) in map(_plain, chip(short).driver_names)]
    if len(found) == 1:
        return found[0]
    if found:
        raise SpecError(f"--machine: {name!r} may be {' or '.join(found)}; give one of these.")
    raise _unknown("--machine", name, files)


def _unknown(where: str, name: str, files: Mapping[str, Path]) -> SpecError:
    near = did_you_mean(name, files, "llmbench machine --list")
    return SpecError(f"{where}: {name!r} is not a known chip.{near}")


def match(gpu: Mapping[str, Any]) -> str | None:
    """Return the short name of the chip that a driver's facts describe; None if a fact fits no chip.

    The whole name must match: an H200 NVL is not an H200. A slice of a chip (MIG) is not the chip.
    """
    if gpu.get("mig") or not gpu.get("name"):
        return None
    for short in known():
        known_chip = chip(short)
        if _plain(gpu["name"]) in map(_plain, known_chip.driver_names):
            return short if _memory_fits(known_chip, gpu.get("memory_bytes")) else None
    return None


def _plain(name: str) -> str:
    return " ".join(str(name).lower().removeprefix("nvidia ").split())


def _memory_fits(known_chip: Chip, memory_bytes: int | None) -> bool:
    if memory_bytes is None or known_chip.memory_gb is None:
        return True
    return math.isclose(memory_bytes / 2**30, known_chip.memory_gb, rel_tol=MEMORY_WITHIN)


class Device(NamedTuple):
    """A GPU by its driver name, its chip if known, and the size of its memory as the driver states it."""

    name: str
    chip: Chip | None
    memory_bytes: int | None = None


def devices(gpus: Sequence[Mapping[str, Any]]) -> list[Device]:
    """Return the GPUs of a machine's facts with their chips. Reads files; call it once per sweep."""
    matched = [(gpu, match(gpu)) for gpu in gpus]
    return [
        Device(str(gpu.get("name")), chip(short) if short else None, gpu.get("memory_bytes"))
        for gpu, short in matched
    ]
