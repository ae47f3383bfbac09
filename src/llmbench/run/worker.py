"""The worker process: reads one job, loads one engine, sends one result per cell, and exits.

    llmbench cell SWEEP.yaml CELL_ID | python -m llmbench.run.worker

An out-of-memory or device error ends the process after its result is sent, because a CUDA context cannot be trusted
after one.
"""

from __future__ import annotations

import importlib
import os
import time
import traceback
from typing import TYPE_CHECKING, Any

import msgspec

from llmbench import backends
from llmbench.errors import LoadFailed, Unsupported
from llmbench.measure import telemetry
from llmbench.measure.loop import Loop, Measurement
from llmbench.redact import redact
from llmbench.results.record import Job, Outcome, Status
from llmbench.run import messages
from llmbench.serve.endpoint import Endpoint
from llmbench.spec.sweep import SYNTHETIC

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmbench.measure.engine import Engine
    from llmbench.measure.prompts import Phase, Workload
    from llmbench.results.record import Given, Served
    from llmbench.spec.sweep import Cell

BY_TYPE = {
    "Unsupported": Status.UNSUPPORTED,
    "LoadFailed": Status.LOAD_FAILED,
    "OutOfMemoryError": Status.OOM,
    "MemoryError": Status.OOM,
    "AcceleratorError": Status.CUDA_ERROR,
    "FailOnRecompileLimitHit": Status.UNSUPPORTED,
}
"""Statuses by the name of an exception's class or a base class; torch's cannot be imported here."""
NO_ROOM = 2
"""CUDA's error code for out of memory, in `error_code` of torch's AcceleratorError, for calls outside torch's
allocator."""
BY_TEXT = (
    ("out of memory", Status.OOM),
    ("cublas_status_alloc_failed", Status.OOM),
    ("cublas_status_not_initialized when calling `cublascreate", Status.OOM),
    ("can't allocate memory", Status.OOM),
    ("cannot allocate memory", Status.OOM),
    ("cuda error", Status.CUDA_ERROR),
    ("cublas_status", Status.CUDA_ERROR),
)
"""Statuses by text, the last resort for engines that raise a bare RuntimeError."""
LONGEST_ERROR = 2000
PROOF, PROMPTS = "llmbench.serve.proof", "llmbench.measure.prompts"


def main() -> None:
    """Run the job on standard input, for use by hand: messages go to standard output, prints to standard error."""
    job = messages.read_line(0)
    out = os.dup(1)
    os.dup2(2, 1)
    work(job, control=0, out=out)


def work(job_line: bytes, *, control: int, out: int) -> None:
    """Do one job. `control` carries the launcher's answers; `out` takes messages."""
    job = msgspec.json.decode(job_line, type=Job)
    messages.send(out, messages.Progress(phase="load"))
    began = time.monotonic()
    try:
        if job.rank and job.rank.number:
            with messages.alive(out):
                backends.hold_rank(job)
            return
        engine = backends.load(job)
    except BaseException as error:  # noqa: BLE001 - whatever it is, it becomes a record
        failed = Outcome(cell=job.cells[0].id, phase="load", **described(error, Status.LOAD_FAILED))
        messages.send(out, messages.CellResult(outcome=failed, last=True))
        return
    # What is made once and kept, such as a file in the engine's format, is no part of loading it.
    load_s = time.monotonic() - began - getattr(engine, "made_s", 0.0)
    for cell in job.cells:
        outcome = measured(engine, cell, job, control, out, load_s)
        sound = outcome.status in (Status.OK, Status.UNSUPPORTED) and not outcome.memory_error
        last = cell is job.cells[-1] or not sound
        messages.send(out, messages.CellResult(outcome=outcome, last=last))
        if last or (job.attended and not may_go_on(control)):
            break
    close = getattr(engine, "close", None)
    if close:
        close()


def measured(
    engine: Engine, cell: Cell, job: Job, control: int, out: int, load_s: float
) -> Outcome:
    """Measure one cell; any exception becomes its outcome, with the samples taken before."""
    taken = Measurement(cell)

    def say(phase: Phase, iteration: int) -> None:
        messages.send(out, messages.Progress(phase=phase, cell=cell.id, iteration=iteration))

    def await_quiet() -> None:
        messages.send(out, messages.Progress(phase="ready", cell=cell.id))
        if not may_go_on(control):
            raise ConnectionError("the launcher is gone")

    began, failed, bytes_per_token = time.monotonic(), {}, None
    try:
        if isinstance(engine, Endpoint):
            served, given = _served(engine, cell, job, taken, say)
            return taken.outcome(
                engine=dict(engine.facts),
                load_s=load_s,
                cell_s=time.monotonic() - began,
                served=served,
                given=given,
            )
        prompts, bytes_per_token = _workload(engine, cell, job)
        places = str(engine.facts.get("param_devices", ""))
        # Of several boxes only the GPUs of this one have counters, and energy is a sum over all.
        device = telemetry.NoCounters() if job.rank else telemetry.counters_of(cell.device, places)
        quiet = await_quiet if job.gated else None
        Loop(engine, job.protocol, prompts, taken, device, say, quiet).run()
    except BaseException as error:  # noqa: BLE001 - whatever it is, it becomes a record
        failed = described(error, Status.CRASH)
        if taken.phase == "memory" and isinstance(error, Exception):  # all timed calls have ended
            failed, taken.phase = {"memory_error": failed["error"]}, None
    cell_s = time.monotonic() - began
    return taken.outcome(
        engine=dict(engine.facts),
        load_s=load_s,
        cell_s=cell_s,
        prompt_bytes_per_token=bytes_per_token,
        **failed,
    )


def prepare(backend: str) -> None:
    """Import what every worker of a backend needs at once; a server's first request waits for nothing else."""
    module = importlib.import_module(f"llmbench.backends.{backend}")
    importlib.import_module(PROOF if hasattr(module, "SERVES") else PROMPTS)


def _served(
    target: Endpoint, cell: Cell, job: Job, taken: Measurement, say: Callable[[Phase, int], None]
) -> tuple[Served, dict[str, Given]]:
    """Put a cell's load on a server, and return the session and its metrics."""
    taken.phase = "warmup"
    say("warmup", 0)
    proof = importlib.import_module(PROOF).Proof(target, job, cell)
    proof.prove(taken)
    session = importlib.import_module("llmbench.serve.session").Session(proof, job, taken, say)
    served: tuple[Served, dict[str, Given]] = session.run()
    return served


def _workload(engine: Engine, cell: Cell, job: Job) -> tuple[Workload, float | None]:
    """Return the prompts of a cell, and for text prompts the bytes per token."""
    from llmbench.measure import prompts as measure_prompts  # noqa: PLC0415 - already there, or not needed

    if cell.prompts == SYNTHETIC:
        return measure_prompts.synthetic(cell, engine, job.protocol.seed, job.session), None
    return measure_prompts.from_text(
        cell, engine, job.protocol.seed, job.session, job.prompts_text or ""
    )


def described(error: BaseException, otherwise: Status) -> dict[str, Any]:
    """Return an exception as fields of an outcome: status, one line, and the traceback."""
    status = classify(error, otherwise)
    expected = isinstance(error, LoadFailed | Unsupported)
    text = " ".join(redact(str(error)).split())[
        :LONGEST_ERROR
    ]  # redact before cutting, because half a secret would not be recognised
    trace = None if expected else redact("".join(traceback.format_exception(error)))
    return {
        "status": status,
        "error": text if expected else f"{type(error).__name__}: {text}",
        "trace": trace and trace[-4 * LONGEST_ERROR :],
    }


def classify(error: BaseException, otherwise: Status) -> Status:
    """Return the status of an exception: by its code or type first, by its text last."""
    if getattr(error, "error_code", None) == NO_ROOM:
        return Status.OOM
    for kind in type(error).__mro__:
        if kind.__name__ in BY_TYPE:
            return BY_TYPE[kind.__name__]
    text = str(error).lower()
    return next((status for words, status in BY_TEXT if words in text), otherwise)


def may_go_on(control: int) -> bool:
    """Wait for the launcher's answer; a closed pipe means that the launcher is gone."""
    return messages.read_line(control) == messages.GO


if __name__ == "__main__":
    main()
