"""Probes kept between runs: one file a machine in the user's state folder, replaced whole or not at all.

A machine is known by what decides its ceilings, so a probe never speaks for another processor, driver or
torch. A file that cannot be read costs a sentence, never a sweep.
"""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from llmbench import machine
from llmbench.digest import digest_of
from llmbench.errors import RunError
from llmbench.record import Probe  # noqa: TC001 - msgspec reads the annotations
from llmbench.redact import redact

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STATE = "LLMBENCH_STATE"
"""The environment variable that names the folder, in place of the usual one."""

DECISIVE = (
    "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NVIDIA_TF32_OVERRIDE",
    "CUDA_LAUNCH_BLOCKING", "OMP_PROC_BIND", "KMP_AFFINITY",
)  # fmt: skip
"""The environment variables that change what a probe reaches."""

FORMAT = 1


class File(msgspec.Struct, frozen=True, kw_only=True):
    """What a file holds: for which machine, as `key_of` names it, and its probes, one a device."""

    format: int = FORMAT
    key: str
    probes: list[Probe]


class Kept(NamedTuple):
    """The probes of a machine, and a sentence about why there are none, if that is a mishap."""

    probes: list[Probe]
    notice: str | None = None


def probes_of(found: Mapping[str, Any]) -> list[Probe]:
    """Return the probes kept of a machine, as `machine.machine()` describes it; none is an empty list."""
    return kept(found).probes


def kept(found: Mapping[str, Any]) -> Kept:
    """Return the probes of a machine, and what was wrong if they could not be read. Never raises."""
    key = key_of(found)
    path = _path(key)
    try:
        return Kept(_read(path, key))
    except FileNotFoundError:
        return Kept([])
    except (OSError, ValueError, msgspec.DecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return Kept(
            [],
            f"{redact(str(path))}: the kept probe is not used: {reason}; "
            "measure again with llmbench machine --probe.",
        )


def keep(found: Mapping[str, Any], probes: Sequence[Probe]) -> Path:
    """Keep probes of a machine in place of those of the same devices; return the file.

    Raises:
        RunError: the file cannot be written; the one before is as it was.

    """
    key = key_of(found)
    path = _path(key)
    measured = {probe.device for probe in probes}
    others = [probe for probe in probes_of(found) if probe.device not in measured]
    data = msgspec.json.encode(File(key=key, probes=[*others, *map(_redacted, probes)]))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, msgspec.json.format(data, indent=1) + b"\n")
    except OSError as error:
        raise RunError(
            f"{redact(str(path))}: the probe cannot be kept: {error.strerror or error}. "
            f"Name a folder that can be written with {STATE}."
        ) from error
    return path


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
        if figure is not None and not (math.isfinite(figure) and figure > 0):
            raise ValueError(f"{name}: {figure} is no rate or time")


def folder() -> Path:
    """Return the state folder: of the variable, else as XDG says."""
    if named := os.environ.get(STATE):
        return Path(named)
    state = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(state):  # noqa: PTH117 - XDG: a relative one is to be ignored
        return Path(state, "llmbench")
    return Path(os.path.expanduser("~"), ".local", "state", "llmbench")  # noqa: PTH111 - pathlib raises without a home


def replace(path: Path, data: bytes) -> None:
    """Write a file whole, on the disk before it takes the place of the one before."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


def _path(key: str) -> Path:
    return folder() / "probes" / f"{key}.json"


def _read(path: Path, key: str) -> list[Probe]:
    """Return the probes in a file; raise ValueError if it is not one of this machine's, and sound."""
    file = msgspec.json.decode(path.read_bytes(), type=File)
    if file.format > FORMAT:
        raise ValueError(f"a newer llmbench wrote it (format {file.format})")
    if file.key != key:
        raise ValueError("it was measured on another machine")
    for probe in file.probes:
        check(probe)
    return file.probes


def _processors() -> int | None:
    """Return on how many processors this process may run, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def _redacted(probe: Probe) -> Probe:
    return msgspec.structs.replace(probe, name=redact(probe.name), torch=redact(probe.torch))
