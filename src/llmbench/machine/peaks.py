"""Measured ceilings of a machine, saved between runs under a digest of the facts that decide them.

A probe is therefore never used for another processor, driver or torch.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from llmbench.machine import info as machine
from llmbench.machine import state
from llmbench.redact import redact
from llmbench.spec.digest import digest_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

DECISIVE = (
    "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NVIDIA_TF32_OVERRIDE",
    "CUDA_LAUNCH_BLOCKING", "OMP_PROC_BIND", "KMP_AFFINITY",
)  # fmt: skip
"""The environment variables that affect a probe."""


STEP = b"step: "
"""The beginning of a line by which a probe says, before it measures it, what comes next."""


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """A measured matrix product, [rows, inner] times [inner, columns], in operations a second.

    The typical rate of several calls with different weights, which came from memory instead of a cache.
    """

    dtype: str
    rows: int
    inner: int
    columns: int
    flops_s: float


BUSY = 0.05
"""The share of the CPUs used by others above which a probe's rates are no ceilings."""


class Probe(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Measured ceilings of one device. Unlike a datasheet's peak, they are not a physical limit.

    Attributes:
        device: `cpu` or `cuda`.
        name: of the processor or GPU.
        at: when it was measured.
        torch: the version that measured it.
        threads: of a CPU's operators; None on a GPU.
        copy_bytes_s: a large copy, bytes read and written together.
        read_bytes_s: by dtype, the rate at which a matrix-vector product reads weights far larger than any cache.
        flops_s: by dtype, the best rate of a matrix product.
        rates: the rate of matrix products at 1 to 16,384 rows.
        step_s: seconds of one trivial operation, the cost of dispatch.
        others_share: of the CPUs, used by other processes meanwhile; above `BUSY` its rates are too low to judge by.

    """

    device: str
    name: str
    at: str
    torch: str
    threads: int | None = None
    copy_bytes_s: float | None = None
    read_bytes_s: dict[str, float] = {}
    flops_s: dict[str, float] = {}
    rates: list[Rate] = []
    step_s: float | None = None
    others_share: float = 0.0

    @property
    def quiet(self) -> bool:
        """Return whether the machine was quiet enough for these rates to be ceilings."""
        return self.others_share <= BUSY


class File(state.OfMachine, frozen=True, kw_only=True):
    """The content of a file: the machine's key (`key_of`) and its probes, one per device."""

    machine: str = msgspec.field(name="key")
    probes: list[Probe]

    def __post_init__(self) -> None:
        """Refuse impossible figures."""
        for probe in self.probes:
            check(probe)


RATES = (1e4, 1e18)
"""The range of possible rates, in bytes or operations per second."""
STEPS_S = (1e-10, 100.0)


SHELF = state.Shelf("probes", "probe", File, "measure again with llmbench machine --probe")


class KeptProbes(NamedTuple):
    """The probes of a machine, and a sentence with the reason if their file could not be used."""

    probes: list[Probe]
    notice: str | None = None


def probes_of(facts: Mapping[str, Any]) -> list[Probe]:
    """Return the saved probes of a machine described by `machine.machine()`; empty if there are none."""
    return kept_probes(facts).probes


def kept_probes(facts: Mapping[str, Any]) -> KeptProbes:
    """Return the saved probes of a machine, with the reason if they could not be read. Never raises."""
    file, notice = SHELF.find(key_of(facts))
    return KeptProbes(file.probes if file else [], notice)


def keep(facts: Mapping[str, Any], probes: Sequence[Probe]) -> Path:
    """Save probes of a machine, replacing those of the same devices; return the file, or raise RunError."""
    measured = {probe.device for probe in probes}
    others = [probe for probe in probes_of(facts) if probe.device not in measured]
    return SHELF.keep(File(machine=key_of(facts), probes=[*others, *map(_redacted, probes)]))


def key_of(machine_facts: Mapping[str, Any]) -> str:
    """Return a digest of the facts that decide a machine's ceilings: the machine, torch, threads and processors."""
    facts, _ = machine.environment(dict(machine_facts))
    return digest_of(
        {
            "machine": facts["machine"],
            "torch": facts["packages"].get("torch"),
            "variables": {k: v for k, v in facts["variables"].items() if k in DECISIVE},
            "processors": _processors(),
        }
    )


def check(probe: Probe) -> None:
    """Raise ValueError if a figure of a probe is impossible."""
    figures = [
        *(("copy", probe.copy_bytes_s), ("step", probe.step_s)),
        *probe.read_bytes_s.items(),
        *probe.flops_s.items(),
        *((f"{rate.dtype} at {rate.rows} rows", rate.flops_s) for rate in probe.rates),
    ]
    for name, figure in figures:
        least, most = STEPS_S if name == "step" else RATES
        if figure is not None and not least <= figure <= most:  # also false for NaN
            raise ValueError(f"{name}: {figure} is not a possible rate or time")


def _processors() -> int | None:
    """Return the number of processors that this process may use, if the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def _redacted(probe: Probe) -> Probe:
    return msgspec.structs.replace(probe, name=redact(probe.name), torch=redact(probe.torch))
