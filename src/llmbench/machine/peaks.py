"""Probes of a machine, kept between runs, which is known by what decides its ceilings.

So a probe never speaks for another processor, driver or torch.
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
"""The environment variables that change what a probe reaches."""


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """A measured matrix product, [rows, inner] times [inner, columns], in operations a second.

    The typical of several, each with other weights, which came from memory and not out of a cache.
    """

    dtype: str
    rows: int
    inner: int
    columns: int
    flops_s: float


class Probe(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Measured ceilings of one device: what it reached, which is no law as a datasheet's peak is.

    Attributes:
        device: `cpu` or `cuda`.
        name: of the processor or GPU.
        at: when it was measured.
        torch: the version that measured it.
        threads: of a CPU's operators; None on a GPU.
        copy_bytes_s: a large copy, bytes read and written together.
        read_bytes_s: by dtype, what a matrix-vector product reads of weights far larger than any cache.
        flops_s: by dtype, the best rate of a matrix product.
        rates: that rate over the number of rows, 1 to 16,384.
        step_s: one trivial operation, which is what it takes to dispatch any.

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


class File(state.OfMachine, frozen=True, kw_only=True):
    """What a file holds: for which machine, as `key_of` names it, and its probes, one a device."""

    machine: str = msgspec.field(name="key")
    probes: list[Probe]

    def __post_init__(self) -> None:
        """Refuse figures that nobody can have measured."""
        for probe in self.probes:
            check(probe)


RATES = (1e4, 1e18)
"""Bytes or operations a second: from a slower machine than any to a faster one, to refuse what nobody measured."""
STEPS_S = (1e-10, 100.0)


SHELF = state.Shelf("probes", "probe", File, "measure again with llmbench machine --probe")


class KeptProbes(NamedTuple):
    """The probes of a machine, and a sentence about why there are none, if that is a mishap."""

    probes: list[Probe]
    notice: str | None = None


def probes_of(found: Mapping[str, Any]) -> list[Probe]:
    """Return the probes kept of a machine, as `machine.machine()` describes it; none is an empty list."""
    return kept_probes(found).probes


def kept_probes(found: Mapping[str, Any]) -> KeptProbes:
    """Return the probes of a machine, and what was wrong if they could not be read. Never raises."""
    file, notice = SHELF.find(key_of(found))
    return KeptProbes(file.probes if file else [], notice)


def keep(found: Mapping[str, Any], probes: Sequence[Probe]) -> Path:
    """Keep probes of a machine in place of those of the same devices; return the file, or raise RunError."""
    measured = {probe.device for probe in probes}
    others = [probe for probe in probes_of(found) if probe.device not in measured]
    return SHELF.keep(File(machine=key_of(found), probes=[*others, *map(_redacted, probes)]))


def key_of(found: Mapping[str, Any]) -> str:
    """Return the digest of what decides a machine's ceilings: the machine, torch, threads and processors."""
    facts, _ = machine.environment(dict(found))
    return digest_of(
        {
            "machine": facts["machine"],
            "torch": facts["packages"].get("torch"),
            "variables": {k: v for k, v in facts["variables"].items() if k in DECISIVE},
            "processors": _processors(),
        }
    )


def check(probe: Probe) -> None:
    """Raise ValueError if a figure of a probe cannot have been measured."""
    figures = [
        *(("copy", probe.copy_bytes_s), ("step", probe.step_s)),
        *probe.read_bytes_s.items(),
        *probe.flops_s.items(),
        *((f"{rate.dtype} at {rate.rows} rows", rate.flops_s) for rate in probe.rates),
    ]
    for name, figure in figures:
        least, most = STEPS_S if name == "step" else RATES
        if figure is not None and not least <= figure <= most:  # NaN neither
            raise ValueError(f"{name}: {figure} is not a possible rate or time")


def _processors() -> int | None:
    """Return on how many processors this process may run, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def _redacted(probe: Probe) -> Probe:
    return msgspec.structs.replace(probe, name=redact(probe.name), torch=redact(probe.torch))
