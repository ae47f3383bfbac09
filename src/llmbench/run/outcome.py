"""Conversion of a session's end to a record: checks, explanation of a death, removal of secrets."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import msgspec

from llmbench import files
from llmbench.machine.gpus import LEVELS
from llmbench.machine.info import utc_now
from llmbench.measure.checks import HOT_WARNS, check_outcome
from llmbench.numbers import plural
from llmbench.redact import redact, redact_all
from llmbench.results.record import Finding, Outcome, Record, Status
from llmbench.run.launcher import LONGEST_LOG, signal_name
from llmbench.serve import checks
from llmbench.spec.sweep import PROTOCOL

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from llmbench.measure.checks import Ceilings
    from llmbench.run.launcher import WorkerEnd
    from llmbench.spec.sweep import Cell


def record_of(  # noqa: PLR0913 - one argument a field of the record
    cell: Cell, session: int, attempt: int, outcome: Outcome, *,
    telemetry: dict[str, Any], worker: dict[str, Any], environment: str, ceilings: Ceilings,
) -> Record:  # fmt: skip
    """Return the checked record of one session of one cell."""
    outcome, worker = cleaned(outcome), redact_all(worker)
    if outcome.served:
        status, problems, warnings = checks.check(outcome)
    else:
        status, problems, warnings = check_outcome(cell, outcome, ceilings)
    warnings += _surroundings(status, telemetry, outcome.telemetry, worker)
    reason = (
        outcome.error
        or "; ".join(f"{problem.code}: {problem.detail}" for problem in problems)
        or None
    )
    return Record(
        protocol=PROTOCOL, id=cell.id, session=session, attempt=attempt, status=status,
        phase=outcome.phase if status not in (Status.OK, Status.INVALID) else None,
        reason=reason, problems=problems, warnings=warnings, cell=cell, outcome=outcome,
        telemetry=telemetry, worker=worker, environment=environment,
        ended=utc_now("milliseconds"),
    )  # fmt: skip


def _surroundings(
    status: Status, telemetry: dict[str, Any], counters: dict[str, Any], worker: dict[str, Any]
) -> Iterator[Finding]:
    """Yield warnings about the worker's end and about the device."""
    if worker.get("strays"):
        left = ", ".join(worker["strays"])
        yield Finding("strays", f"processes were left behind and killed: {left}")
    measured = status in (Status.OK, Status.INVALID)
    if measured and (worker.get("end", "done") != "done" or worker.get("exit")):
        how = signal_name(worker["exit"]) if worker["end"] == "signal" else worker["end"]
        yield Finding("worker_end", f"the worker failed after its result: {how}")
    if missing := _unreported(telemetry, counters):
        yield Finding("telemetry", missing)
    sampled = telemetry.get("hot_mean") or 0.0
    if counters.get("hot_share") is None and sampled > HOT_WARNS:
        yield Finding("hot", f"heat held the device's clocks down in {sampled:.0%} of the samples")
    if telemetry.get("isolation") == "shared":
        yield Finding("shared_device", "other processes were using the device")
    if (
        measured
        and (others := telemetry.get("neighbours"))
        and not telemetry.get("neighbours_harmless")
    ):
        yield Finding(
            "neighbours", f"{plural(others, 'other GPU')} of the box measured at the same time"
        )


def _unreported(telemetry: dict[str, Any], counters: dict[str, Any]) -> str:
    """Return which facts the device did not report; empty if it reported all."""
    samples = telemetry.get("device_samples")
    if samples == 0:
        return "the device was not sampled"
    names = [name for name in LEVELS if samples and f"{name}_mean" not in telemetry]
    names += ["energy or throttling"] if counters.get("device_counters") == "partial" else []
    return f"partial: the device did not report {', '.join(names)}" if names else ""


def outcome_without_result(cell: Cell, ended: WorkerEnd) -> Outcome:
    """Return the outcome of a cell whose worker ended without a result."""
    status, error = _explained(ended)
    return Outcome(cell=cell.id, status=status, phase=ended.phase or None, error=error)


def _explained(ended: WorkerEnd) -> tuple[Status, str]:
    peak = (
        f"; its peak RSS was {ended.peak_rss_bytes / 2**30:.2f} GiB" if ended.peak_rss_bytes else ""
    )
    if ended.why == "stopped":
        return Status.INTERRUPTED, "the sweep was asked to stop"
    if ended.why == "timeout":
        return Status.TIMEOUT, f"{ended.phase}: {ended.detail}"
    if ended.why == "signal":
        hint = (
            f" (the kernel's OOM killer? This machine has {ended.memory_bytes / 2**30:.1f} GiB)"
            if ended.code == -9
            else ""
        )
        return Status.CRASH, f"killed by {signal_name(ended.code)}{hint}{peak}"
    if ended.why == "done":
        how = "no_result: the worker exited" if ended.code == 0 else "the worker exited"
        return Status.CRASH, f"{how} with code {ended.code} and without a result; see its log{peak}"
    return Status.CRASH, f"{ended.why}: {ended.detail}"


def cleaned(outcome: Outcome) -> Outcome:
    """Return the outcome with secrets and home folders removed from every text that an engine wrote."""
    return msgspec.structs.replace(
        outcome,
        error=outcome.error and redact(outcome.error),
        memory_error=outcome.memory_error and redact(outcome.memory_error),
        trace=outcome.trace and redact(outcome.trace),
        engine=redact_all(outcome.engine),
        telemetry=redact_all(outcome.telemetry),
    )


def scrub(log: Path) -> None:
    """Remove secrets from a finished worker's log, in place; delete an empty log."""
    with (
        contextlib.suppress(OSError),  # a link is not ours, and neither is its target
        os.fdopen(files.open_regular(log, os.O_RDWR, own=True), "r+b") as stream,
    ):
        text = stream.read(LONGEST_LOG).decode("utf-8", errors="replace")
        if not text:
            log.unlink()
        elif (clean := redact(text)) != text:
            stream.seek(0)
            stream.truncate()
            stream.write(clean.encode())
