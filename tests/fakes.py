"""The measuring loop in this process: one cell on the fake engine, by a script, without a worker."""

from __future__ import annotations

from typing import Any

from llmbench.backends import fake
from llmbench.measure import prompts as measure_prompts
from llmbench.measure.loop import Loop, Measurement
from llmbench.measure.telemetry import NoCounters
from llmbench.models.resolve import Model
from llmbench.results.record import Job
from llmbench.spec.sweep import Cell, Protocol

MODEL = Model(
    name="none",
    source="catalogue",
    location=None,
    model_type="llama",
    config={},
    vocab_size=None,
    max_positions=None,
    digest="0",
)


def a_cell(name: str = "cell", *, batch_size: int = 2, output_len: int = 4, **script: Any) -> Cell:
    """Return a cell with 8 prompt tokens whose options are the fake engine's script."""
    return Cell(
        id=name,
        model="none",
        model_digest="0",
        backend="fake",
        options={"clock": "virtual", **script},
        device="cpu",
        dtype="float32",
        load_format="dummy",
        prompts="synthetic",
        batch_size=batch_size,
        input_len=8,
        output_len=output_len,
    )


def quick(**changes: Any) -> Protocol:
    """Return a protocol of three iterations."""
    return Protocol(**{"iterations": 3, "min_time_s": 0.0, "cool_down_s": 0.0, **changes})


def a_job(cell: Cell, protocol: Protocol | None = None, session: int = 1) -> Job:
    return Job(cells=[cell], model=MODEL, protocol=protocol or quick(), session=session)


def measured(cell: Cell, protocol: Protocol | None = None, counters: Any = None) -> Measurement:
    """Run the loop on one cell and return its measurement."""
    job = a_job(cell, protocol)
    engine = fake.load(job)
    prompts = measure_prompts.synthetic(cell, engine, job.protocol.seed, job.session)
    taken = Measurement(cell)
    Loop(engine, job.protocol, prompts, taken, counters or NoCounters(), lambda *_: None).run()
    return taken
